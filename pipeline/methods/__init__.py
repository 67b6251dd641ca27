"""Methods: the saliency of each weight, and for solvers the new values of the kept ones. One file each; a new
one is a file and a name in a union. `OneShot` methods decide linear by linear; others are trained."""

from typing import Annotated

from pydantic import Field

from pipeline.methods.admm import Admm
from pipeline.methods.composed import Composed
from pipeline.methods.dsnot import Dsnot
from pipeline.methods.magnitude import Magnitude
from pipeline.methods.maskllm import MaskLLM
from pipeline.methods.ria import Ria
from pipeline.methods.sparsegpt import SparseGPT
from pipeline.methods.wanda import Wanda

OneShot = Annotated[
    Magnitude | Wanda | Ria | SparseGPT | Admm | Dsnot | Composed, Field(discriminator="kind")
]
Method = Annotated[
    Magnitude | Wanda | Ria | SparseGPT | Admm | Dsnot | Composed | MaskLLM, Field(discriminator="kind")
]
