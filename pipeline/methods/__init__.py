"""Methods: the saliency of each weight. One file each; a new one is a file and a name in this union."""

from typing import Annotated

from pydantic import Field

from pipeline.methods.magnitude import Magnitude
from pipeline.methods.wanda import Wanda

Method = Annotated[Magnitude | Wanda, Field(discriminator="kind")]
