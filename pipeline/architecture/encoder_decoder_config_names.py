"""How transformers' classes of encoder-decoders read config.json."""

from collections.abc import Mapping

from pipeline.architecture.config_names import ConfigNames


def _t5_like(blocks: int, heads: int, ffn: int, tokens: int) -> ConfigNames:
    """Returns the entry of an encoder-decoder of T5's kind. The number of decoder blocks follows from that of
    the encoder's where it is left out, so it has no default."""
    return ConfigNames(
        {
            "d_model": ("hidden_size", "d_model"),
            "num_layers": ("num_hidden_layers", "num_layers"),
            "num_heads": ("num_attention_heads", "num_heads"),
            "head_dim": ("head_dim", "d_kv"),
        },
        {
            "d_model": 512,
            "num_layers": blocks,
            "num_heads": heads,
            "head_dim": 64,
            "d_ff": ffn,
            "vocab_size": tokens,
            "tie_word_embeddings": True,
        },
    )


ENCODER_DECODER_CONFIG_NAMES: Mapping[str, ConfigNames] = {
    "t5": _t5_like(6, 8, 2048, 32128),
    "mt5": _t5_like(8, 6, 1024, 250112),
    "umt5": _t5_like(8, 6, 1024, 250112),
}
