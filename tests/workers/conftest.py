"""A model that lm-eval can evaluate on real questions, and a pruned one with sequences to train on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.models import tiny_config, tiny_tokenizer
from tests.workers.training_runs import Prepared, prepare


@pytest.fixture(scope="module", autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with room for whole questions."""
    directory = tmp_path_factory.mktemp("models") / "llama"
    config = tiny_config("llama")
    config.max_position_embeddings = 1024
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    tiny_tokenizer("llama").save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A tiny Llama pruned to half by magnitude."""
    return prepare(tmp_path_factory.mktemp("training"))
