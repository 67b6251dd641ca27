"""A directory with a tiny model and texts, specs that name them, and what a recovery adds to a spec."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InvalidRequest
from pipeline.request.prune_spec import PruneSpec
from pipeline.resolve.resolve import resolve
from pipeline.sources import SourceAccess
from pipeline.sources.pins import Pins
from tests.models import tiny_text

MODEL = "spec.model.source"


class Place:
    """A directory with models and texts, and specs that name them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = root / "model"
        self.text = tiny_text(root)
        self.access = SourceAccess(allowed_roots=(root,))

    def spec(self, **changes: Any) -> PruneSpec:
        text = {"source": f"file:{self.text}", "sequence_length": 32}
        return PruneSpec.model_validate(
            {
                "model": {"source": f"file:{self.model}"},
                "calibration": text | {"samples": 16},
                "prune": {"method": {"kind": "wanda"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}},
                "evaluation": {"perplexity": [text]},
            }
            | changes
        )

    def resolve(self, **changes: Any) -> Pins:
        return resolve(self.spec(**changes), self.access)

    def edit(self, name: str, **fields: Any) -> None:
        path = self.model / name
        content = json.loads(path.read_text()) | fields
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))

    def refusal(self, kind: type[InvalidRequest], param: str, **changes: Any) -> str:
        with pytest.raises(kind) as caught:
            self.resolve(**changes)
        assert caught.value.code == kind.code
        assert caught.value.param == param
        return caught.value.message


def recovering(place: Place, **changes: Any) -> dict[str, Any]:
    """The part of a spec that asks for a recovery; `changes` are to the usual one."""
    text = {"source": f"file:{place.text}", "sequence_length": 32, "validation_sequences": 8}
    recovery = {"text": text, "steps": 4, "global_batch_size": 4, "learning_rate": {"warmup_steps": 1}}
    changes["text"] = text | changes.get("text", {})
    return {"recovery": recovery | changes}


def distilled(**objective: Any) -> dict[str, Any]:
    """The part of a recovery that asks for distillation."""
    return {"objective": {"kind": "distillation", **objective}}
