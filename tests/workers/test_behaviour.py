"""How models write: continuations by the dense and the pruned model, and calibration on own text."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load
from transformers import AutoModelForCausalLM, AutoTokenizer

import secateur
from pipeline.artifacts.refs import SamplesRef
from pipeline.dag.next_actions import next_actions
from pipeline.dag.nodes import Node
from pipeline.errors import InvalidSpec, SecateurError, SequenceTooLong, TextTooShort
from pipeline.evaluation.behaviour import BehaviourResult, compare_behaviour, repetition
from pipeline.evaluation.contracts import UnequalContracts
from pipeline.report.data import ReportDocument
from pipeline.request.prune_spec import PruneSpec
from tests.models import KINDS, Kind, tiny_checkpoint, tiny_documents, tiny_text
from tests.workers.stage_runs import StageRuns, stage_runs
from workers.job import startable
from workers.places import on_gang, on_worker

pytestmark = pytest.mark.usefixtures("opened_here")

HALF = {"method": {"kind": "wanda"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}}
CANDIDATES = [{"kind": "atp"}, {"kind": "dlp"}]
PROMPTS = ["The gardener", "A good cut <b>&", "Her neighbour, who does not believe in pruning,"]
MESSAGES = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
TEMPLATE = MESSAGES + "{% if add_generation_prompt %}>{% endif %}"


def runs_of(root: Path, *, kind: str = "llama", template: str | None = None, **parts: Any) -> StageRuns:
    """A job with a tiny model whose tokenizer may have a chat template."""
    model = tiny_checkpoint(kind, root / "model")
    if template is not None:
        (model / "chat_template.jinja").write_text(template)
    return stage_runs(root, model=model, prune=HALF, parts=parts)


def behaviour_of(root: Path, **fields: Any) -> BehaviourResult:
    kind, template = fields.pop("kind", "llama"), fields.pop("template", None)
    text = {"source": f"file:{tiny_text(root)}", "sequence_length": 32}
    asked = {"prompts": PROMPTS, "max_new_tokens": 12} | fields
    runs = runs_of(root, kind=kind, template=template, calibration=text, evaluation={"behaviour": asked}).run(
        "import_model", "behaviour:dense"
    )
    return BehaviourResult.model_validate_json(runs.file("behaviour:dense", "behaviour", "behaviour.json"))


class TestContinuations:
    @pytest.mark.parametrize("kind", KINDS)
    def test_they_are_those_of_transformers(self, tmp_path: Path, kind: Kind) -> None:
        found = behaviour_of(tmp_path, kind=kind)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
        for prompt, one in zip(PROMPTS, found.continuations, strict=True):
            ids = tokenizer(prompt, return_tensors="pt").input_ids
            for _ in range(12):  # without a cache, token by token
                with torch.no_grad():
                    best = model(ids).logits[0, -1].argmax()
                ids = torch.cat((ids, best.view(1, 1)), dim=1)
                if int(best) == tokenizer.eos_token_id:
                    break
            new = ids[0, len(tokenizer(prompt).input_ids) :]
            ended = int(new[-1]) == tokenizer.eos_token_id
            assert one.ended == ended
            assert one.text == tokenizer.decode(new[: len(new) - ended])
            assert one.tokens == len(new) - ended
        assert found.contract.bos == ("every_window" if kind.startswith("gemma") else None)

    def test_the_settings_of_the_model_for_generation_do_not_count(self, tmp_path: Path) -> None:
        plain = behaviour_of(tmp_path / "plain")
        model = tiny_checkpoint("llama", tmp_path / "set" / "model")
        asked = {"do_sample": True, "temperature": 9.0, "repetition_penalty": 9.0, "eos_token_id": [1, 5]}
        (model / "generation_config.json").write_text(json.dumps(asked))
        text = {"source": f"file:{tiny_text(tmp_path / 'set')}", "sequence_length": 32}
        behaviour = {"prompts": PROMPTS, "max_new_tokens": 12}
        runs = stage_runs(
            tmp_path / "set",
            model=model,
            prune=HALF,
            parts={"calibration": text, "evaluation": {"behaviour": behaviour}},
        ).run("import_model", "behaviour:dense")
        found = BehaviourResult.model_validate_json(
            runs.file("behaviour:dense", "behaviour", "behaviour.json")
        )
        for one, other in zip(plain.continuations, found.continuations, strict=True):
            assert one.text.startswith(other.text)  # token 5 may end it

    def test_prompts_of_a_text(self, tmp_path: Path) -> None:
        path = tmp_path / "prompts.jsonl"
        path.write_text("".join(json.dumps({"q": one}) + "\n" for one in ["", *PROMPTS, "more"]))
        prompts = {"source": f"file:{path}", "column": "q", "limit": 3, "characters": 9}
        found = behaviour_of(tmp_path, prompts=prompts)
        assert [one.prompt for one in found.continuations] == [one[:9] for one in PROMPTS]

    def test_chats_are_asked_for_an_answer(self, tmp_path: Path) -> None:
        found = behaviour_of(tmp_path / "list", prompts=["Prune?"], chat=True, template=TEMPLATE)
        assert found.continuations[0].prompt == "[user]Prune?>"
        assert found.contract.template
        (tmp_path / "text").mkdir()
        path = tmp_path / "text" / "chats.jsonl"
        path.write_text(json.dumps({"messages": [{"role": "user", "content": "Prune?"}]}))
        prompts = {"source": f"file:{path}", "column": "messages"}
        same = behaviour_of(tmp_path / "text", prompts=prompts, template=TEMPLATE)
        assert same.continuations[0] == found.continuations[0]
        with pytest.raises(InvalidSpec, match="takes texts as they are"):
            behaviour_of(tmp_path / "text", prompts=prompts, template=TEMPLATE, chat=True)

    @pytest.mark.parametrize(
        ("fields", "kind", "told"),
        [
            ({"prompts": ["A"], "chat": True}, InvalidSpec, "has no chat template"),
            ({"prompts": ["The apple " * 60]}, SequenceTooLong, "128 positions"),
            ({"max_new_tokens": 128}, SequenceTooLong, "128 positions"),
        ],
    )
    def test_refusals(
        self, tmp_path: Path, fields: dict[str, Any], kind: type[SecateurError], told: str
    ) -> None:
        with pytest.raises(kind, match=told):
            behaviour_of(tmp_path, **fields)

    def test_a_text_without_a_prompt(self, tmp_path: Path) -> None:
        (tmp_path / "blank.txt").write_text("\n \n")
        with pytest.raises(TextTooShort, match="no document to take as a prompt"):
            behaviour_of(tmp_path, prompts={"source": f"file:{tmp_path}/blank.txt"})


class TestFigures:
    @settings(derandomize=True, deadline=None)
    @given(tokens=st.lists(st.integers(0, 3), max_size=30), n=st.integers(1, 5))
    def test_repetition_counts_what_came_before(self, tokens: list[int], n: int) -> None:
        seen: list[list[int]] = []
        repeated = 0
        for i in range(len(tokens) - n + 1):
            repeated += tokens[i : i + n] in seen
            seen.append(tokens[i : i + n])
        assert repetition(tokens, n=n) == pytest.approx(repeated / len(seen) if seen else 0)

    def test_unequal_contracts_are_not_compared(self, tmp_path: Path) -> None:
        one = behaviour_of(tmp_path)
        other = one.model_copy(update={"contract": one.contract.model_copy(update={"max_new_tokens": 13})})
        assert compare_behaviour(one, one, "pruned").equal == 3
        with pytest.raises(UnequalContracts, match="max_new_tokens is 12 for dense and 13 for pruned"):
            compare_behaviour(one, other, "pruned")


def test_a_whole_job_shows_both_models_side_by_side(tmp_path: Path) -> None:
    """It calibrates on what the model writes, and so needs no text at all."""
    model = tiny_checkpoint("llama", tmp_path / "model")
    spec = {
        "calibration": {"source": "self", "prompts": PROMPTS, "samples": 4, "sequence_length": 32},
        "prune": HALF,
        "evaluation": {"behaviour": {"prompts": PROMPTS, "max_new_tokens": 8}},
    }
    pruned = secateur.prune(model, spec, tmp_path / "out", threads=1)
    assert isinstance(pruned.report, ReportDocument)
    compared = pruned.report.summary.behaviour
    assert compared is not None
    assert compared.prompts == 3
    data = pruned.report.data
    assert data.dense_behaviour is not None
    assert data.final_behaviour is not None
    assert [one.prompt for one in data.final_behaviour.continuations] == PROMPTS
    page = (pruned.directory / "report.html").read_text()
    assert 'id="behaviour-samples"' in page
    assert "A good cut &lt;b&gt;&amp;" in page
    assert "A good cut <b>" not in page


class TestOwnText:
    def samples(self, root: Path, *, kind: str = "llama", **fields: Any) -> torch.Tensor:
        asked = {"source": "self", "prompts": PROMPTS, "samples": 6, "sequence_length": 40} | fields
        runs = runs_of(root, kind=kind, calibration=asked).run("import_model", "calibrate")
        tokens_NL: torch.Tensor = load(runs.file("calibrate", "samples", SamplesRef.TOKENS))["tokens"]
        return tokens_NL

    def test_the_row_is_prompts_with_their_continuations(self, tmp_path: Path) -> None:
        tokens_NL = self.samples(tmp_path, batch_size=2)
        assert tokens_NL.shape == (6, 40)
        assert tokens_NL.dtype == torch.int64
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
        row = tokens_NL.flatten().tolist()
        prompts = [tokenizer(one, add_special_tokens=False).input_ids for one in PROMPTS]
        assert row[: len(prompts[0])] == prompts[0]
        ends = [i for i, token in enumerate(row) if token == tokenizer.eos_token_id]
        following = [row[i + 1 :] for i in ends if len(row) - i > 30]
        assert following
        starts = [any(rest[: len(one)] == one for one in prompts) for rest in following]
        assert all(starts)

    def test_equal_seeds_give_equal_samples(self, tmp_path: Path) -> None:
        one, same, other = (
            self.samples(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
        )
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_top_1_is_greedy(self, tmp_path: Path) -> None:
        one, other = (self.samples(tmp_path / str(seed), seed=seed, top_k=1) for seed in (0, 1))
        assert torch.equal(one, other)

    def test_gemma_s_samples_begin_with_bos(self, tmp_path: Path) -> None:
        tokens_NL = self.samples(tmp_path, kind="gemma2")
        assert (tokens_NL[:, 0] == 0).all()

    def test_a_prompt_without_room(self, tmp_path: Path) -> None:
        with pytest.raises(SequenceTooLong, match="prompt 3 has") as caught:
            self.samples(tmp_path, sequence_length=12)
        assert caught.value.param == "spec.calibration.prompts"

    def test_tournaments_need_a_text(self) -> None:
        with pytest.raises(ValidationError, match="source self has none"):
            PruneSpec.model_validate(
                {
                    "model": {"source": "file:/m"},
                    "calibration": {"source": "self", "prompts": PROMPTS},
                    "prune": {
                        **HALF,
                        "allocation": {"kind": "tournament", "candidates": CANDIDATES},
                    },
                }
            )

    def test_prompts_as_one_text_keep_their_place_in_the_pins(self, tmp_path: Path) -> None:
        path = tiny_text(tmp_path, documents=[one[:30] for one in tiny_documents(count=4)])
        runs = runs_of(
            tmp_path,
            calibration={
                "source": "self",
                "prompts": {"source": f"file:{path}"},
                "samples": 2,
                "sequence_length": 40,
            },
        )
        assert "spec.calibration.prompts.source" in runs.order.pins.sources
        runs.run("import_model", "calibrate")

    @pytest.mark.parametrize("workers", [1, 3])
    def test_the_gang_waits_for_it_and_holds_no_places_meanwhile(self, tmp_path: Path, workers: int) -> None:
        text = {"source": f"file:{tiny_text(tmp_path)}", "sequence_length": 32}
        dag = runs_of(
            tmp_path,
            calibration={"source": "self", "prompts": PROMPTS, "samples": 2, "sequence_length": 40},
            evaluation={"perplexity": [text], "behaviour": {"prompts": PROMPTS, "max_new_tokens": 8}},
        ).dag
        done: set[str] = set()
        running: list[Node] = []
        while len(done) < len(dag.nodes):
            ready = next_actions(dag, done=done, started={node.id for node in running})
            ahead = [node for node in dag.nodes if node.id not in done]
            running += startable(ready, running, ahead=ahead, workers=workers)
            assert running, f"nothing runs after {done}"
            holders = [one.stage for one in running if on_gang(one.stage) or on_worker(one.stage)]
            assert len({on_gang(stage) for stage in holders}) < 2
            done.add(running.pop(0).id)
