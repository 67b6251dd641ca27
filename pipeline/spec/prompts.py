"""Prompts in a spec: a list of them, or the documents of a text."""

from typing import Annotated

from pydantic import Discriminator, Field, StringConstraints, Tag

from pipeline.spec.texts import TextSource

LIST, TEXT = "a list", "a text"  # tags with a space: no field has such a name (pipeline/request/hints.py)
Prompt = Annotated[str, StringConstraints(min_length=1, max_length=1_000_000)]


class PromptText(TextSource):
    """The first `limit` documents of a text, each cut to its first `characters`. Chats in a column are asked
    for an answer through the chat template of the model."""

    limit: int = Field(default=16, ge=1, le=10_000)
    characters: int | None = Field(default=None, ge=1)


def _form(value: object) -> str:
    return TEXT if isinstance(value, dict | PromptText) else LIST


Prompts = Annotated[
    Annotated[tuple[Prompt, ...], Field(min_length=1, max_length=10_000), Tag(LIST)]
    | Annotated[PromptText, Tag(TEXT)],
    Discriminator(_form),
]
