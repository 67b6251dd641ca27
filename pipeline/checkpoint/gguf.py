"""Converts GGUF to an ordinary Hugging Face directory with bfloat16 safetensors and a tokenizer.

A GGUF file is usually quantized: its weights are expanded, but their lost precision is not restored.
transformers does the reading, and what it leaves out is put in or refused (gguf_file.py).
"""

import hashlib
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.architecture.rows import ROWS
from pipeline.checkpoint.compare import compare
from pipeline.checkpoint.config_json import parse_config
from pipeline.checkpoint.export import new_directory
from pipeline.checkpoint.gguf_file import GGUFFile
from pipeline.checkpoint.header import read_local_headers
from pipeline.checkpoint.layout import CONFIG_JSON
from pipeline.errors import SourceNotFound, UnsupportedCheckpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAGIC = b"GGUF"
# The file is cut short (struct.error), or its tensors or tokens do not fit its settings (the two before it).
UNREADABLE = (ValueError, LookupError, RuntimeError, AssertionError, struct.error)


def convert_gguf(path: Path, out_dir: Path) -> Path:
    """Writes the checkpoint as `out_dir`, which must not exist, and returns it. Holds the model in memory.

    The directory appears complete or not at all, and has been loaded before it appears. Raises
    SourceNotFound, InvalidSpec when `out_dir` exists, and UnsupportedCheckpoint for files that are not GGUF,
    of a model type that transformers cannot read, with tensors or settings that it has no place for, or with
    weights that are not finite.
    """
    if not path.is_file():
        raise SourceNotFound(f"{path} does not exist, or is not a file")
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise UnsupportedCheckpoint(f"{path} is no GGUF file: it does not begin with {MAGIC.decode()}")
    with new_directory(out_dir) as written:
        digests = _save(path, written)
        _certify(written, digests, of=path)
    return out_dir


def _save(path: Path, directory: Path) -> dict[str, str]:
    """Writes the checkpoint. Returns the digest of each of its tensors."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        stated = GGUFFile(path)
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        stated.complete(config)
        model, report = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, config=config, dtype=torch.bfloat16, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except UNREADABLE as error:
        raise UnsupportedCheckpoint(f"transformers cannot read {path}: {error}") from error
    stated.check_consumed(model)
    missing = sorted(map(str, report["missing_keys"]))
    if missing:
        raise UnsupportedCheckpoint(
            f"{path} lacks {len(missing)} tensors of the {config.model_type} that its settings describe, "
            f"such as {missing[0]}; the file is not whole, or is one of several parts"
        )
    # The weights are ordinary now; with these marks transformers refuses to save them.
    model.is_quantized = False
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    digests = _digests(model, of=path)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return digests


def _certify(directory: Path, digests: dict[str, str], *, of: Path) -> None:
    """Raises UnsupportedCheckpoint unless the directory is the whole model of its config.json, and gives the
    model that was written into it. A type without a row is only loaded: nothing else here reads it."""
    import torch
    from transformers import AutoModelForCausalLM

    config = parse_config((directory / CONFIG_JSON).read_bytes())
    assert isinstance(config, dict), "transformers has written it"
    if config["model_type"] in ROWS:
        compare(config, read_local_headers(directory.glob("*.safetensors")), where=str(of))
    model, report = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.bfloat16, output_loading_info=True
    )
    wrong = {name: sorted(map(str, found))[:3] for name, found in report.items() if found}
    changed = [name for name, digest in _digests(model, of=of).items() if digests.get(name) != digest]
    if wrong or changed:
        raise UnsupportedCheckpoint(
            f"the checkpoint that transformers makes of {of} does not load as it was written: "
            f"{wrong or f'{len(changed)} tensors differ, such as {changed[0]}'}"
        )


def _digests(model: "PreTrainedModel", *, of: Path) -> dict[str, str]:
    """Returns the SHA-256 of every tensor of a model. Raises UnsupportedCheckpoint for one that is not
    finite."""
    import torch

    digests = {}
    for name, tensor in model.state_dict().items():
        count = tensor.numel() - int(torch.isfinite(tensor).sum())
        if count:
            raise UnsupportedCheckpoint(
                f"{name} of {of} has {count} values that are NaN or infinite; the file is damaged, or was "
                f"quantized from such weights"
            )
        data = tensor.contiguous().view(torch.uint8) if tensor.dim() else tensor.reshape(1).view(torch.uint8)
        digests[name] = hashlib.sha256(data.numpy()).hexdigest()
    return digests
