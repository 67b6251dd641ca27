"""A checkpoint below a prefix is taken when it is complete and still, and never before."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import InvalidSpec, SourceNotAllowed
from pipeline.resolve.watching import Rules, Sight, State, candidates, look, natural_order
from pipeline.sources import SourceAccess, open_source
from pipeline.sources.tree import open_tree
from tests.models import tiny_checkpoint

START = datetime(2026, 1, 1, tzinfo=UTC)
STILL = Rules(look_seconds=60)
MARKED = Rules(look_seconds=60, ready_marker="_SUCCESS")


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint of several shards."""
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("sharded") / "model", max_shard_size="100KB")


@dataclass
class Watcher:
    """Looks at a directory again and again; the clock goes only when it is told to."""

    root: Path
    rules: Rules = STILL
    needs_tokenizer: bool = True
    now: datetime = START
    seen: dict[str, Sight] = field(default_factory=dict)

    def look(self, *, after: float = 0) -> dict[str, State]:
        """States by path below the root."""
        self.now += timedelta(seconds=after)
        access = SourceAccess(allowed_roots=(self.root,))
        directories = candidates(open_tree(f"file:{self.root}", access).tree())
        self.seen = {
            one.uri: look(
                one,
                partial(open_source, one.uri, access),
                before=self.seen.get(one.uri),
                now=self.now,
                rules=self.rules,
                needs_tokenizer=self.needs_tokenizer,
            )
            for one in directories
        }
        return {
            os.path.relpath(uri.removeprefix("file:"), self.root): one.state for uri, one in self.seen.items()
        }

    def only(self) -> Sight:
        (sight,) = self.seen.values()
        return sight


