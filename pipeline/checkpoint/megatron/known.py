"""The model types that have a layout in Megatron. The API reads this, so that it needs no torch."""

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
