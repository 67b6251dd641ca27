"""MaskLLM learns N:M masks end to end on frozen weights (Fang et al., arXiv 2409.17481)."""

from typing import Literal

from pipeline.methods.learned import LearnedMethod


class MaskLLM(LearnedMethod):
    """Each group learns which of its candidate masks to draw. Kept weights stay as they are, to the bit.

    `prior`: the masks that learning starts from; without one it starts from random logits. `prior_strength`:
    a candidate's logit rises by 0.01 times this value for each weight that both it and the prior keep.
    """

    kind: Literal["maskllm"] = "maskllm"
