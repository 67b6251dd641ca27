"""A tiny model that answers, for tests of what is around it."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import secateur.sparse
from secateur.sparse.generating import Answerer, Options
from tests.sparse.pruned import pruned_checkpoint

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def answerer(directory: Path, *, template: str | None = TEMPLATE) -> Answerer:
    """A pruned tiny Llama whose answers do not end by themselves."""
    pruned_checkpoint("llama", directory)
    model = secateur.sparse.load(directory)
    model.generation_config.eos_token_id = None
    made = Answerer.of(model, directory)
    made.tokenizer.chat_template = template
    return made


class Held(Answerer):
    """An answerer that makes no token before `go` is set. `reached` is set when one is wanted; `made` counts
    tokens."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(model, tokenizer)
        self.go, self.reached, self.made = threading.Event(), threading.Event(), 0

    def tokens(self, prompt: Sequence[int], options: Options) -> Iterator[int]:
        """The answer, once it may go on."""
        for token in super().tokens(prompt, options):
            self.reached.set()
            self.go.wait()
            self.made += 1
            yield token
