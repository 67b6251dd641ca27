"""Files of masks are pinned, whether learning begins with them or masks are compared with them."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.errors import SourceNotAllowed, SourceNotFound
from pipeline.request.prune_spec import PruneSpec
from tests.pipeline.resolve.place import Place


def stored_masks(source: str) -> dict[str, Any]:
    """A pruning that learns masks from stored ones."""
    text = {"source": "file:/nowhere.txt", "sequence_length": 32}
    training = {"text": text, "steps": 200, "global_batch_size": 1}
    method = {"kind": "maskllm", "prior": {"kind": "stored", "source": source}, "training": training}
    return {"method": method, "pattern": {"kind": "nm", "keep": 2, "group": 4}}


def test_stored_masks_are_pinned_as_one_file(place: Place, tmp_path_factory: pytest.TempPathFactory) -> None:
    masks = place.root / "published" / "masks" / "masks.safetensors"
    masks.parent.mkdir(parents=True)
    masks.write_bytes(b"what they are is looked at when they are imported")

    def asked(path: Path) -> dict[str, Any]:
        prune = stored_masks(f"file:{path}")
        prune["method"]["training"]["text"]["source"] = f"file:{place.text}"
        return prune

    pins = place.resolve(prune=asked(masks))
    [prior] = pins.of("spec.prune.method.prior.source").files
    assert (prior.path, prior.size) == ("masks.safetensors", 49)
    assert prior.tag.startswith("sha256:")
    assert pins.of("spec.prune.method.training.text.source").files

    field = "spec.prune.method.prior.source"
    said = place.refusal(SourceNotFound, field, prune=asked(place.model))
    assert "is no file of masks; name masks/masks.safetensors of a published checkpoint" in said
    assert "is no file of masks" in place.refusal(SourceNotFound, field, prune=asked(place.text))
    missing = masks.with_name("none.safetensors")
    assert "does not exist" in place.refusal(SourceNotFound, field, prune=asked(missing))
    outside = tmp_path_factory.mktemp("outside") / "masks.safetensors"
    outside.touch()
    assert "allowed root" in place.refusal(SourceNotAllowed, field, prune=asked(outside))


def test_masks_to_compare_with_are_pinned_in_their_order(place: Place) -> None:
    files = [place.root / f"{name}.safetensors" for name in ("code", "law")]
    for file in files:
        file.write_bytes(file.name.encode())

    def asked(*paths: Path) -> dict[str, Any]:
        named = [{"name": path.stem, "source": f"file:{path}"} for path in paths]
        return {
            "method": {"kind": "magnitude"},
            "pattern": {"kind": "nm", "keep": 2, "group": 4},
            "compare_with": named,
        }

    pins = place.resolve(prune=asked(*files))
    compared = [pins.of(f"spec.prune.compare_with.{i}.source") for i in range(2)]
    assert [pin.files[0].path for pin in compared] == ["code.safetensors", "law.safetensors"]
    field = "spec.prune.compare_with.1.source"
    assert "no file of masks" in place.refusal(SourceNotFound, field, prune=asked(files[0], place.text))


@pytest.mark.parametrize("names", [("code", "code"), ("prior",)])
def test_masks_to_compare_with_have_names_of_their_own(names: tuple[str, ...]) -> None:
    named = [{"name": name, "source": "s3://b/masks.safetensors"} for name in names]
    prune = {
        "method": {"kind": "magnitude"},
        "pattern": {"kind": "nm", "keep": 2, "group": 4},
        "compare_with": named,
    }
    with pytest.raises(ValidationError, match="choose another") as caught:
        PruneSpec.model_validate({"model": {"source": "file:/m"}, "prune": prune})
    assert caught.value.errors()[0]["loc"] == ("prune", "compare_with", len(names) - 1, "name")
