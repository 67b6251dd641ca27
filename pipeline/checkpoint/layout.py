"""The files that make up a Hugging Face checkpoint, and those that belong beside it."""

import fnmatch
from collections.abc import Collection

from pipeline.sources.access import TEMPLATE_FOLDER

CONFIG_JSON = "config.json"
GENERATION_CONFIG_JSON = "generation_config.json"
WEIGHTS_INDEX_JSON = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"  # takes precedence over shards, as in transformers
TOKENIZER_CONFIG_JSON = "tokenizer_config.json"
SENTENCEPIECE = ("tokenizer.model", "spiece.model")  # T5 and its kin have the second name
TOKENIZER_FILES = (
    "tokenizer.json",
    *SENTENCEPIECE,
    TOKENIZER_CONFIG_JSON,
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "chat_template.jinja",
)
PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".ckpt")

# Further files are carried from the source into the result unchanged. Names are compared without their case.
TEMPLATES = ("chat_template.json", f"{TEMPLATE_FOLDER}/*.jinja")
OTHER_TOKENIZERS = ("tekken.json", "*.tiktoken", "vocab.txt", "tokenizer.model.v*")
BESIDE = (
    *TEMPLATES,
    *OTHER_TOKENIZERS,
    "*processor_config.json",  # preprocessor_config.json, video_preprocessor_config.json ...
    *("license*", "licence*", "notice*", "use_policy*", "copying*"),
)
BESIDE_BYTES = 32 * 1024 * 1024  # the most of one of these; the largest in use, tekken.json, has 20 MB
NO_TEXT = (*PICKLE_ENDINGS, ".safetensors", ".gguf", ".onnx", ".pkl")  # whatever they are called


def is_description(name: str) -> bool:
    """Tells whether a file describes a checkpoint and holds no weights."""
    named = (CONFIG_JSON, GENERATION_CONFIG_JSON, WEIGHTS_INDEX_JSON, *TOKENIZER_FILES)
    return name in named or is_beside(name)


def is_beside(name: str) -> bool:
    """Tells whether a file belongs beside the weights although this project does not read it: chat templates,
    tokenizers of other libraries, settings of processors, licences and notices."""
    return _matches(name, BESIDE) and not name.lower().endswith(NO_TEXT)


def is_template(name: str) -> bool:
    """Tells whether a file is a chat template that transformers reads beside the tokenizer's own files."""
    return _matches(name, TEMPLATES)


def depends_on_ids(name: str) -> bool:
    """Tells whether a file beside the weights has tokens by their ids, so that it is wrong for a cut
    vocabulary."""
    return _matches(name, OTHER_TOKENIZERS)


def has_tokenizer(names: Collection[str]) -> bool:
    """Tells whether a tokenizer can be loaded from these files."""
    alone = ("tokenizer.json", *SENTENCEPIECE)
    return any(name in names for name in alone) or {"vocab.json", "merges.txt"} <= {*names}


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    lower = name.lower()
    return any(fnmatch.fnmatchcase(lower, one) and one.count("/") == lower.count("/") for one in patterns)
