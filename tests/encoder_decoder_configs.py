"""A tiny configuration of each encoder-decoder type, and of T5 1.1: gated, with a head of its own. Encoder
and decoder have different numbers of blocks, so that nothing that mixes them up passes."""

from typing import Any

ROWS = 384  # of the embedding; the tokenizer has fewer tokens, as in real ones
_SIZES = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4, "num_layers": 3, "num_decoder_layers": 2}
_COMMON: dict[str, Any] = {
    **_SIZES,
    "vocab_size": ROWS,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "dropout_rate": 0.1,
    "decoder_start_token_id": 0,
}
ENCODER_DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("t5", {**_COMMON, "feed_forward_proj": "relu"}),
    "t5-gated": ("t5", {**_COMMON, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("mt5", {**_COMMON, "feed_forward_proj": "gated-gelu"}),
    "umt5": ("umt5", {**_COMMON, "feed_forward_proj": "gated-gelu"}),
}
OWN_HEAD = ("t5-gated", "mt5")  # names of models whose stored head is not the embedding
ENCODER_DECODER_TYPES = {kind for kind, _ in ENCODER_DECODERS.values()}
