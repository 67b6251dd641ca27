"""The part of a spec that asks how a model writes, beside how well it predicts."""

from pydantic import Field

from pipeline.canonical import Frozen
from pipeline.spec.prompts import Prompts


class Behaviour(Frozen):
    """The dense and the final model continue the same prompts greedily, and the report shows length,
    repetition, ends of generation, and the samples side by side.

    `chat`: each prompt is the message of a user, and the chat template of the model asks for the answer.
    `ngram`: n of the n-grams whose repetition is counted.
    """

    prompts: Prompts
    max_new_tokens: int = Field(default=128, ge=1, le=8192)
    chat: bool = False
    ngram: int = Field(default=4, ge=1, le=32)
