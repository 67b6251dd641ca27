"""Converts GGUF to an ordinary Hugging Face directory with bfloat16 safetensors and a tokenizer.

A GGUF file is usually quantized: its weights are expanded, but their lost precision is not restored.
transformers does the reading.
"""

import struct
from pathlib import Path

from pipeline.checkpoint.export import new_directory
from pipeline.errors import SourceNotFound, UnsupportedCheckpoint

MAGIC = b"GGUF"


def convert_gguf(path: Path, out_dir: Path) -> Path:
    """Writes the checkpoint as `out_dir`, which must not exist, and returns it. Holds the model in memory.

    The directory appears complete or not at all. Raises SourceNotFound, InvalidSpec when `out_dir` exists,
    and UnsupportedCheckpoint for files that are not GGUF or of a model type that transformers cannot read.
    """
    if not path.is_file():
        raise SourceNotFound(f"{path} does not exist, or is not a file")
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise UnsupportedCheckpoint(f"{path} is no GGUF file: it does not begin with {MAGIC.decode()}")
    with new_directory(out_dir) as written:
        _save(path, written)
    return out_dir


def _save(path: Path, directory: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (ValueError, LookupError, NotImplementedError, struct.error) as error:  # struct: cut short
        raise UnsupportedCheckpoint(f"transformers cannot read {path}: {error}") from error
    # The weights are ordinary now; with these marks transformers refuses to save them.
    model.is_quantized = False
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
