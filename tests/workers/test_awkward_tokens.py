"""Models whose tokenizers are not as one expects: they run through tasks, and say what was done."""

import json
from pathlib import Path
from typing import Any

import pytest

import secateur
from pipeline.errors import InvalidSpec
from pipeline.evaluation.task_results import TaskEvaluation
from pipeline.job.events import EventBody, Message
from pipeline.report.data import ReportDocument
from tests.models import VOCABULARY, tiny_checkpoint, tiny_documents, tiny_text, tiny_tokenizer
from tests.workers.stage_runs import include, of_kind, question_file, stage_runs
from workers.context import Note

pytestmark = pytest.mark.usefixtures("opened_here")

GENERATED = """
task: gen
dataset_path: json
dataset_kwargs: {data_files: {validation: questions.jsonl}}
validation_split: validation
output_type: generate_until
doc_to_text: "{{q * (right + 1)}}"
doc_to_target: q
generation_kwargs: {until: ['zz'], max_gen_toks: 4}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
HALF = {"method": {"kind": "wanda"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}}


def tokenizer_of(kind: str, **special: str | None) -> Any:
    tokenizer = tiny_tokenizer(kind)
    for name, text in special.items():
        setattr(tokenizer, name, text)
    return tokenizer


def answered(root: Path, model: Path) -> tuple[list[Note], TaskEvaluation]:
    """A task that generates, with prompts of unequal length in one batch."""
    tasks = {
        **include(root / "tasks", gen=GENERATED),
        "tasks": ["gen"],
        "batch_size": 3,
    }
    runs = stage_runs(root, model=model, tasks=tasks).run("import_model", "check_tasks", "tasks:dense:gen")
    document = runs.file("tasks:dense:gen", "tasks", "tasks.json")
    return list(of_kind(runs.said, Note)), TaskEvaluation.model_validate_json(document)


def test_a_pad_token_without_a_row_is_replaced(tmp_path: Path) -> None:
    model = tiny_checkpoint("llama", tmp_path / "model")
    tokenizer_of("llama", pad_token="[PAD]").save_pretrained(model)
    notes, _ = answered(tmp_path, model)
    (note,) = [note.text for note in notes if "pad_token" in note.text]
    assert f"'[PAD]' is token {VOCABULARY}" in note
    assert note.endswith("padded with token 1 '</s>' instead")


def test_a_tokenizer_without_any_special_token(tmp_path: Path) -> None:
    """lm-eval adds a pad token of its own to it, beyond the rows."""
    model = tiny_checkpoint("gpt2", tmp_path / "model")
    tokenizer_of("gpt2", bos_token=None, eos_token=None, pad_token=None).save_pretrained(model)
    (model / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 128})
    )
    notes, _ = answered(tmp_path, model)
    assert any("padded with token 0" in note.text for note in notes)


@pytest.mark.parametrize("adds", [True, False])
def test_gemma_is_asked_with_bos_whatever_its_tokenizer_does(tmp_path: Path, adds: bool) -> None:
    model = tiny_checkpoint("gemma2", tmp_path / "model")
    tiny_tokenizer("gemma2" if adds else "gpt2").save_pretrained(model)
    tasks = {**include(tmp_path / "tasks", ask=question_file("ask")), "tasks": ["ask"]}
    runs = stage_runs(tmp_path, model=model, tasks=tasks).run(
        "import_model", "check_tasks", "tasks:dense:ask"
    )
    found = TaskEvaluation.model_validate_json(runs.file("tasks:dense:ask", "tasks", "tasks.json"))
    written = json.loads(runs.file("tasks:dense:ask", "harness", "lm_eval.json"))
    assert found.results[0].contract.bos == "every_window"
    assert written["config"]["model_args"]["add_bos_token"] is True


def test_gemma_s_bos_is_part_of_the_contract_and_of_the_published_spec(tmp_path: Path) -> None:
    model = tiny_checkpoint("gemma2", tmp_path / "model")
    text = {"source": f"file:{tiny_text(tmp_path)}", "sequence_length": 32}
    said: list[EventBody] = []
    pruned = secateur.prune(
        model,
        {
            "calibration": {**text, "samples": 4},
            "prune": HALF,
            "evaluation": {
                "perplexity": [{**text, "windows": 3}, {**text, "windows": 3, "bos": "tokenizer"}]
            },
        },
        tmp_path / "out",
        threads=1,
        told=said.append,
    )
    assert isinstance(pruned.report, ReportDocument)
    contracts = [one.contract for one in pruned.report.summary.perplexity]
    assert [(one.bos, one.stride, one.tokens_scored) for one in contracts] == [
        ("every_window", 31, 3 * 31),
        ("tokenizer", 32, 3 * 31),
    ]
    spec = json.loads((pruned.directory / "secateur.json").read_text())["spec"]
    assert spec["calibration"]["bos"] == "every_window"
    assert not [one for one in said if isinstance(one, Message)]


def test_added_tokens_without_rows_are_said_in_the_report(tmp_path: Path) -> None:
    model = tiny_checkpoint("llama", tmp_path / "model")
    tokenizer = tiny_tokenizer("llama")
    tokenizer.add_tokens(["<PRE>", "<MID>"])
    tokenizer.save_pretrained(model)
    text = {"source": f"file:{tiny_text(tmp_path)}", "sequence_length": 32, "samples": 4}
    said: list[EventBody] = []
    pruned = secateur.prune(
        model, {"calibration": text, "prune": HALF}, tmp_path / "out", threads=1, told=said.append
    )
    assert isinstance(pruned.report, ReportDocument)
    (note,) = [one.text for one in said if isinstance(one, Message)]
    assert "'<PRE>' 384, '<MID>' 385" in note
    assert note in pruned.report.summary.notes


@pytest.mark.parametrize("node", ["calibrate", "prepare_text"])
def test_a_text_with_tokens_without_rows_is_refused_where_it_is_read(tmp_path: Path, node: str) -> None:
    model = tiny_checkpoint("llama", tmp_path / "model")
    tokenizer = tiny_tokenizer("llama")
    tokenizer.add_tokens(["<PRE>"])
    tokenizer.save_pretrained(model)
    documents = [f"{one} <PRE> {one}" for one in tiny_documents()]
    text = {"source": f"file:{tiny_text(tmp_path, documents=documents)}", "sequence_length": 64}
    recovery = {"text": {**text, "validation_sequences": 2}, "steps": 21, "global_batch_size": 1}
    runs = stage_runs(tmp_path, model=model, prune=HALF, parts={"calibration": text, "recovery": recovery})
    with pytest.raises(
        InvalidSpec, match=r"holds tokens beyond the 384 rows of the embedding \('<PRE>' 384\)"
    ):
        runs.run("import_model", node)
