"""Both packages that read safetensors know the same types; neither may import the other."""

from pipeline.checkpoint import reader
from secateur.sparse import tensor_file


def test_both_tables_of_types_are_equal() -> None:
    assert reader.DTYPES == tensor_file.DTYPES
