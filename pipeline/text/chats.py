"""Chats in a column of a text: lists of messages, which the model's own chat template makes into text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from jinja2 import TemplateError

from pipeline.errors import InvalidSpec
from pipeline.spec.texts import TextSource

Message = Mapping[str, object]
SHAPES = (("role", "content"), ("from", "value"))  # who says what; the second is that of ShareGPT
ROLES = {"human": "user", "gpt": "assistant"}  # ShareGPT's names for those of templates


class Templated(Protocol):
    """The part of transformers' tokenizers that renders chats."""

    bos_token: str | None
    chat_template: str | Mapping[str, str] | None

    def apply_chat_template(
        self, conversation: Sequence[Message], *, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        """Returns a chat as text."""
        ...


@dataclass(frozen=True)
class ChatReader:
    """Reads chats with the template of a tokenizer. `model`: the name of its model, for error messages.
    `asks`: the text ends where the model's answer begins, and keeps the BOS of the template."""

    tokenizer: Templated
    model: str
    asks: bool = False

    def read(self, messages: Sequence[Message], *, where: str) -> str:
        """Returns a chat as text. Unless it asks for an answer, it is without the BOS that a template may
        begin with: `bos` of the text decides on BOS. Raises InvalidSpec where there is no template, or it
        refuses the chat."""
        if not self.tokenizer.chat_template:
            raise InvalidSpec(
                f"{where} holds a chat, and the tokenizer of {self.model} has no chat template to read it "
                f"with; name a column of text, or put the model's template beside it as chat_template.jinja"
            )
        try:
            rendered = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=self.asks
            )
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            raise InvalidSpec(
                f"{where}: the chat template of {self.model} refuses the chat: {error}"
            ) from error
        return rendered if self.asks else rendered.removeprefix(self.tokenizer.bos_token or "")


def messages_in(value: object) -> list[Message] | None:
    """Returns the messages of a chat, each with `role` and `content`; None for a value that is no chat."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        return None
    for who, what in SHAPES:
        if value and all(isinstance(one.get(who), str) and what in one for one in value):
            return [_message(one, who, what) for one in value]
    return None


def chat(messages: list[Message], text: TextSource, reader: ChatReader | None, *, where: str) -> str:
    """Returns a chat as text. Raises InvalidSpec where nothing can read it."""
    column = f"{where}: column {text.column!r}"
    if reader is None:
        raise InvalidSpec(
            f"{column} holds a chat, and this part of the spec takes texts as they are; name a column of text"
        )
    return reader.read(messages, where=column)


def _message(one: Mapping[str, object], who: str, what: str) -> Message:
    """Returns one message under the names that templates know. Fields without a value, which tables have for
    the messages of others, are left out."""
    role = str(one[who])
    more = {name: value for name, value in one.items() if name not in (who, what) and value is not None}
    return {**more, "role": ROLES.get(role, role), "content": one[what]}
