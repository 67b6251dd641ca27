"""Megatron's two checkpoint layouts, read under Hugging Face's names and written from them.
Each layout is one reader and one writer; changing the tensor-parallel size is reading and writing again.
Pickles are never executed, and Megatron itself is not imported."""
