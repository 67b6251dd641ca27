"""Rates of products and copies, which the model of pipeline/planning assumes."""

import torch

from gpu_sections.setting import Setting


def rates(setting: Setting) -> dict[str, object]:
    """TFLOP/s of products in bfloat16 and float32 (without TF32), and GB/s of copies: within the device
    (counting bytes read and written), and between host and device, from pinned and from ordinary memory."""
    side, size = (256, 1 << 22) if setting.quick else (8192, 1 << 30)
    found: dict[str, object] = {"side": side, "bytes": size}
    for dtype in (torch.bfloat16, torch.float32):
        a, b = (torch.randn(side, side, device=setting.device, dtype=dtype) for _ in "ab")
        seconds = setting.seconds(lambda a=a, b=b: torch.mm(a, b), times=10)
        found[f"products_{str(dtype).removeprefix('torch.')}_tflops"] = 2 * side**3 / seconds / 1e12
    here = torch.zeros(size, dtype=torch.uint8, device=setting.device)
    there = torch.empty_like(here)
    found["copy_gb_s"] = 2 * size / setting.seconds(lambda: there.copy_(here), times=10) / 1e9
    for name, pinned in (("pinned", True), ("ordinary", False)):
        if pinned and not setting.on_gpu:
            continue
        host = torch.zeros(size, dtype=torch.uint8, pin_memory=pinned)
        up = setting.seconds(lambda host=host: here.copy_(host), times=3)
        down = setting.seconds(lambda host=host: host.copy_(here), times=3)
        found |= {f"{name}_up_gb_s": size / up / 1e9, f"{name}_down_gb_s": size / down / 1e9}
    return found
