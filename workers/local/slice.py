"""`python -m workers.local.slice DIRECTORY OUT < STRUCTURE` cuts a checkpoint on this machine, without a
cluster.

The structure comes through standard input: one that names every channel is longer than an argument may be.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pydantic import JsonValue
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pipeline.architecture.rows import row_for
from pipeline.artifacts.refs import CheckpointRef, CutRef, StatisticsRef
from pipeline.blocks.local import LocalCrew
from pipeline.blocks.measuring import measure_statistics
from pipeline.blocks.steps import run_through
from pipeline.canonical import canonical_json
from pipeline.checkpoint.config_json import parse_config
from pipeline.checkpoint.constructs import check_constructs
from pipeline.checkpoint.export import export_checkpoint
from pipeline.checkpoint.language_model import check_inside, language_config
from pipeline.checkpoint.layout import CONFIG_JSON
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.scoring import StoredModel
from pipeline.checkpoint.skeleton import parameter_count
from pipeline.checkpoint.slicing import full_config, slice_checkpoint
from pipeline.dag.stages.structure import sweep_needs
from pipeline.errors import InvalidSpec, UnsupportedCheckpoint
from pipeline.request.bos import with_bos
from pipeline.resolve.kinds import check_kind, check_type
from pipeline.resolve.resolve import resolve_text
from pipeline.sources import open_source
from pipeline.spec.structure import Structure
from pipeline.spec.texts import Calibration
from pipeline.spec.uri import file_uri
from pipeline.storage import ContentStore
from pipeline.structure.cut import Cut
from pipeline.structure.sizes import resized, sizes_of
from pipeline.structure.target import slow_sizes
from pipeline.tensor.needs import Statistic
from pipeline.text.documents import ChatReader, read_documents
from pipeline.text.loading import load_tokenizer
from pipeline.text.spans import Gaps
from pipeline.text.tokens import cut_samples
from workers.local.cutting import ACCESS, cutting
from workers.local.refusal import refusing


def main() -> None:
    """Cut a checkpoint. Exit codes: 0 cut, 1 refused (the reason is the last line of standard error)."""
    parser = argparse.ArgumentParser(
        prog="python -m workers.local.slice", description="Cut a checkpoint to size."
    )
    parser.add_argument("directory", type=Path, help="a Hugging Face checkpoint")
    parser.add_argument("out", type=Path, nargs="?", help="must not exist")
    parser.add_argument("--calibration", help="a Calibration as JSON")
    parser.add_argument("--plan", action="store_true", help="print the sizes, and do nothing")
    arguments = parser.parse_args()
    structure = Structure.model_validate_json(sys.stdin.read())
    calibration = None
    if arguments.calibration is not None:
        calibration = Calibration.model_validate_json(arguments.calibration)
    with refusing():
        _show(arguments.directory, structure)
        if not arguments.plan:
            _cut(arguments.directory, arguments.out, structure, calibration)


def _show(directory: Path, structure: Structure) -> None:
    """Print sizes and parameters before and after, from config.json alone."""
    source = open_source(file_uri(directory), ACCESS)
    if not (directory / CONFIG_JSON).is_file():
        check_kind(source, source.names())
    config = _config(directory / CONFIG_JSON)
    row = row_for(check_type(config, source=source))
    whole, config = config, full_config(language_config(config))
    check_constructs(structure, config)
    old, new = sizes_of(row, config), structure.target(row, config)
    check_inside(whole, old, new)
    changes = structure.changes(row, config)
    smaller = {**resized(row, config, new, structure.foreseen(row, config)), **changes}
    table = Table(box=None, header_style="bold")
    for heading in ("", "dense", "cut"):
        table.add_column(heading, justify="right" if heading else "left")
    for size, before in old:
        after = getattr(new, size)
        if before is not None:
            table.add_row(size, f"{before:,}", f"{after:,}", style=None if before != after else "dim")
    counts = parameter_count(config), parameter_count(smaller)
    table.add_row("parameters", *(f"{count:,}" for count in counts))
    console = Console()
    console.print(table)
    for sentence in slow_sizes(old, new):
        console.print(f"note: {sentence}", soft_wrap=True)


def _config(path: Path) -> dict[str, JsonValue]:
    try:
        config = parse_config(path.read_bytes())
    except ValueError as error:
        raise UnsupportedCheckpoint(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise UnsupportedCheckpoint(f"{path} must be a JSON object, got {type(config).__name__}")
    return config


def _cut(directory: Path, out: Path, structure: Structure, calibration: Calibration | None) -> None:
    if structure.needs_samples and calibration is None:
        raise InvalidSpec(
            "this criterion measures activations: name a text with --calibration, or set "
            "criterion.kind=magnitude"
        )
    with cutting(directory, out, needs_tokenizer=structure.needs_samples) as work:
        content, ref, progress = work.content, work.dense, work.progress
        statistics = None
        if structure.needs_samples and calibration is not None:
            task = progress.add_task("measures", total=work.blocks)
            model_type = str(CheckpointReader(content, ref).config["model_type"])
            samples = _samples(content, ref, with_bos(calibration, model_type))
            statistics = _measured(
                content, ref, samples, needs=sweep_needs(structure), advance=lambda: progress.advance(task)
            )
        model = StoredModel(content, CheckpointReader(content, ref), statistics)
        config = full_config(model.reader.config)
        check_constructs(structure, config)
        cut = structure.cut(model.row, config, model)
        task = progress.add_task("cuts", total=len(cut.blocks))
        changes = structure.changes(model.row, config)
        for made in slice_checkpoint(content, model.reader, cut, like=ref, changes=changes):
            if isinstance(made, int):
                progress.update(task, completed=made)
            else:
                export_checkpoint(content, made, work.written)
        (work.written / CutRef.path_of(Cut)).write_bytes(canonical_json(cut))


def _samples(content: ContentStore, ref: CheckpointRef, calibration: Calibration) -> list[Tensor]:
    pin = resolve_text(calibration, ACCESS)
    tokenizer = load_tokenizer(ref, content)
    source = open_source(pin.source, ACCESS, repository="dataset")
    documents = read_documents(
        calibration, pin, source, ACCESS, reader=ChatReader(tokenizer, "the checkpoint")
    )
    samples_NL = cut_samples(documents, tokenizer, calibration)
    if row_for(str(CheckpointReader(content, ref).config["model_type"])).pairs is not None:
        samples_NL = Gaps.of(tokenizer, field="calibration").pairs(samples_NL, seed=calibration.seed)
    return list(samples_NL)


def _measured(
    content: ContentStore,
    ref: CheckpointRef,
    samples: Sequence[Tensor],
    *,
    needs: Iterable[Statistic],
    advance: Callable[[], None],
) -> StatisticsRef:
    """Measure what criteria need of every block in one dense sweep in this process."""
    crew = LocalCrew(content, ref, samples)
    loop = measure_statistics(crew, frozenset(needs), samples=len(samples))
    return run_through(loop, lambda step: advance())


if __name__ == "__main__":
    main()
