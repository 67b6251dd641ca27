"""Megatron's two checkpoint layouts, read under Hugging Face's names and written from them. Each layout has
one reader and one writer; the tensor-parallel size is changed by reading and writing again. Pickles are never
executed, and Megatron itself is not imported."""
