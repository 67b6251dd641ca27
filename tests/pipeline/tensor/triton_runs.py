"""The part of the Triton kernels' tests that runs in a process of its own.

python -m tests.pipeline.tensor.triton_runs compare DEVICE CASES, or compile "" CASES; it prints outcomes as
JSON.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pipeline.tensor import soft_masks, soft_masks_triton
from pipeline.tensor.soft_masks import Draw, candidates, key_of, masked_weight, noise_bits, noise_factors

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
POINTERS = {"masks_CM": "*u8", "keys_K2": "*i32", "squares_P": "*fp32", "gradient_squares": "*fp32"}
NUMBERS = {"groups": "i32", "scale": "fp32", "temperature": "fp32"}


def compare(keep: int, group: int, kind: str, shape: tuple[int, int], device: str) -> dict[str, float]:
    """The largest differences from the plain computation on the CPU, in units of the largest number."""
    generator = torch.Generator().manual_seed(0)
    masks_CM = candidates(keep, group)
    weight_OI = torch.randn(shape[::-1], generator=generator).to(TYPES[kind]).t()
    logits_CG = torch.randn(len(masks_CM), weight_OI.numel() // group, generator=generator) * 0.01
    logits_CG = logits_CG.to(TYPES[kind]).requires_grad_()
    gradient_OI = torch.randn(shape, generator=generator).to(TYPES[kind])
    draw = Draw(scale=120.0, temperature=0.7, key=None if group == 7 else key_of(group))
    expected = forward_and_backward(weight_OI, logits_CG, masks_CM, draw, gradient_OI)

    given = [one.detach().to(device) for one in (weight_OI, logits_CG, masks_CM)]
    masked_OI, squares = soft_masks_triton.masked_weight(*given, draw)
    toward_squares = torch.tensor(-0.3, device=device)
    result_CG = soft_masks_triton.logits_gradient(gradient_OI.to(device), toward_squares, *given, draw)
    ours = (masked_OI, squares, result_CG)
    if device == "cuda":
        given[1].requires_grad_()
        chosen_by_device = forward_and_backward(*given, draw, gradient_OI.to(device))
        assert all(torch.equal(one, other) for one, other in zip(ours, chosen_by_device, strict=True))
    assert all(one.dtype == other.dtype for one, other in zip(ours, expected, strict=True))
    names = ("masked", "squares", "gradient")
    return {
        name: float((one.cpu().float() - other.float()).abs().max() / other.float().abs().max())
        for name, one, other in zip(names, ours, expected, strict=True)
    }


def forward_and_backward(
    weight_OI: Tensor, logits_CG: Tensor, masks_CM: Tensor, draw: Draw, gradient_OI: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    masked_OI, squares = masked_weight(weight_OI, logits_CG, masks_CM, draw)
    torch.autograd.backward((masked_OI, squares), (gradient_OI, torch.full_like(squares, -0.3)))
    assert logits_CG.grad is not None
    return masked_OI.detach(), squares.detach(), logits_CG.grad


@triton.jit
def bits_kernel(places, factors, bits, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    """A kernel that calls `random_bits` alone."""
    own = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    place = tl.load(places + own)
    multiplier = tl.load(factors).to(tl.uint32, bitcast=True)
    addend = tl.load(factors + 1).to(tl.uint32, bitcast=True)
    x = soft_masks_triton.random_bits(place, multiplier, addend)
    tl.store(bits + own, x.to(tl.int32, bitcast=True))


def differing_bits(device: str) -> int:
    """The number of places, of 70 times 1024, whose noise differs from the CPU's, summed over a few keys."""
    differing = 0
    place_C1 = torch.arange(70, dtype=torch.int32)[:, None] * soft_masks.CHUNK
    place_Cn = (place_C1 + torch.arange(1024, dtype=torch.int32)).to(device)
    for key in (0, 99, 2**64 - 1, key_of(3, "one")):
        bits_Cn = torch.empty_like(place_Cn)
        factors = torch.tensor(noise_factors(key), dtype=torch.int32, device=device)
        bits_kernel[(len(place_Cn),)](place_Cn, factors, bits_Cn, SIZE=1024)
        differing += int((bits_Cn.cpu() != noise_bits(torch.empty(place_Cn.shape), key)).sum())
    return differing


def compiled(keep: int, group: int, kind: str, capability: int) -> dict[str, dict[str, int]]:
    """The resources that each kernel takes on a GPU of this capability, as ptxas reports, and the counts of
    some of its instructions."""
    masks_CM = candidates(keep, group)
    sizes = soft_masks_triton.constants(masks_CM, Draw(1.0, 1.0, 1))
    options = {"num_warps": sizes.pop("num_warps")}
    taken = {}
    for kernel in (soft_masks_triton.masked_weight_kernel, soft_masks_triton.logits_gradient_kernel):
        types = {
            name: "constexpr" if name in sizes else NUMBERS.get(name) or POINTERS.get(name, f"*{kind}")
            for name in kernel.arg_names
        }
        aligned = {
            (number,): [["tt.divisibility", 16]]
            for number, name in enumerate(kernel.arg_names)
            if types[name].startswith("*") or name == "groups"
        }
        source = ASTSource(kernel, types, sizes, aligned)
        done = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        ptx = done.asm["ptx"]
        said = assembled(ptx, capability)
        (registers,) = re.findall(r"Used (\d+) registers", said)
        (spilled,) = re.findall(r"(\d+) bytes spill stores", said)
        taken[kernel.__name__] = {
            "registers": int(registers),
            "spilled": int(spilled),
            "shared": done.metadata.shared,
            "rounded": ptx.count("cvt.rn.bf16"),
            "approximate logarithms": ptx.count("lg2.approx"),
        }
    return taken


def assembled(ptx: str, capability: int) -> str:
    """The resources that ptxas reports for a kernel."""
    ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    target = f"sm_{capability}" + ("a" if capability >= 90 else "")
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [ptxas, "-v", "--gpu-name", target, file.name, "-o", "/dev/null"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def main(what: str, device: str, cases: str) -> None:
    found: dict[str, object] = {}
    for case in json.loads(cases):
        keep, group, kind, *rest = case
        if what == "compare":
            found[str(case)] = compare(keep, group, kind, (rest[0], rest[1]), device)
        else:
            found[str(case)] = compiled(keep, group, kind, rest[0])
    if what == "compare":
        found["differing bits"] = differing_bits(device)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
