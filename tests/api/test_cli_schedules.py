"""`secateur schedules` and `secateur aliases` against a real service."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import Result

from api.settings import Settings
from tests.api.scheduling import Scene, scene, template
from tests.api.terminal import cli
from tests.models import tiny_checkpoint, tiny_text

pytestmark = pytest.mark.servers


@pytest.fixture
def place(make_settings: Callable[..., Settings], tmp_path: Path) -> Iterator[Scene]:
    """A service that may read files below `models`."""
    tiny_text(tmp_path / "models")
    with scene(make_settings(allowed_roots=(tmp_path / "models",)), tmp_path / "models") as made:
        yield made


def test_a_night_from_the_terminal(place: Scene, tmp_path: Path) -> None:
    def run(*arguments: str, expect: int = 0) -> Result:
        result = cli(*arguments, url=place.api.url)
        assert result.exit_code == expect, result.output
        return result

    assert run("schedules", "list").stdout == "no schedules\n"
    assert run("aliases").stdout == "no aliases\n"
    path = place.root / "nightly.yaml"
    watch = {"source": "file:arrivals"}  # from the directory of the file
    document = {"name": "nightly", "on_new_checkpoint": watch, "template": template(place.root)}
    path.write_text(yaml.safe_dump(document))
    gates = ("--set", 'gates=["perplexity <= 3 * dense"]', "--set", "alias=prod")
    made = run("schedules", "create", str(path), *gates)
    assert f"new below file:{place.root}/arrivals" in made.stdout
    assert "perplexity <= 3 * dense" in made.stdout
    assert "nightly" in run("schedules", "list").stdout
    bad = run("schedules", "create", str(path), "--set", "gates=['perplexity < ']", expect=2)
    assert bad.stderr.startswith("error: gates.0 is refused: got 'perplexity <'; write METRIC OP BOUND")

    shutil.copytree(tiny_checkpoint("llama", tmp_path / "made"), place.root / "arrivals" / "half")
    (place.root / "arrivals" / "half" / "config.json").unlink()
    nothing = run("schedules", "run", "nightly").stdout
    assert nothing.startswith("nothing new is complete\n")
    assert "incomplete" in nothing
    shutil.copytree(tmp_path / "made", place.root / "arrivals" / "step-1")
    (fired,) = json.loads(run("schedules", "run", "nightly", "--json").stdout)
    assert (fired["cause"], fired["outcome"]) == ("manual", "running")
    place.succeed(fired["job"])
    place.round(seconds=60)
    history = run("schedules", "history", "nightly").stdout
    assert "promoted" in history
    assert "perplexity.wiki.txt 43.1" in history
    shown = run("schedules", "show", "nightly").stdout
    assert all(word in shown for word in ("known", "promoted", "incomplete", "no config.json"))
    assert fired["job"] in run("aliases").stdout
    assert json.loads(run("aliases", "prod", "--json").stdout) == place.pointer("prod")
    assert "did you mean 'prod'?" in run("aliases", "prd", expect=1).stderr
    target = tmp_path / "fetched"
    assert str(target / "config.json") in run("download", "prod", str(target), "--alias").stdout

    assert run("schedules", "pause", "nightly").stdout == "nightly is paused\n"
    assert "paused" in run("schedules", "list").stdout
    assert run("schedules", "resume", "nightly").stdout == "nightly continues\n"
    assert run("schedules", "delete", "nightly").stdout == "nightly is deleted\n"
    assert "there is no schedule nightly" in run("schedules", "show", "nightly", expect=1).stderr
