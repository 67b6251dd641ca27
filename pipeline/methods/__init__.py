"""Methods give the saliency of each weight, and solvers new values of the kept ones. Each method is one file;
a new one is a file and a name in one union. Each union contains the one before it: `Ranking` (ranking.py),
`Single` (single.py), `OneShot`, whose methods prune linear by linear, and `Method`, which adds `Learned`."""

from typing import Annotated

from pydantic import Field

from pipeline.methods.composed import Composed
from pipeline.methods.gptq import GptqRounding
from pipeline.methods.maskllm import MaskLLM
from pipeline.methods.single import Single

OneShot = Annotated[Single | Composed, Field(discriminator="kind")]
BlockMethod = OneShot | GptqRounding  # what a walk over the blocks applies to their linears
Learned = MaskLLM
Method = Annotated[OneShot | Learned, Field(discriminator="kind")]
