"""Converts a checkpoint between layouts: Hugging Face, Megatron's `torch_dist` and `mp_rank_XX`.

The whole model is never in memory: readers return one tensor at a time, writers take one parameter or block.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from pipeline.checkpoint.config_json import loadable, loadable_bytes, parse_config
from pipeline.checkpoint.export import new_directory
from pipeline.checkpoint.layout import (
    CONFIG_JSON,
    GENERATION_CONFIG_JSON,
    TOKENIZER_FILES,
    depends_on_ids,
    has_tokenizer,
    is_beside,
    is_template,
)
from pipeline.checkpoint.megatron.huggingface import HuggingFaceDirectory, write_config, write_huggingface
from pipeline.checkpoint.megatron.mp_rank import RANK, MpRank
from pipeline.checkpoint.megatron.mp_rank_writer import write_mp_rank
from pipeline.checkpoint.megatron.presented import MegatronWeights
from pipeline.checkpoint.megatron.torch_dist import METADATA, TorchDist
from pipeline.checkpoint.megatron.torch_dist_writer import write_torch_dist
from pipeline.checkpoint.megatron.weights import Weights
from pipeline.checkpoint.megatron.whole import Implementation, WholeParameters
from pipeline.errors import InvalidSpec, SourceNotFound, UnsupportedCheckpoint
from pipeline.sources.access import TEMPLATE_FOLDER

Layout = Literal["hf", "torch_dist", "mp_rank"]
TRACKER = "latest_checkpointed_iteration.txt"
RELEASE = "release"  # Megatron-LM's name for weights without optimizer and iteration


def convert(
    source: Path,
    out: Path,
    *,
    to: Layout,
    tensor_parallel: int = 1,
    implementation: Implementation = "transformer_engine",
    config: Path | None = None,
    tokenizer: Path | None = None,
    say: Callable[[str], object] = lambda sentence: None,
) -> Path:
    """Writes the checkpoint in `source` as `out`, which must not exist, and returns it.

    `config`: a config.json, or a directory that has one, for checkpoints whose args are incomplete.
    `implementation`: Megatron's --transformer-impl, which determines the names of some norms in `mp_rank`.
    `tokenizer`: a directory whose tokenizer is copied; by default that of the source is. `say` gets sentences
    for the user about what is not read or not as config.json says. The directory
    appears complete or not at all. Raises SourceNotFound, InvalidSpec, UnsupportedModel and
    UnsupportedCheckpoint.
    """
    if to == "hf" and tensor_parallel != 1:
        raise InvalidSpec(
            "--tensor-parallel is for torch_dist and mp_rank; leave it out for hf", "tensor_parallel"
        )
    weights = open_weights(source, config=config)
    if isinstance(weights, HuggingFaceDirectory):
        for sentence in weights.remarks:
            say(sentence)
    kept = _kept_files(source, tokenizer)
    whole = None if to == "hf" else WholeParameters(weights, tensor_parallel=tensor_parallel)
    with new_directory(out) as written:
        if whole is None:
            write_huggingface(weights, written)
        else:
            release = written / RELEASE
            release.mkdir()
            if to == "torch_dist":
                write_torch_dist(whole, release, implementation=implementation)
            else:
                write_mp_rank(whole, release, ranks=tensor_parallel, implementation=implementation)
            (written / TRACKER).write_text(RELEASE, encoding="utf-8")
            write_config(weights.config, written)
        for name, path in kept.items():
            (written / name).parent.mkdir(exist_ok=True)
            (written / name).write_bytes(loadable_bytes(name, path.read_bytes()))
    return out


def open_weights(source: Path, *, config: Path | None = None) -> Weights:
    """Opens the weights of a directory in any of the layouts. `config` as in `convert`. Raises
    SourceNotFound, and UnsupportedCheckpoint for a directory without any of the layouts."""
    if not source.is_dir():
        raise SourceNotFound(f"{source} does not exist, or is not a directory")
    directory = _latest(source)
    loaded = _config(config, beside=(directory, source, directory.parent))
    if (directory / METADATA).exists():
        return MegatronWeights(TorchDist(directory), config=loaded, where=directory)
    if any(RANK.fullmatch(one.name) for one in directory.iterdir()):
        return MegatronWeights(MpRank(directory), config=loaded, where=directory)
    if loaded is None:
        raise UnsupportedCheckpoint(
            f"{source} has no {METADATA} (torch_dist), no mp_rank_XX and no {CONFIG_JSON}: it is no "
            f"checkpoint of Megatron or Hugging Face; name the directory that has one of them, "
            f"or that of {TRACKER}"
        )
    return HuggingFaceDirectory(directory, config=loaded)


def _latest(source: Path) -> Path:
    """Returns the directory of the iteration that Megatron-LM's tracker names, or the source itself."""
    tracker = source / TRACKER
    if not tracker.is_file():
        return source
    said = tracker.read_text(encoding="utf-8").strip()
    name = said if said == RELEASE else f"iter_{int(said):07d}" if said.isdecimal() else ""
    if not name or not (source / name).is_dir():
        raise UnsupportedCheckpoint(f"{tracker} names {said!r}, and there is no such iteration beside it")
    return source / name


def _config(named: Path | None, *, beside: tuple[Path, ...]) -> Mapping[str, JsonValue] | None:
    if named is not None:
        path = named / CONFIG_JSON if named.is_dir() else named
        if not path.is_file():
            raise SourceNotFound(
                f"{path} does not exist; --config takes a config.json, or a directory with one"
            )
    else:
        found = [one / CONFIG_JSON for one in beside if (one / CONFIG_JSON).is_file()]
        if not found:
            return None
        path = found[0]
    try:
        loaded = parse_config(path.read_bytes())
    except ValueError as error:
        raise UnsupportedCheckpoint(f"{path} is no JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise UnsupportedCheckpoint(f"{path} is no JSON object")
    return loadable(CONFIG_JSON, loaded)[0]


def _kept_files(source: Path, tokenizer: Path | None) -> dict[str, Path]:
    """Returns the files of tokenizer and generation settings and those beside them, which are copied, by the
    names that they get."""
    directory = source if tokenizer is None else tokenizer
    files = {name: directory / name for name in TOKENIZER_FILES if (directory / name).is_file()}
    if tokenizer is not None and not has_tokenizer(files):
        raise SourceNotFound(
            f"{tokenizer} has no tokenizer; --tokenizer takes a directory with tokenizer.json"
        )
    for path in (*directory.iterdir(), *(directory / TEMPLATE_FOLDER).glob("*")):
        name = str(path.relative_to(directory))
        if path.is_file() and is_beside(name):
            files[name] = path
    for path in source.iterdir():
        own = is_beside(path.name) and not is_template(path.name) and not depends_on_ids(path.name)
        if path.is_file() and (own or path.name == GENERATION_CONFIG_JSON):
            files[path.name] = path
    return files
