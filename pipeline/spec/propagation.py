"""The activations on which a block is measured before it is pruned."""

from typing import Literal

Propagation = Literal["pruned", "linear", "dense"]
