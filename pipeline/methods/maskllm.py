"""MaskLLM: N:M masks that are learned end to end, the weights frozen (Fang et al., arXiv 2409.17481)."""

from typing import Literal

from pipeline.methods.learned import LearnedMethod


class MaskLLM(LearnedMethod):
    """Each group learns which of its candidate masks it draws; weights that are kept stay as they are, to the
    bit. `prior`: where learning begins; none: anywhere. `prior_strength`: a candidate's logit rises by 0.01
    times it with each weight that it keeps as the prior does.
    """

    kind: Literal["maskllm"] = "maskllm"
