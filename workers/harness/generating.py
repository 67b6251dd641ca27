"""A checkpoint, loaded whole, continues prompts.

The settings of generation_config.json (temperature, penalties) are left out: the stage says what a
continuation depends on. Shapes: B prompts of a batch, T tokens.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from pipeline.artifacts.refs import CheckpointRef
from pipeline.errors import InvalidSpec, NumericalError, SequenceTooLong
from pipeline.request.parts import WorkerShare
from pipeline.spec.model import Dtype
from pipeline.storage.content import ContentStore
from pipeline.tensor.dtypes import TORCH_DTYPES
from workers.harness.files import materialise_checkpoint


@dataclass(frozen=True)
class Drawing:
    """How the next token is drawn, with `temperature` among the `top_k` most probable, or among all."""

    temperature: float
    top_k: int | None


@dataclass(frozen=True)
class Writer:
    """A model that continues prompts. `ends`: the tokens after which a continuation ends; `positions`: the
    most tokens that the model takes, where it has a limit."""

    model: Any
    tokenizer: Any
    ends: tuple[int, ...]
    positions: int | None

    def prompt_ids(self, prompt: str, *, begins: bool) -> list[int]:
        """Returns a prompt as tokens, with what the tokenizer puts around it. A prompt that begins with BOS,
        as those of templates do, gets no other. `begins`: put BOS in front whatever the tokenizer does.
        Raises InvalidSpec for a prompt without tokens, and where BOS is needed and missing."""
        bos = self.tokenizer.bos_token
        marked = bos is not None and prompt.startswith(bos)
        ids = self.tokenizer(prompt, add_special_tokens=not marked and not begins, verbose=False)["input_ids"]
        if begins and not marked:
            if bos is None:
                raise InvalidSpec("prompts of this model type begin with BOS, and the tokenizer has none")
            ids = [self.tokenizer.bos_token_id, *ids]
        if not ids:
            raise InvalidSpec(f"prompt {prompt[:40]!r} has no tokens; write a longer one")
        return list(ids)

    def continued(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, drawing: Drawing | None = None
    ) -> list[list[int]]:
        """Returns the new tokens of each prompt of a batch, with the token that ends them if there is one.
        Without a drawing, the most probable token is taken. Raises SequenceTooLong, and NumericalError for
        logits that are no numbers."""
        longest = max(map(len, prompts))
        if self.positions is not None and longest + max_new_tokens > self.positions:
            raise SequenceTooLong(
                f"a prompt has {longest} tokens, and with {max_new_tokens} new ones it is longer than the "
                f"model's {self.positions} positions; use shorter prompts or fewer tokens"
            )
        ids_BT = torch.tensor([[self._pad] * (longest - len(one)) + list(one) for one in prompts])
        seen_BT = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts])
        device = self.model.device
        try:
            made_BT = self.model.generate(
                input_ids=ids_BT.to(device),
                attention_mask=seen_BT.to(device),
                generation_config=self._config(max_new_tokens, drawing),
            )
        except RuntimeError as error:
            if "probability tensor" in str(error):
                raise NumericalError("the model's logits are no numbers: its weights are damaged") from error
            raise
        return [self._until_end(row) for row in made_BT[:, longest:].tolist()]

    @property
    def _pad(self) -> int:
        """A token with a row; attention does not see it."""
        return self.ends[0] if self.ends else 0

    def _config(self, max_new_tokens: int, drawing: Drawing | None) -> GenerationConfig:
        drawn = {} if drawing is None else {"temperature": drawing.temperature, "top_k": drawing.top_k or 0}
        return GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=drawing is not None,
            eos_token_id=list(self.ends) or None,
            pad_token_id=self._pad,
            **drawn,
        )

    def _until_end(self, tokens: list[int]) -> list[int]:
        """Returns the tokens up to the first one that ends them; those behind it fill the batch."""
        end = next((i for i, token in enumerate(tokens) if token in self.ends), len(tokens))
        return tokens[: end + 1]


@contextmanager
def writer(
    ref: CheckpointRef, content: ContentStore, *, dtype: Dtype, resources: WorkerShare
) -> Iterator[Writer]:
    """Load a checkpoint into the memory of a worker, or onto its GPUs, for the time of a context."""
    torch.set_num_threads(resources.cpus_per_worker)
    gpus = resources.gpus_per_worker
    with tempfile.TemporaryDirectory(prefix="secateur-writer-") as name:
        directory = Path(name)
        materialise_checkpoint(ref, content, directory)
        placed = {"device_map": "auto"} if gpus > 1 else {}
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=TORCH_DTYPES[dtype], **placed)
        tokenizer = AutoTokenizer.from_pretrained(directory)
    if gpus and not placed:
        model = model.to("cuda")
    rows = model.get_input_embeddings().num_embeddings
    stated = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(stated if isinstance(stated, list) else [stated])}
    known = sorted(token for token in ends if token is not None and 0 <= token < rows)
    model.generation_config = GenerationConfig()
    yield Writer(
        model.eval(), tokenizer, tuple(known), getattr(model.config, "max_position_embeddings", None)
    )
