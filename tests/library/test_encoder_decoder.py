"""`secateur.prune` of an encoder-decoder: whole jobs, and what is refused by name."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import secateur
from pipeline.errors import InvalidSpec
from pipeline.report.data import ReportDocument
from tests.encoder_decoder_checkpoints import SPIECE, encoder_decoder, loaded
from tests.models import tiny_documents, tiny_text

pytestmark = pytest.mark.usefixtures("opened_here", "one_thread")


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model/`, a T5 1.1, and `text.txt`."""
    directory = tmp_path_factory.mktemp("encoder-decoder")
    encoder_decoder("t5-gated", directory / "model")
    tiny_text(directory, documents=tiny_documents(count=24, words=160))
    return directory


def spec(material: Path, **parts: object) -> dict[str, object]:
    text = f"file:{material}/text.txt"
    return {
        "calibration": {"source": text, "samples": 6, "sequence_length": 32},
        "prune": {
            "method": {"kind": "wanda"},
            "allocation": {"kind": "owl", "multiplier": 3, "spread": 0.1},
            "pattern": {"kind": "unstructured", "sparsity": 0.5},
        },
        "evaluation": {"perplexity": [{"source": text, "sequence_length": 32, "windows": 12}]},
        **parts,
    }


def test_a_job_measures_both_stacks_and_publishes_what_transformers_loads(
    material: Path, tmp_path: Path
) -> None:
    pruned = secateur.prune(material / "model", spec(material), tmp_path / "out", threads=1)
    dense, model = loaded(material / "model"), loaded(pruned.directory)
    names = [name for name, module in dense.named_modules() if isinstance(module, torch.nn.Linear)]
    counts = {
        name: (int((model.get_submodule(name).weight == 0).sum()), model.get_submodule(name).weight.numel())
        for name in names
        if name != "lm_head"
    }
    assert sum(zeros for zeros, _ in counts.values()) == sum(total for _, total in counts.values()) // 2
    assert all(zeros for zeros, _ in counts.values())
    assert torch.equal(model.lm_head.weight, dense.lm_head.weight)
    config = json.loads((pruned.directory / "config.json").read_text())
    assert config["tie_word_embeddings"] is False  # T5 1.1 does not scale what it gives to its head
    assert isinstance(pruned.report, ReportDocument)
    data = pruned.report.data
    assert data.plan is not None
    assert len(data.plan.sparsity) == 5
    [perplexity] = data.comparisons
    assert perplexity.contract.pairs == "gaps"
    assert perplexity.contract.tokens_scored == 12 * (round(32 * 0.15) + 2 + 1)
    assert data.certificate is not None
    assert "AutoModelForSeq2SeqLM.from_pretrained" in (pruned.directory / "README.md").read_text()
    assert "text.txt, in gaps" in (pruned.directory / "report.html").read_text()
    text = {"source": f"file:{material}/text.txt", "sequence_length": 32, "windows": 12}
    whole = secateur.perplexity(dense, text)  # a model in memory, and the same windows
    assert whole.contract == perplexity.contract
    assert f"{whole.perplexity:.4g}" == f"{perplexity.dense:.4g}"
    with pytest.raises(InvalidSpec, match="stride 8: t5 fills gaps"):
        secateur.perplexity(dense, {**text, "stride": 8})


def test_depth_and_vocabulary_are_cut_in_one_job(material: Path, tmp_path: Path) -> None:
    text = f"file:{material}/text.txt"
    structure = {
        "drop_blocks": {"kind": "block_influence", "num_blocks": 4},
        "vocabulary": {"size": 150, "texts": [{"source": text}]},
    }
    evaluation = {"perplexity": [{"source": text, "sequence_length": 32, "characters": 2000}]}
    asked = spec(material, structure=structure, prune=None, evaluation=evaluation)
    pruned = secateur.prune(material / "model", asked, tmp_path / "out", threads=1)
    model = loaded(pruned.directory)
    assert model.config.num_layers + model.config.num_decoder_layers == 4
    assert model.shared.weight.shape[0] == model.lm_head.weight.shape[0] == 150
    tokenizer = AutoTokenizer.from_pretrained(pruned.directory)
    assert (pruned.directory / SPIECE).is_file()
    ids = tokenizer("The gardener <extra_id_0> the old <extra_id_1> trees.")["input_ids"]
    assert max(ids) < 150
    assert tokenizer.convert_tokens_to_ids("<extra_id_0>") in ids
    generated = model.generate(torch.tensor([ids]), max_new_tokens=4, do_sample=False)
    assert int(generated.max()) < 150


@pytest.mark.parametrize(
    ("parts", "field", "why"),
    [
        ({"compute_dtype": "float16"}, "spec.compute_dtype", "largest number of float16"),
        (
            {"evaluation": {"tasks": {"suite": "openba"}}},
            "spec.evaluation.tasks",
            "measure a perplexity",
        ),
        ({"target": {"kind": "onnxruntime"}}, "spec.target", "no serving program is opened"),
        ({"quantize": {"kind": "fp8"}}, "spec.quantize", "programs that serve models which continue"),
        ({"publish": {"sparse": "bf16"}}, "spec.publish.sparse", "packed linears"),
        (
            {"structure": {"drop_blocks": {"kind": "spaced", "num_blocks": 4}}},
            "spec.structure.drop_blocks.kind",
            "ends of their own",
        ),
        (
            {"structure": {"drop_blocks": {"kind": "explicit", "blocks": [3, 4]}}},
            "spec.structure.drop_blocks",
            "leaves nothing of decoder.block",
        ),
    ],
)
def test_what_is_not_offered_is_refused_before_anything_runs(
    parts: dict[str, object], field: str, why: str, material: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidSpec, match=why) as refused:
        secateur.prune(material / "model", spec(material, **parts), tmp_path / "out", threads=1)
    assert refused.value.param is not None
    assert refused.value.param.startswith(field)


def test_windows_that_overlap_are_refused(material: Path, tmp_path: Path) -> None:
    text = {"source": f"file:{material}/text.txt", "sequence_length": 32, "stride": 8}
    asked = spec(material, evaluation={"perplexity": [text]})
    with pytest.raises(InvalidSpec, match="stride 8: t5 fills gaps in each window"):
        secateur.prune(material / "model", asked, tmp_path / "out", threads=1)
