"""GGUF → an ordinary Hugging Face directory with bfloat16 safetensors and a tokenizer.

A GGUF file is usually quantized: its weights are expanded, never restored. transformers does the reading.
"""

import shutil
import struct
import tempfile
from pathlib import Path

from pipeline.errors import InvalidSpec, SourceNotFound, UnsupportedCheckpoint

MAGIC = b"GGUF"


def convert_gguf(path: Path, out_dir: Path) -> Path:
    """Write the checkpoint as `out_dir`, which must not exist, and return it. Holds the model in memory.

    The directory appears whole or not at all. Raises SourceNotFound, InvalidSpec when `out_dir` exists, and
    UnsupportedCheckpoint for files that are no GGUF, or of a model type that transformers cannot read.
    """
    if not path.is_file():
        raise SourceNotFound(f"{path} does not exist, or is not a file")
    if out_dir.exists():
        raise InvalidSpec(f"{out_dir} exists; name a directory that is to be made")
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise UnsupportedCheckpoint(f"{path} is no GGUF file: it does not begin with {MAGIC.decode()}")
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    written = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent))
    try:
        _save(path, written)
        written.chmod(0o755)  # temporary directories, and weights as they are saved, are closed to others
        for saved in written.iterdir():
            saved.chmod(0o644)
        written.rename(out_dir)
    finally:
        shutil.rmtree(written, ignore_errors=True)
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
