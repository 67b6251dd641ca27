"""The seconds in which a method decides a linear, and the bytes that it takes while it does.

With O out_features, I in_features and L linears of a group:

    ranking      40 passes over 4 bytes of each weight (a sort; 7.5 ns a weight were measured on 2 cores)
    DSnoT        the ranking, and two passes over a weight for each of its cycles
    SparseGPT    2·I³ FLOP for the factors, O·I² for the compensation
    ADMM         I³ FLOP for the inverse, 2·O·I² for each iteration
    composed     both of its parts
"""

from pipeline.methods import OneShot
from pipeline.methods.admm import Admm
from pipeline.methods.composed import AdmmUpdate, Composed
from pipeline.methods.dsnot import Dsnot
from pipeline.methods.sparsegpt import SparseGPT
from pipeline.planning.machine import Machine
from pipeline.planning.shape import BlockShape, Group

RANKING_PASSES, EXCHANGE_PASSES = 40, 2
FLOAT = 4


def solving(method: OneShot, group: Group, machine: Machine) -> float:
    """The seconds for all linears of one group, on one worker."""
    return sum(_linear(method, group.in_features, out, machine) for out in group.out_features)


def _linear(method: OneShot, inner: int, outer: int, machine: Machine) -> float:
    ranked = RANKING_PASSES * FLOAT * inner * outer / machine.bandwidth
    match method:
        case Composed():
            return _linear(method.mask_from, inner, outer, machine) + _update(method, inner, outer, machine)
        case SparseGPT():
            return _obs(inner, outer, machine)
        case Admm():
            return _admm(method.iterations, inner, outer, machine)
        case Dsnot():
            passes = EXCHANGE_PASSES * method.cycles
            return ranked + passes * FLOAT * inner * outer / machine.bandwidth
        case _:
            return ranked


def _update(method: Composed, inner: int, outer: int, machine: Machine) -> float:
    if isinstance(method.update, AdmmUpdate):
        return _admm(method.update.iterations, inner, outer, machine)
    return _obs(inner, outer, machine)


def _obs(inner: int, outer: int, machine: Machine) -> float:
    return (2 * inner**3 + outer * inner**2) / machine.solving


def _admm(iterations: int, inner: int, outer: int, machine: Machine) -> float:
    return (inner**3 + 2 * iterations * outer * inner**2) / machine.solving


def changes_values(method: OneShot) -> bool:
    """Tells whether the kept weights get new values."""
    return isinstance(method, Composed | SparseGPT | Admm)


def grams(block: BlockShape) -> int:
    """The bytes of Σ xᵀx of all groups of a block, in float32."""
    return sum(FLOAT * group.in_features**2 * group.count for group in block.groups)


def solver_memory(method: OneShot, block: BlockShape) -> int:
    """The bytes that deciding the largest linear takes: the weights, their saliency and its order; with a
    Hessian, its damped copy and both factors."""
    inner, outer = block.largest.in_features, max(block.largest.out_features)
    factors = 3 * FLOAT * inner**2 if "hessian" in method.needs else 0
    return 4 * FLOAT * inner * outer + factors
