"""Methods: the saliency of each weight, and for solvers the new values of the kept ones. One file each; a new
one is a file and a name in one union. Each union contains the one before it: `Ranking` (ranking.py), `Single`
(single.py), `OneShot`, whose methods decide linear by linear, and `Method`, which adds the `Learned` ones."""

from typing import Annotated

from pydantic import Field

from pipeline.methods.composed import Composed
from pipeline.methods.maskllm import MaskLLM
from pipeline.methods.single import Single

OneShot = Annotated[Single | Composed, Field(discriminator="kind")]
Learned = MaskLLM
Method = Annotated[OneShot | Learned, Field(discriminator="kind")]