def put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def edit(directory: Path, **fields: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_two_looks_far_enough_apart(tmp_path: Path, sharded: Path) -> None:
    shutil.copytree(sharded, tmp_path / "deep" / "down" / "step-1")
    watcher = Watcher(tmp_path)
    assert watcher.look() == {"deep/down/step-1": "settling"}
    assert "60 s" in str(watcher.only().reason)
    assert watcher.look(after=59) == {"deep/down/step-1": "settling"}
    assert watcher.look(after=1) == {"deep/down/step-1": "ready"}
    assert watcher.only().since == START


def test_a_change_starts_the_wait_again(tmp_path: Path, sharded: Path) -> None:
    shutil.copytree(sharded, tmp_path / "m")
    watcher = Watcher(tmp_path)
    watcher.look()
    edit(tmp_path / "m", note="trained longer")
    assert watcher.look(after=60) == {"m": "settling"}
    assert watcher.look(after=60) == {"m": "ready"}
    before = watcher.only().digest
    (tmp_path / "m" / "README.md").write_text("no part of what is read")
    assert watcher.look(after=1) == {"m": "ready"}
    assert watcher.only().digest == before


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(data=st.data())
def test_never_half_way_whatever_comes_first(
    tmp_path_factory: pytest.TempPathFactory, sharded: Path, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("arriving")
    order = data.draw(st.permutations(sorted(path.name for path in sharded.iterdir())))
    needed = {name for name in order if name.endswith((".safetensors", ".index.json"))}
    needed |= {"config.json", "tokenizer.json"}
    watcher = Watcher(root)
    for name in order:
        put(sharded / name, root / "m" / name)
        there = {path.name for path in (root / "m").iterdir()}
        watcher.look()
        states = watcher.look(after=60)  # nothing moves for a whole minute
        assert set(states.values()) <= ({"ready"} if needed <= there else {"incomplete"})
    assert watcher.only().state == "ready"


def test_with_a_marker_completeness_is_enough_and_needed(tmp_path: Path, sharded: Path) -> None:
    watcher = Watcher(tmp_path, rules=MARKED)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "_SUCCESS").touch()
    assert watcher.look() == {}
    last = "tokenizer.json"
    for name in sorted({path.name for path in sharded.iterdir()} - {last}):
        put(sharded / name, tmp_path / "m" / name)
    assert watcher.look() == {"m": "incomplete"}
    put(sharded / last, tmp_path / "m" / last)
    assert watcher.look() == {"m": "ready"}
    (tmp_path / "m" / "_SUCCESS").unlink()
    assert watcher.look(after=1000) == {"m": "settling"}
    assert "_SUCCESS does not lie there yet" in str(watcher.only().reason)


def test_a_tokenizer_only_where_it_is_needed(tmp_path: Path, sharded: Path) -> None:
    shutil.copytree(sharded, tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").unlink()
    assert Watcher(tmp_path).look() == {"m": "incomplete"}
    assert Watcher(tmp_path, needs_tokenizer=False).look() == {"m": "settling"}


@pytest.mark.parametrize(
    ("damage", "state", "told"),
    [
        (lambda m: edit(m, quantization_config={"quant_method": "gptq"}), "unusable", "quantized (gptq)"),
        (lambda m: edit(m, model_type="x", auto_map={"AutoModel": "x.Y"}), "unusable", "auto_map"),
        (lambda m: edit(m, model_type="lama"), "unusable", "known types: apertus"),
        (lambda m: [p.rename(p.with_suffix(".bin")) for p in m.glob("*.safetensors")], "unusable", "pickle"),
        (lambda m: (m / "config.json").write_text('{"model_ty'), "incomplete", "is not JSON"),
        (lambda m: (m / "model.safetensors.index.json").unlink(), "incomplete", "shards cannot be told"),
        (lambda m: next(iter(m.glob("*.safetensors"))).unlink(), "incomplete", "lacks 1 of the"),
    ],
)
def test_what_cannot_be_taken_says_why(
    tmp_path: Path, sharded: Path, damage: Callable[[Path], Any], state: State, told: str
) -> None:
    shutil.copytree(sharded, tmp_path / "m")
    damage(tmp_path / "m")
    watcher = Watcher(tmp_path)
    assert watcher.look() == {"m": state}
    assert told in str(watcher.only().reason)
    watcher.look(after=600)
    assert watcher.only().since == START


def test_copies_have_one_digest(tmp_path: Path, sharded: Path) -> None:
    for name in ("a", "b/c"):
        shutil.copytree(sharded, tmp_path / name)
    watcher = Watcher(tmp_path)
    watcher.look()
    digests = {one.digest for one in watcher.seen.values()}
    assert len(digests) == 1
    edit(tmp_path / "a", note="another")
    watcher.look()
    assert len({one.digest for one in watcher.seen.values()}) == 2


def test_what_has_not_changed_is_not_read_again(tmp_path: Path, sharded: Path) -> None:
    shutil.copytree(sharded, tmp_path / "m")
    watcher = Watcher(tmp_path)
    watcher.look()
    for path in (tmp_path / "m").iterdir():  # the same names, sizes and times, and nothing to read
        found = path.stat()
        path.write_bytes(bytes(found.st_size))
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert watcher.look(after=60) == {"m": "ready"}


def test_trees_of_files(tmp_path: Path) -> None:
    access = SourceAccess(allowed_roots=(tmp_path / "inside",))
    inside = tmp_path / "inside"
    (inside / "x" / "y").mkdir(parents=True)
    (inside / "x" / "y" / "f").write_text("12345")
    (inside / "g").write_text("")
    (inside / "loop").symlink_to(inside)
    (inside / "gone").symlink_to(inside / "nowhere")
    os.mkfifo(inside / "pipe")
    (inside / os.fsdecode(b"\xff")).mkdir()
    (inside / os.fsdecode(b"\xff") / "f").write_text("no URI names it")
    tree = open_tree(f"file:{inside}", access).tree()
    assert [(one.uri, sorted(one.names)) for one in tree] == [
        (f"file:{inside}", ["g"]),
        (f"file:{inside}/x/y", ["f"]),
    ]
    assert tree[1].files[0].size == 5
    assert open_tree(f"file:{inside}/not-yet", access).tree() == ()
    with pytest.raises(SourceNotAllowed, match="allowed root"):
        open_tree(f"file:{tmp_path}", access).check()
    with pytest.raises(InvalidSpec, match="nothing arrives below it"):
        open_tree("hub:org/name", access)


def test_masks_and_exports_of_a_published_checkpoint_are_no_checkpoints(
    tmp_path: Path, sharded: Path
) -> None:
    watcher = Watcher(tmp_path)
    shutil.copytree(sharded, tmp_path / "published")
    (tmp_path / "published" / "masks").mkdir()
    (tmp_path / "published" / "masks" / "masks.safetensors").touch()
    for name, file in (
        ("llama.cpp", "model.gguf"),
        ("openvino", "model.bin"),
        ("sparse", "config.json"),
    ):
        (tmp_path / "published" / name).mkdir()
        (tmp_path / "published" / name / file).touch()
    assert watcher.look() == {"published": "settling"}
    assert watcher.look(after=60) == {"published": "ready"}


def test_natural_order() -> None:
    names = ["step-1000", "step-200", "step-200/b", "final", "step-9"]
    assert sorted(names, key=natural_order) == ["final", "step-9", "step-200", "step-200/b", "step-1000"]
