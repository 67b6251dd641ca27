"""A checkpoint as lm-eval's model: it is loaded as by lm-eval's command line, and reports every request."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.models.huggingface import HFLM

from pipeline.errors import NumericalError, SequenceTooLong

Tell = Callable[[int, int], None]
Tokens = tuple[tuple[str, str] | None, list[int], list[int]]  # texts, question, answer


class TellingModel(HFLM):
    """HFLM, unchanged in what it computes.

    `notes`: what differs from lm-eval's command line, which would fail there: a pad token without a row, or
    a tokenizer with neither BOS nor EOS.
    """

    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # the options of HFLM
        self.notes = tuple(_padded_within(self.tokenizer, self.model.get_input_embeddings().num_embeddings))
        if self.tokenizer.bos_token_id is None and self.tokenizer.eos_token_id is None:
            self.custom_prefix_token_id = 0
            self.notes += ("the tokenizer has neither BOS nor EOS: texts without a question follow token 0",)
        self.tell_to(lambda done, total: None)

    def tell_to(self, tell: Tell) -> None:
        """Have `tell` receive the numbers of finished and of all requests, from zero on."""
        self._hook = _CountingHook(tell)
        self.set_cache_hook(self._hook)

    engine: str | None = None  # what computes, where it is not transformers

    def close(self) -> None:
        """Free what is not memory of this process."""

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """See LM."""
        self._hook.expect(len(requests))
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """See LM."""
        self._hook.expect(len(requests))
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """See LM."""
        self._hook.expect(len(requests))
        return super().generate_until(requests, disable_tqdm=True)

    def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> Any:
        """See HFLM, which also asks for the text of EOS: None where the tokenizer has none, so that no stop
        text is made of it."""
        return None if tokens is None else super().tok_decode(tokens, skip_special_tokens)

    def _loglikelihood_tokens(self, requests: list[Tokens], **options: Any) -> list[tuple[float, bool]]:
        self._check_answers(requests)
        return super()._loglikelihood_tokens(requests, **options)

    def _check_answers(self, requests: list[Tokens]) -> None:
        """Check what lm-eval only asserts: questions may be cut at their left end, answers never. Raises
        SequenceTooLong."""
        longest = max((len(answer) for _, _, answer in requests), default=0)
        if longest > self.max_length:
            raise SequenceTooLong(
                f"an answer of the task has {longest} tokens, and the model takes {self.max_length}; leave "
                f"the task out"
            )


def _padded_within(tokenizer: Any, rows: int) -> Iterator[str]:
    """Make a tokenizer whose pad token is beyond the embedding's rows pad with one that has a row; attention
    never sees it. Yields a note about it."""
    pad = tokenizer.pad_token_id
    if pad is None or pad < rows:
        return
    known = (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id, 0)
    instead = next(token for token in known if token is not None and token < rows)
    text = tokenizer.convert_ids_to_tokens(instead)
    yield (
        f"pad_token {tokenizer.pad_token!r} is token {pad}, and the embedding has {rows} rows: padded with "
        f"token {instead} {text!r} instead"
    )
    tokenizer.pad_token = text


class _CountingHook(CacheHook):
    """Counts requests: lm-eval calls this once for every answered request, to fill a cache."""

    def __init__(self, tell: Tell) -> None:
        super().__init__(None)
        self._tell = tell
        self._done = self._total = 0

    def expect(self, requests: int) -> None:
        """Add the number of requests that will follow."""
        self._total += requests
        self._tell(self._done, self._total)

    def add_partial(self, attr: str, req: object, res: object) -> None:
        """See CacheHook. Raises NumericalError for a likelihood that is nan, because lm-eval would take the
        first of several such as the answer."""
        likelihood = res[0] if isinstance(res, tuple) else res
        if isinstance(likelihood, float) and math.isnan(likelihood):
            raise NumericalError(
                "the model's likelihood of an answer is not a number: its weights are damaged, or "
                "compute_dtype is too narrow"
            )
        self._done += 1
        self._tell(self._done, self._total)
