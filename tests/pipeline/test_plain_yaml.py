"""YAML from outside is read in bounded time and memory, and otherwise as PyYAML reads it."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InvalidSpec
from pipeline.evaluation.task_files import read_task_files
from pipeline.plain_yaml import MAX_VALUES, read_yaml
from pipeline.request.spec_files import SpecError, load_document

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


def laughs(levels: int, *, merged: bool = False) -> str:
    """Each level stands for the one before it nine times."""
    lines = ["a0: &a0 {x: 1}" if merged else "a0: &a0 [lol]"]
    for level in range(1, levels):
        aliases = ", ".join(f"*a{level - 1}" for _ in range(9))
        lines.append(
            f"a{level}: &a{level} {{<<: [{aliases}]}}" if merged else f"a{level}: &a{level} [{aliases}]"
        )
    return "\n".join(lines)


@given(VALUES)
def test_reads_what_pyyaml_reads(value: object) -> None:
    text = yaml.safe_dump(value)
    assert read_yaml(text) == yaml.safe_load(text)


def test_a_few_aliases_are_fine() -> None:
    text = "base: &base {a: 1}\nmore: {<<: *base, b: 2}\nsame: *base"
    assert read_yaml(text) == yaml.safe_load(text)


def test_no_document() -> None:
    assert read_yaml("") is None


@pytest.mark.parametrize("merged", [False, True])
def test_billion_laughs_end_at_once(merged: bool) -> None:
    text = laughs(12, merged=merged)
    assert len(text) < 900
    with pytest.raises(yaml.YAMLError, match=f"more than {MAX_VALUES} values"):
        read_yaml(text)


def test_an_alias_of_itself() -> None:
    with pytest.raises(yaml.YAMLError, match="contains itself"):
        read_yaml("a: &a [*a]")


def test_where_users_meet_it(tmp_path: object) -> None:
    path = f"{tmp_path}/spec.yaml"
    with open(path, "w") as file:
        file.write(laughs(12))
    with pytest.raises(SpecError, match="values"):
        load_document(path, [])
    with pytest.raises(InvalidSpec, match=r"x\.yaml is not YAML: .* values"):
        read_task_files({"x.yaml": laughs(12).encode()}, present=())
