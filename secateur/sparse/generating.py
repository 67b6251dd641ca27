"""Answers of a model, token by token, as text that can be shown while it grows.

Shape legend: L tokens, V vocabulary.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from secateur.sparse.errors import SparseError

BROKEN = "\N{REPLACEMENT CHARACTER}"  # stands at the end of a text whose last character is not complete
Finish = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to answer. `most`: tokens at most. `temperature`: 0 takes the likeliest token. `top_p`: tokens are
    drawn among the likeliest ones that have this probability together. `stop`: texts that end the answer, and
    are not part of it."""

    most: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Piece:
    """A part of an answer. `text`: what can be shown since the piece before, often nothing. `tokens`: those
    that were generated so far. `finish`: set in the last piece; `length` if `most` tokens did not end it."""

    text: str
    tokens: int
    finish: Finish | None = None


class Answerer:
    """A model with its tokenizer, which may be None where texts are given as ids and no text is wanted."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer

    @classmethod
    def of(cls, model: Any, directory: Path) -> "Answerer":
        """With the tokenizer that lies in a directory. Raises SparseError where there is none."""
        from transformers import AutoTokenizer

        try:
            return cls(model, AutoTokenizer.from_pretrained(directory, local_files_only=True))
        except (OSError, ValueError) as error:
            raise SparseError(f"{directory} has no tokenizer that can be loaded: {error}") from error

    @cached_property
    def positions(self) -> int | None:
        """The most tokens of a text with its answer; None for a model without a limit."""
        config = self.model.config
        found = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
        return found if isinstance(found, int) else None

    @cached_property
    def ends(self) -> frozenset[int]:
        """The ids that end an answer."""
        found = self.model.generation_config.eos_token_id
        return frozenset(found if isinstance(found, Sequence) else () if found is None else (found,))

    def ids_of(self, text: str) -> list[int]:
        """The tokens of a text, with those that the tokenizer puts in front."""
        ids: list[int] = self.tokenizer(text).input_ids
        return ids

    def ids_of_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The tokens of messages in the model's chat template, up to where its answer begins. Raises
        SparseError for a model without a template, and for messages that it refuses."""
        if not self.tokenizer.chat_template:
            raise SparseError(
                "the model has no chat template, so it was not made to chat; use completions, or "
                "`secateur generate`"
            )
        try:
            ids: list[int] = self.tokenizer.apply_chat_template(
                [dict(one) for one in messages], add_generation_prompt=True, return_dict=False
            )
        except Exception as error:  # whatever a template raises
            raise SparseError(f"the model's chat template refuses these messages: {error}") from error
        return ids

    def room(self, prompt: Sequence[int]) -> int | None:
        """The tokens that an answer may have after a prompt, None without a limit. Raises SparseError where
        there are none."""
        if not prompt:
            raise SparseError("the prompt has no tokens; write something")
        if self.positions is None:
            return None
        if len(prompt) >= self.positions:
            raise SparseError(
                f"the prompt has {len(prompt)} tokens, and the model has {self.positions} positions for "
                f"prompt and answer together; shorten the prompt"
            )
        return self.positions - len(prompt)

    def tokens(self, prompt: Sequence[int], options: Options) -> Iterator[int]:
        """The ids of an answer, without the one that ends it."""
        drawn = torch.Generator()
        drawn.manual_seed(options.seed) if options.seed is not None else drawn.seed()
        for token, _ in self.steps(prompt, options.most, lambda logits_V: _chosen(logits_V, options, drawn)):
            if token in self.ends:
                return
            yield token

    def steps(
        self, prompt: Sequence[int], count: int, choose: Callable[[Tensor], int]
    ) -> Iterator[tuple[int, Tensor]]:
        """Each of `count` tokens, with the logits [V] that it was chosen by."""
        given, cache = list(prompt), None
        for _ in range(count):
            logits_V, cache = self._step(given, cache)
            token = choose(logits_V)
            yield token, logits_V
            given = [token]

    def pieces(self, prompt: Sequence[int], options: Options) -> Iterator[Piece]:
        """An answer as text. The last piece has `finish`."""
        text, count = _GrowingText(self.tokenizer, options.stop), 0
        for token in self.tokens(prompt, options):
            count += 1
            shown = text.taken(token)
            if text.stopped:
                yield Piece(shown, count, "stop")
                return
            yield Piece(shown, count)
        rest = text.rest()
        ended = text.stopped or count < options.most
        yield Piece(rest, count, "stop" if ended else "length")

    def _step(self, given: list[int], cache: Any) -> tuple[Tensor, Any]:
        """The logits [V] after the tokens `given`, and the cache with them."""
        last_only = {"logits_to_keep": 1} if self._keeps_logits else {}
        with torch.inference_mode():
            made = self.model(
                input_ids=torch.tensor([given]), past_key_values=cache, use_cache=True, **last_only
            )
        return made.logits[0, -1].float(), made.past_key_values

    @cached_property
    def _keeps_logits(self) -> bool:
        return "logits_to_keep" in signature(self.model.forward).parameters


def _chosen(logits_V: Tensor, options: Options, drawn: torch.Generator) -> int:
    if options.temperature == 0:
        return int(logits_V.argmax())
    probable_V, order_V = (logits_V / options.temperature).softmax(-1).sort(descending=True, stable=True)
    before_V = probable_V.cumsum(-1) - probable_V  # the likeliest token always stays
    probable_V = probable_V.masked_fill(before_V >= options.top_p, 0)
    return int(order_V[torch.multinomial(probable_V, 1, generator=drawn)])


class _GrowingText:
    """The text of tokens that come one by one. Only what no later token changes is given out: not a character
    that is not complete, and nothing that may be the beginning of a stop text."""

    def __init__(self, tokenizer: Any, stop: tuple[str, ...]) -> None:
        self.stopped = False
        self._tokenizer, self._stop = tokenizer, stop
        self._ids: list[int] = []
        self._seen, self._complete = 0, 0  # ids before which all text is known, and ids whose text is
        self._held = ""

    def taken(self, token: int) -> str:
        """Take a token, and give out what can be shown."""
        self._ids.append(token)
        known, now = self._decoded(self._seen, self._complete), self._decoded(self._seen, None)
        if len(now) > len(known) and not now.endswith(BROKEN):
            self._held += now[len(known) :]
            self._seen, self._complete = self._complete, len(self._ids)
        return self._released(at_end=False)

    def rest(self) -> str:
        """What is left when no token follows."""
        known, now = self._decoded(self._seen, self._complete), self._decoded(self._seen, None)
        self._held += now[len(known) :]
        return self._released(at_end=True)

    def _released(self, *, at_end: bool) -> str:
        found = [place for one in self._stop if (place := self._held.find(one)) >= 0]
        if found:
            self.stopped = True
            return self._held[: min(found)]
        keep = 0 if at_end else max((_overlap(self._held, one) for one in self._stop), default=0)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def _decoded(self, start: int, end: int | None) -> str:
        text: str = self._tokenizer.decode(self._ids[start:end], skip_special_tokens=True)
        return text


def _overlap(text: str, stop: str) -> int:
    """The length of the longest beginning of `stop` with which `text` ends."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
