"""Mutations of the files of a checkpoint, as hypothesis draws them, and the rule for every answer."""

import json
import re
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from pipeline.errors import SecateurError

FILE = re.compile(r"[\w./-]+\.(json|safetensors|model|txt|jsonl|parquet)\b")
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 2**70, -(2**70), 0.5, float("inf"), float("nan")),
    *("", "abc", "float16", "torch.bfloat16", "auto", "Infinity", "\ud800"),
    *([], [1], ["a"], [[[]]], {}, {"a": 1}, {"rope_type": "abc"}),
)
odd = st.sampled_from(ODD)
small_bytes = st.binary(max_size=6)


class Drawn(bytes):
    """The bytes of a file. hypothesis prints what it draws, and a file of weights would fill the terminal."""

    def __repr__(self) -> str:
        return f"{len(self)} bytes that begin with {bytes(self[:2000])!r}"


@st.composite
def mutated_json(draw: st.DrawFn, original: bytes, *, more: tuple[str, ...] = ()) -> bytes:
    """A JSON object of which one or two fields are missing or odd, or bytes that are no such object. `more`:
    fields that may appear."""
    fields = dict[str, Any](json.loads(original))
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted({*fields, *more})))
        if draw(st.booleans()) and name in fields:
            del fields[name]
        else:
            fields[name] = draw(odd)
    changed = json.dumps(fields).encode()
    whole = st.sampled_from(
        [changed] * 6 + [b"", b"[]", b"null", b'{"a":', b"[" * 5000, b"\xff" + original, b'{"x": 1e999}']
    )
    return Drawn(draw(whole))


@st.composite
def mutated_bytes(draw: st.DrawFn, original: bytes, *, within: int | None = None) -> bytes:
    """Bytes of which a few were replaced, removed or added. `within`: only among the first ones."""
    end = min(within or len(original), len(original))
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 3))):
        at, length = draw(st.integers(0, end)), draw(st.integers(0, 6))
        data[at : at + length] = draw(small_bytes)
    if draw(st.integers(0, 5)) == 0:
        del data[draw(st.integers(0, len(data))) :]
    return Drawn(data)


@st.composite
def mutated_header(draw: st.DrawFn, original: bytes) -> bytes:
    """A safetensors file whose header is still JSON, but says something else."""
    size = int.from_bytes(original[:8], "little")
    header = dict[str, Any](json.loads(original[8 : 8 + size]))
    name = draw(st.sampled_from(sorted(set(header) - {"__metadata__"})))
    match draw(st.sampled_from(["drop", "rename", "entry", "dtype", "shape", "offsets"])):
        case "drop":
            del header[name]
        case "rename":
            header[draw(st.sampled_from(["x", "lm_head.bias", name + ".SCB", ""]))] = header.pop(name)
        case "entry":
            header[name] = draw(odd)
        case "dtype":
            header[name]["dtype"] = draw(odd | st.sampled_from(["I32", "F8_E4M3", "F16", "BOOL"]))
        case "shape":
            shape = header[name]["shape"]
            header[name]["shape"] = draw(odd | st.sampled_from([shape[::-1], [*shape, 1], [-1, -1], [2**40]]))
        case "offsets":
            first, last = header[name]["data_offsets"]
            moved = [[last, first], [first, last + 4], [0, 0]]
            header[name]["data_offsets"] = draw(odd | st.sampled_from(moved))
    written = json.dumps(header).encode()
    return Drawn(len(written).to_bytes(8, "little") + written + original[8 + size :])


def answered(door: Callable[[], object]) -> SecateurError | None:
    """Opens a door. Returns None where it opens, and the refusal where the user is told a file or a field;
    fails for everything else, a traceback among it."""
    refused: SecateurError | None = None
    try:
        door()
    except SecateurError as error:
        refused = error
    if refused is not None:
        assert refused.blame == "user", refused
        named = refused.param or FILE.search(refused.message)
        assert named, f"names neither file nor field: {refused.message}"
    return refused
