"""`python -m workers.local.doctor DIRECTORY` says what works for a checkpoint, what does not, and why.

For a type without a row it proposes one, and streams its blocks against transformers on a tiny random model
of the same class.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from pydantic import JsonValue, TypeAdapter
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from pipeline.architecture.axes import Size
from pipeline.architecture.rows import ROWS, row_for, trying
from pipeline.artifacts.refs import CheckpointRef
from pipeline.checkpoint.class_config import class_config
from pipeline.checkpoint.compare import compare
from pipeline.checkpoint.config_json import parse_config
from pipeline.checkpoint.header import read_headers
from pipeline.checkpoint.importing import import_checkpoint
from pipeline.checkpoint.language_model import inside_of, language_config, wrapper_of
from pipeline.checkpoint.layout import CONFIG_JSON
from pipeline.checkpoint.megatron.args import args_of
from pipeline.checkpoint.paired_stream import open_stream
from pipeline.checkpoint.proposing import Proposal, proposed, scaled_down
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.slicing import full_config
from pipeline.errors import SecateurError, UnsupportedCheckpoint
from pipeline.resolve.kinds import check_kind, check_type
from pipeline.resolve.model import model_pin, resolve_model
from pipeline.resolve.multimodal import why_alone
from pipeline.serving.shapes import check_target
from pipeline.sources import Source, open_source
from pipeline.spec.targets import TARGET_KINDS, Target
from pipeline.spec.uri import file_uri
from pipeline.storage import ContentStore, LocalStore
from pipeline.structure.sizes import has_groups, sizes_of
from workers.local.cutting import ACCESS
from workers.local.refusal import refusing

Config = dict[str, JsonValue]
TOKENS = tuple(torch.arange(first, first + 24) for first in (2, 57))


@dataclass(frozen=True)
class Finding:
    """One thing, and why it does not work; None if it does."""

    what: str
    why_not: str | None = None


def main() -> None:
    """Print the findings. Exit codes: 0 it can be pruned, 1 it cannot as it is (the last line of standard
    error says why)."""
    parser = argparse.ArgumentParser(
        prog="python -m workers.local.doctor", description="Say what works for a checkpoint."
    )
    parser.add_argument("directory", type=Path, help="a Hugging Face checkpoint")
    directory = parser.parse_args().directory
    with refusing():
        source = open_source(file_uri(directory), ACCESS)
        check_kind(source, source.names())
        config = parse_config((directory / CONFIG_JSON).read_bytes())
        if not isinstance(config, dict):
            raise UnsupportedCheckpoint(f"{CONFIG_JSON} of {directory} must be a JSON object")
        if language_config(config)["model_type"] not in ROWS:
            _propose(config)
            check_type(config, source=source)
        found = [*findings(source, config)]
        _show(found)
        if found[0].why_not is not None:
            raise UnsupportedCheckpoint(found[0].why_not)


def findings(source: Source, config: Config) -> Iterator[Finding]:
    """Yields what works for a checkpoint of a known type and what does not; first, whether it can be
    pruned."""
    wrapper = wrapper_of(config)
    fixed = () if wrapper is None else inside_of(wrapper)
    config = full_config(language_config(config))
    row = row_for(str(config["model_type"]))
    held = [one for one in (*fixed, *row.fixed) if one.holds(config)]
    blocks = next((one.why for one in held if "num_hidden_layers" in one.sizes), None)
    pruned = "pruning, cutting blocks" if blocks is None else "pruning"
    yield Finding(pruned, _refused(lambda: _compared(source)))
    yield Finding("texts", _refused(lambda: resolve_model(source, needs_tokenizer=True)))
    sizes = sizes_of(row, config)
    for size in get_args(Size):
        why = next((one.why for one in held if size in one.sizes), None)
        if getattr(sizes, size) is None or (size in ("num_hidden_layers", "vocab_size") and why is None):
            continue
        if size not in row.sizes or (size == "num_key_value_heads" and not has_groups(row, config)):
            why = "it follows from the others"
        yield Finding(f"cutting {size}={getattr(sizes, size)}", why)
    yield Finding("recovery training", row.lacks.get("recovery"))
    experts = None if row.experts is None else "masks cannot be learned for models with experts yet"
    yield Finding("learned masks", row.lacks.get("learned_masks", experts))
    yield Finding("evaluation by tasks", row.lacks.get("tasks"))
    alone = None if wrapper is None else wrapper.model_type
    megatron = why_alone(alone, "Megatron") if alone is not None else row.lacks.get("megatron")
    yield Finding("Megatron", megatron or _refused(lambda: args_of(config)))
    for kind in TARGET_KINDS:
        lacked = why_alone(alone, f"target {kind}") if alone is not None else row.lacks.get("target")
        if lacked is not None:
            yield Finding(f"target {kind}", lacked)
            continue
        target: Target = TypeAdapter[Target](Target).validate_python({"kind": kind})

        def check(target: Target = target) -> None:
            check_target(target, model_type=row.model_type, config=config, sizes=sizes, field="spec.target")

        yield Finding(f"target {kind}", _refused(check))


def tried(config: Config) -> Proposal:
    """Returns a row for a type without one, whose blocks give transformers' bits on a tiny random model.
    Raises SecateurError, which says what is in the way."""
    full = json.loads(class_config(config).to_json_string(use_diff=False))
    tiny = class_config(scaled_down(full))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny, dtype=torch.float32).eval()
    proposal = proposed(model, config)
    with trying(proposal.row), tempfile.TemporaryDirectory() as place, torch.no_grad():
        model.save_pretrained(Path(place) / "model")
        if not _streams(Path(place)):
            raise UnsupportedCheckpoint(
                f"the row {proposal.line} does not give transformers' bits, block by block, on a tiny model; "
                f"the type has something of its own that its names do not show"
            )
    return proposal


def _streams(place: Path) -> bool:
    source = open_source(file_uri(place / "model"), ACCESS)
    content = ContentStore(LocalStore(place / "store"))
    *_, ref = import_checkpoint(model_pin(source), source, content)
    assert isinstance(ref, CheckpointRef)
    reader = CheckpointReader(content, ref)
    stream = open_stream(reader, dtype=torch.float32, device=torch.device("cpu"))
    hidden = list(stream.embed(TOKENS))
    for block in range(stream.num_blocks):
        names = stream.block_tensors(block)
        stream.load(block, {inside: reader.tensor(disk) for inside, disk in names.items()})
        hidden = [stream.run(block, one) for one in hidden]
    stream.load_head()
    whole = AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32).eval()
    return all(
        torch.equal(stream.logits(tokens_L, one), whole(input_ids=tokens_L[None]).logits[0])
        for tokens_L, one in zip(TOKENS, hidden, strict=True)
    )


def _propose(config: Config) -> None:
    try:
        proposal = tried(config)
    except SecateurError as error:
        sys.stdout.write(f"{error.message}\n")
        return
    sys.stdout.write(
        f"A row to begin with, for LLAMA_LIKE in pipeline/architecture/llama_like.py:\n\n"
        f"    {proposal.line}\n\n"
        f"With it, the blocks of a tiny random model of the same class give transformers' bits one by one. "
        f"What can be cut is not tried: add a configuration to tests/llama_like_configs.py, and run "
        f"tests/pipeline/architecture/test_llama_like.py (docs/extending.md).\n"
    )


def _compared(source: Source) -> None:
    pin, facts = resolve_model(source, needs_tokenizer=False)
    compare(facts.whole_config, read_headers(pin, source), where=source.uri)


def _refused(check: Callable[[], object]) -> str | None:
    try:
        check()
    except SecateurError as error:
        return error.message
    return None


def _show(found: list[Finding]) -> None:
    table = Table(box=None, header_style="bold")
    for heading in ("what", "works", "why not"):
        table.add_column(heading, overflow="fold")
    for one in found:
        table.add_row(one.what, "yes" if one.why_not is None else "no", one.why_not or "")
    Console().print(table)


if __name__ == "__main__":
    main()
