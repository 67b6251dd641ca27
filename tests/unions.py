"""Lists the classes of a discriminated union."""

from typing import Any, get_args


def members(union: Any) -> tuple[type[Any], ...]:
    """The classes of a union in their order, including those of the unions in it."""
    if isinstance(union, type):
        return (union,)
    inner = get_args(union)[:1] if hasattr(union, "__metadata__") else get_args(union)
    return tuple(member for one in inner for member in members(one))
