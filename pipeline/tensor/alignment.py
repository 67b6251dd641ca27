"""The inner channels of one expert in the order of another's.

Shape legend: F inner channels, N weights of a channel.
"""

import torch
from torch import Tensor


def alignment(reference_FN: Tensor, other_FN: Tensor) -> Tensor:
    """Returns the order [F] in which the channels of `other_FN` are most like those of `reference_FN`: the
    sum of inner products of the channels that meet is the largest possible.

    What an expert computes does not depend on the order of its channels, but a mean of two experts does. For
    one hidden layer between the same inputs and outputs, this assignment is the whole of weight matching (Git
    Re-Basin, arXiv 2209.04836).
    """
    from scipy.optimize import linear_sum_assignment  # it takes a second to import

    alike_FF = reference_FN.double() @ other_FN.double().t()
    _, order = linear_sum_assignment(alike_FF.cpu().numpy(), maximize=True)
    return torch.from_numpy(order).to(torch.long)
