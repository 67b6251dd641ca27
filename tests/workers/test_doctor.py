"""The doctor tells of checkpoints of known types what they allow, and tries a row for unknown ones."""

import json
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.architecture.rows import ROWS
from pipeline.errors import UnsupportedModel
from pipeline.sources import open_source
from pipeline.spec.targets import TARGET_KINDS
from tests.encoder_decoder_checkpoints import encoder_decoder
from tests.llama_like_checkpoints import llama_like_checkpoint
from tests.models import tiny_checkpoint
from workers.local import doctor
from workers.local.cutting import ACCESS

pytestmark = pytest.mark.usefixtures("one_thread")


def told_of(directory: Path) -> dict[str, str | None]:
    """Why something does not work, by what it is."""
    config = json.loads((directory / "config.json").read_text())
    found = doctor.findings(open_source(f"file:{directory}", ACCESS), config)
    return {one.what: one.why_not for one in found}


def test_everything_works_for_a_llama(tmp_path: Path) -> None:
    told = told_of(tiny_checkpoint("llama", tmp_path / "model"))
    targets = {kind: told.pop(f"target {kind}") for kind in TARGET_KINDS}
    del targets["vllm"]
    assert all(one is not None and "positions" in one for one in targets.values()), "the model has 128"
    assert {*told.values()} == {None}
    assert "cutting intermediate_size=128" in told


def test_what_a_type_does_not_allow_has_its_reason(tmp_path: Path) -> None:
    told = told_of(llama_like_checkpoint("olmo2", tmp_path / "model"))
    assert told["pruning, cutting blocks"] is None
    assert told["cutting hidden_size=64"] is None
    assert "norm over all heads" in str(told["cutting num_attention_heads=4"])
    assert "no Megatron layout" in str(told["Megatron"])
    assert "cannot be written as GGUF" in str(told["target llama.cpp"])


def test_a_damaged_checkpoint_cannot_be_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = llama_like_checkpoint("glm4", tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "intermediate_size": 100}))
    monkeypatch.setattr("sys.argv", ["doctor", str(directory)])
    with pytest.raises(SystemExit) as ended:
        doctor.main()
    assert ended.value.code == 1
    assert "intermediate_size 100" in capsys.readouterr().err.splitlines()[-1]


def test_an_unknown_type_that_resembles_llama_gets_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = AutoConfig.for_model("olmo", num_hidden_layers=1, hidden_size=32, num_attention_heads=4)
    config.update({"vocab_size": 50, "intermediate_size": 16, "pad_token_id": 1, "eos_token_id": 0})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    monkeypatch.setattr("sys.argv", ["doctor", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        doctor.main()
    assert ended.value.code == 1
    printed = capsys.readouterr()
    assert '\n    llama_like("olmo"),\n' in printed.out
    assert "'olmo'" in printed.err.splitlines()[-1]
    assert "has no row" in printed.err.splitlines()[-1]
    assert "olmo" not in ROWS


@pytest.mark.parametrize(
    ("model_type", "why"),
    [
        ("jais2", None),
        ("gpt_oss", r"self_attn\.sinks has shape \[4\]"),
        ("deepseek_v3", "its blocks have different linears"),
        ("minicpm3", r"a linear self_attn\.q_a_proj, whose role"),
    ],
)
def test_what_does_not_resemble_llama_is_named(model_type: str, why: str | None) -> None:
    config = json.loads(AutoConfig.for_model(model_type).to_json_string(use_diff=False))
    if why is None:
        assert doctor.tried(config).line == f'llama_like("{model_type}", _PLAIN, _PLAIN_LABELS),'
        return
    with pytest.raises(UnsupportedModel, match=rf"does not resemble Llama: .*{why}"):
        doctor.tried(config)


@pytest.mark.parametrize("model_type", ["qwen3", "glm", "smollm3", "starcoder2"])
def test_a_known_type_would_be_proposed_as_it_is(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = ROWS[model_type]
    monkeypatch.delitem(ROWS, model_type)
    config = json.loads(AutoConfig.for_model(model_type).to_json_string(use_diff=False))
    found = doctor.tried({**config, "bos_token_id": 0, "eos_token_id": 0}).row
    assert found.linears == row.linears
    assert found.by_block == row.by_block
    assert {name: row.inner[name] for name in found.inner} == {**found.inner}


def test_an_encoder_decoder_is_told_what_it_lacks(tmp_path: Path) -> None:
    told = told_of(encoder_decoder("t5", tmp_path / "model"))
    assert told["pruning, cutting blocks"] is None
    assert told["texts"] is None
    assert told["cutting intermediate_size=48"] is None
    assert "relative positions" in str(told["cutting num_attention_heads=4"])
    assert "it follows from the others" in str(told["cutting num_key_value_heads=4"])
    for what in ("recovery training", "learned masks", "evaluation by tasks", "Megatron", "target vllm"):
        assert told[what] is not None, what
