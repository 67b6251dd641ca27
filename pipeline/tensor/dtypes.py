"""The number types of a spec as torch's."""

from collections.abc import Mapping

import torch

from pipeline.spec.model import Dtype

TORCH_DTYPES: Mapping[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
