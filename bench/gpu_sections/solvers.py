"""The seconds in which each method decides a wide matrix.

Shape legend: O out_features, I in_features, T tokens.
"""

import torch

from gpu_sections.setting import Setting
from pipeline.methods import OneShot
from pipeline.methods.admm import Admm
from pipeline.methods.composed import Composed
from pipeline.methods.dsnot import Dsnot
from pipeline.methods.magnitude import Magnitude
from pipeline.methods.ria import Ria
from pipeline.methods.sparsegpt import SparseGPT
from pipeline.methods.wanda import Wanda
from pipeline.planning.machine import cpus, gpu_of
from pipeline.planning.shape import Group
from pipeline.planning.solving import solving
from pipeline.spec.patterns import NM, Pattern, Unstructured
from pipeline.tensor.statistics import LinearStatistics

METHODS: tuple[OneShot, ...] = (
    Magnitude(),
    Wanda(),
    Wanda(variant=True),
    Ria(),
    Dsnot(),
    SparseGPT(),
    Admm(),
    Composed(),
)


def solvers(setting: Setting) -> dict[str, object]:
    """Seconds by method and pattern at 4096 x 11008, beside what the model of pipeline/planning expects."""
    outer, inner = (64, 128) if setting.quick else (4096, 11008)
    weight_OI = torch.randn(outer, inner, device=setting.device).to(setting.dtype)
    statistics = random_statistics(inner, device=setting.device)
    machine = gpu_of(None) if setting.on_gpu else cpus(torch.get_num_threads())
    found: dict[str, object] = {"out_features": outer, "in_features": inner}
    for method in METHODS:
        variant = isinstance(method, Wanda) and method.variant
        patterns: dict[str, Pattern] = {"50 %": Unstructured(sparsity=0.5)}
        if not variant:
            patterns["2:4"] = NM(keep=2, group=4)
        for name, pattern in patterns.items():
            seconds = setting.seconds(lambda m=method, p=pattern: m.choose(weight_OI, statistics, p))
            found[f"{method.kind}{' variant' if variant else ''} {name}"] = {
                "seconds": seconds,
                "expected": solving(method, Group(inner, (outer,)), machine),
            }
    return found


def random_statistics(features: int, *, device: torch.device) -> LinearStatistics:
    """Statistics of random tokens, all that any method needs."""
    samples, tokens = 4, 2 * features
    x_TI = torch.randn(tokens, features, device=device)
    return LinearStatistics(
        input_norm_I=(x_TI.square().sum(dim=0) / samples).sqrt(),
        samples=samples,
        tokens=tokens,
        input_mean_I=x_TI.mean(dim=0),
        input_variance_I=x_TI.var(dim=0),
        hessian_II=2 / samples * x_TI.t() @ x_TI,
    )
