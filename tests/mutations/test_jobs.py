"""A whole job on mutated files ends in a refusal that names a file or field, or in a model that loads."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

import secateur
from tests.models import tiny_checkpoint, tiny_text
from tests.mutations.made import answered, mutated_bytes, mutated_header, mutated_json
from tests.mutations.test_submission import CONFIG, Replaced

pytestmark = pytest.mark.usefixtures("all_opened_here")

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "text.txt")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("jobs")
    tiny_checkpoint("llama", root / "model")
    tiny_text(root)
    return root


def spec(root: Path) -> dict[str, Any]:
    text = {"source": f"file:{root}/text.txt", "sequence_length": 16}
    return {
        "calibration": {**text, "samples": 2},
        "prune": {"method": {"kind": "wanda"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}},
        "evaluation": {"perplexity": [{**text, "windows": 1}]},
    }


@pytest.mark.slow
@settings(derandomize=True, max_examples=25, database=None)
@given(data=st.data())
def test_jobs(root: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(FILES))
    path = root / name if name == "text.txt" else root / "model" / name
    before = path.read_bytes()
    if name.endswith(".json"):
        changed = data.draw(mutated_json(before, more=CONFIG if name == "config.json" else ()))
    elif name.endswith(".safetensors"):
        changed = data.draw(mutated_header(before))
    else:
        changed = data.draw(mutated_bytes(before))
    out = tmp_path_factory.mktemp("out") / "pruned"
    with Replaced(path, changed):
        if answered(lambda: secateur.prune(root / "model", spec(root), out, threads=1)) is None:
            _, said = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
            assert not any(said.values()), said
            AutoTokenizer.from_pretrained(out)
        else:
            assert not out.exists()
