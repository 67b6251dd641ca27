"""Encoder-decoders in a store, for the files of tests about them."""

from collections.abc import Callable
from functools import cache

import pytest

from tests.checkpoints import imported
from tests.encoder_decoder_checkpoints import encoder_decoder
from tests.stored import Stored


@pytest.fixture(scope="session")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Stored]:
    """Checkpoints of encoder-decoders by name, made once."""

    @cache
    def made(name: str) -> Stored:
        base = tmp_path_factory.mktemp(name)
        directory = encoder_decoder(name, base / "model")
        return Stored(directory, *imported(directory, base / "store"))

    return made
