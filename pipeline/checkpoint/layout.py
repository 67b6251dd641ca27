"""The files that make up a Hugging Face checkpoint."""

from collections.abc import Collection

CONFIG_JSON = "config.json"
GENERATION_CONFIG_JSON = "generation_config.json"
WEIGHTS_INDEX_JSON = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"  # takes precedence over shards, as in transformers
TOKENIZER_CONFIG_JSON = "tokenizer_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    TOKENIZER_CONFIG_JSON,
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "chat_template.jinja",
)
PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".ckpt")


def is_description(name: str) -> bool:
    """Tells whether a file describes a checkpoint and holds no weights."""
    return name in (CONFIG_JSON, GENERATION_CONFIG_JSON, WEIGHTS_INDEX_JSON, *TOKENIZER_FILES)


def has_tokenizer(names: Collection[str]) -> bool:
    """Tells whether a tokenizer can be loaded from these files."""
    return "tokenizer.json" in names or "tokenizer.model" in names or {"vocab.json", "merges.txt"} <= {*names}
