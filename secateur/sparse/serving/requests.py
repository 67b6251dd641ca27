"""The bodies of requests, with the fields of OpenAI's API that this server knows. All others are refused,
because a field that is ignored could have changed the answer."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Stop = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Message(_Body):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str


class StreamOptions(_Body):
    """`include_usage`: a last chunk has the counts of tokens."""

    include_usage: bool = False


class _Asked(_Body):
    """What both kinds of requests have. `max_tokens`: by default what the server and the model allow."""

    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Stop | list[Stop] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] = 1
    user: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop texts."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def tokens(self) -> int | None:
        """The most tokens that are asked for."""
        return self.max_tokens

    @property
    def with_usage(self) -> bool:
        """True if a stream ends with the counts of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class Chat(_Asked):
    """The body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)

    @property
    def tokens(self) -> int | None:
        """The most tokens that are asked for, by the newer of both names where it is there."""
        return self.max_completion_tokens or self.max_tokens


class Completion(_Asked):
    """The body of POST /v1/completions."""

    prompt: str
