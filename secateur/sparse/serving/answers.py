"""Answers in OpenAI's shapes."""

import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal

from secateur.sparse.generating import Finish

Kind = Literal["chat", "text"]
Shape = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """One answer that grows. `prompt`: the tokens of its prompt."""

    kind: Kind
    model: str
    prompt: int
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, text: str, tokens: int, finish: Finish) -> Shape:
        """The answer in one."""
        if self.kind == "chat":
            said: Shape = {"message": {"role": "assistant", "content": text, "refusal": None}}
        else:
            said = {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
        return {**self._head(streamed=False), "choices": [choice], "usage": self.usage(tokens)}

    def opening(self) -> Shape:
        """The chunk with which a streamed chat begins."""
        return self._chunk({"delta": {"role": "assistant", "content": ""}}, None)

    def part(self, text: str) -> Shape:
        """A chunk with text."""
        return self._chunk({"delta": {"content": text}} if self.kind == "chat" else {"text": text}, None)

    def end(self, finish: Finish) -> Shape:
        """The chunk that says why the answer ends."""
        return self._chunk({"delta": {}} if self.kind == "chat" else {"text": ""}, finish)

    def counted(self, tokens: int) -> Shape:
        """The chunk with the counts of tokens."""
        return {**self._head(streamed=True), "choices": [], "usage": self.usage(tokens)}

    def usage(self, tokens: int) -> Shape:
        """The counts of tokens."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": tokens,
            "total_tokens": self.prompt + tokens,
        }

    def _chunk(self, said: Shape, finish: Finish | None) -> Shape:
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
        return {**self._head(streamed=True), "choices": [choice]}

    def _head(self, *, streamed: bool) -> Shape:
        if self.kind == "chat":
            name, prefix = "chat.completion.chunk" if streamed else "chat.completion", "chatcmpl"
        else:
            name, prefix = "text_completion", "cmpl"
        return {"id": f"{prefix}-{self.id}", "object": name, "created": self.created, "model": self.model}


def error_shape(message: str, kind: str, *, param: str | None = None, code: str | None = None) -> Shape:
    """An error. `kind`: OpenAI's name for its type."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
