"""The first difference of two files is told in the words of their format."""

import copy
import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from pipeline.verification.differences import differing_field, first_difference

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
JSON = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@given(JSON, JSON)
def test_unequal_values_differ_somewhere_and_equal_ones_nowhere(one: JsonValue, other: JsonValue) -> None:
    assert differing_field(one, copy.deepcopy(one)) is None
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (differing_field(one, other) is None) == same


def test_fields_are_named_by_their_path() -> None:
    expected = {"a": {"b": [1, {"c": 2}]}, "d": 1}
    assert differing_field(expected, {"a": {"b": [1, {"c": 3}]}, "d": 1}) == "field a.b.1.c is 3, and was 2"
    assert differing_field(expected, {"d": 1}) == 'field a is missing, and was {"b": [1, {"c": 2}]}'
    assert differing_field({}, {"auto_map": "x"}) == 'field auto_map is "x", and was not there'
    assert differing_field({"a": True}, {"a": 1}) == "field a is 1, and was true"


def test_spacing_and_lines_are_differences_too(tmp_path: Path) -> None:
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    one.write_text('{"a": 1}')
    other.write_text('{"a":1}')
    assert first_difference(one, other) == "it has the same fields in another order or spacing"
    one, other = tmp_path / "one.md", tmp_path / "other.md"
    one.write_text("a\nb\n")
    other.write_text("a\nc\n")
    assert first_difference(one, other) == 'line 2 is "c"'
    other.write_text("a\n")
    assert first_difference(one, other) == "it has 2 bytes, and had 4"
