"""The numbers of experts that a router can choose from."""

from collections.abc import Mapping

from pydantic import JsonValue

from pipeline.architecture.row import Architecture
from pipeline.errors import InvalidSpec
from pipeline.structure.sizes import Sizes, expert_groups
from pipeline.structure.target import nearest

PER_GROUP = 2  # experts whose scores a router adds up to rank their group


def check_experts(row: Architecture, config: Mapping[str, JsonValue], old: Sizes, new: Sizes) -> None:
    """Raises InvalidSpec, which names the nearest valid numbers, if a token could not get as many experts as
    it does now, or if groups of experts (DeepSeek's `n_group`) would not keep equally many.

    A router with groups first takes the best `topk_group` of them, and then a token's experts from these.
    """
    count, most = new.num_experts, old.num_experts
    if count is None or most is None or count == most:
        return
    per_token, groups = _number(row, config, "num_experts_per_tok"), expert_groups(row, config)
    open_groups = min(_number(row, config, "topk_group"), groups)

    def why(experts: int) -> str | None:
        if experts < per_token:
            return f"is less than num_experts_per_tok={per_token}, the experts of a token"
        if groups == 1:
            return None
        if experts % groups:
            return f"must be a multiple of n_group={groups}, so that every group keeps equally many"
        inside = experts // groups
        if inside < PER_GROUP:
            return (
                f"leaves {inside} expert in each of n_group={groups} groups, which are ranked by their best 2"
            )
        if open_groups * inside < per_token:
            return (
                f"leaves {open_groups * inside} experts in the topk_group={open_groups} groups that a token "
                f"chooses from, and it takes num_experts_per_tok={per_token}"
            )
        return None

    if (problem := why(count)) is not None:
        near = nearest(count, most, lambda n: why(n) is None)
        raise InvalidSpec(
            f"structure.num_experts={count} {problem} (config.json); nearest valid: "
            f"{', '.join(map(str, near))}",
            "spec.structure.num_experts",
        )


def _number(row: Architecture, config: Mapping[str, JsonValue], field: str) -> int:
    value = row.read(config, field)
    return value if isinstance(value, int) and not isinstance(value, bool) else 1
