"""What is published beside the weights."""

import json

import pytest
import yaml

from pipeline.evaluation.contracts import UnequalContracts
from pipeline.report.data import ReportData
from pipeline.report.model_card import markdown_text, model_card
from pipeline.report.published import Published
from pipeline.report.side_file import SideFile, side_file
from pipeline.spec.evaluation import EvaluationResult
from tests.pipeline.evaluation.made_tasks import with_tasks
from tests.pipeline.report.made_report import DENSE, PRUNED, VERSIONS, made_evaluation, made_report, made_spec

FILES = {
    "model-00002-of-00002.safetensors": "b" * 64,
    "model-00001-of-00002.safetensors": "a" * 64,
    "model.safetensors.index.json": "c" * 64,
    "config.json": "d" * 64,
    "generation_config.json": "e" * 64,
    "tokenizer.json": "f" * 64,
    "tokenizer_config.json": "0" * 64,
    "special_tokens_map.json": "1" * 64,
    "vocab.json": "2" * 64,
    "merges.txt": "3" * 64,
}


def evaluations_of(data: ReportData) -> dict[str, EvaluationResult]:
    models = {"dense": data.dense, "pruned": data.pruned, "recovered": data.recovered}
    return {name: one for name, one in models.items() if one is not None}


def published(data: ReportData) -> Published:
    return Published(
        model_name=data.model_name,
        spec=data.spec,
        plan=data.plan,
        sparsity=data.sparsity,
        measurements=data.measurements,
        evaluations=evaluations_of(data),
        tasks=data.task_comparisons,
        certificate=data.certificate,
        versions=VERSIONS,
    )


def card_of(data: ReportData) -> str:
    return model_card(published(data))


def side_of(data: ReportData) -> SideFile:
    return side_file(published(data), files=FILES)


def front_matter(card: str) -> dict[str, object]:
    assert card.startswith("---\n")
    text, rest = card.removeprefix("---\n").split("\n---\n", 1)
    assert rest.startswith("\n# ")
    loaded = yaml.safe_load(text)
    assert isinstance(loaded, dict)
    return loaded


def test_card_says_what_was_done() -> None:
    card = card_of(made_report())
    head = front_matter(card)
    assert head["base_model"] == "SmolLM2-135M"
    assert head["library_name"] == "transformers"
    assert {"pruned", "secateur"} <= set(head["tags"])  # type: ignore[call-overload]
    assert "| wiki.txt | 19.53 | 43.16 | 2.210 | 512 | 512 | none | 16 | 8176 |" in card
    assert "AutoModelForCausalLM.from_pretrained" in card
    assert "stored as zeros" in card
    assert "16 samples of 512 tokens" in card
    assert "/models/" not in card
    assert "\n\n\n" not in card


def test_card_names_the_hub_model() -> None:
    spec = made_spec(model="hub:HuggingFaceTB/SmolLM2-135M@main")
    assert front_matter(card_of(made_report(spec=spec)))["base_model"] == "HuggingFaceTB/SmolLM2-135M"


def test_card_without_texts() -> None:
    data = made_report().model_copy(
        update={
            "dense": EvaluationResult(checkpoint_digest=DENSE),
            "pruned": EvaluationResult(checkpoint_digest=PRUNED),
        }
    )
    assert "Not measured." in card_of(data)


def test_card_shows_hostile_names_literally() -> None:
    hostile = "x | y\n---\n<script>`[a](b)"
    card = card_of(made_report(name=hostile))
    assert front_matter(card)["base_model"] == hostile
    assert r"x \| y --- \<script\>\`\[a\](b)" in card
    assert "<script>" not in card.split("\n---\n", 1)[1]


def test_card_refuses_unequal_contracts() -> None:
    data = made_report().model_copy(update={"pruned": made_evaluation(PRUNED, loss=3, stride=1)})
    with pytest.raises(UnequalContracts):
        card_of(data)


def test_equal_jobs_publish_equal_bytes() -> None:
    assert card_of(made_report()) == card_of(made_report())
    assert side_of(made_report()).to_json() == side_of(made_report()).to_json()


def test_side_file_holds_every_fact() -> None:
    data = made_report(blocks=3)
    side = side_of(data)
    plain = json.loads(side.to_json())
    assert SideFile.model_validate(plain) == side
    assert plain["spec"]["prune"]["pattern"]["sparsity"] == 0.5
    assert [block["sparsity"] for block in plain["plan"]["blocks"]] == list(data.plan.sparsity)
    assert len(plain["linears"]) == 21
    assert plain["digests"]["dense_checkpoint"] == DENSE
    assert plain["digests"]["pruned_checkpoint"] == PRUNED
    assert list(plain["digests"]["weights"]) == sorted(f for f in FILES if f.endswith(".safetensors"))
    assert set(plain["digests"]["tokenizer"]) == {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.json",
        "merges.txt",
    }
    assert plain["versions"] == VERSIONS
    assert plain["seeds"] == {"calibration": 0}


def test_no_sparsity_config_anywhere() -> None:
    assert b"sparsity_config" not in side_of(made_report()).to_json()
    assert "sparsity_config" not in card_of(made_report())


def test_markdown_text_is_one_literal_line() -> None:
    assert markdown_text("a_b\n| c") == r"a\_b \| c"


def test_tasks_are_in_the_card_and_the_side_file() -> None:
    data = with_tasks(made_report(blocks=2), limit=25)
    card = card_of(data)
    assert "| arc\\_easy | acc\\_norm | 0 | 25 | 0.5500 ± 0.0200 | 0.3000 ± 0.0200 | -0.2500 (\\*) |" in card
    assert "mmlu\\_anatomy" not in card  # short tables leave members out
    assert "limit 25: not comparable with published figures." in card
    assert "## Tasks" not in card_of(made_report(blocks=2))
    side = SideFile.model_validate_json(side_of(data).to_json())
    assert side.tasks == data.task_comparisons
    assert side.perplexity == data.comparisons
