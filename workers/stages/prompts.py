"""Prompts of a spec as texts: those of a list, or the documents of a text."""

from itertools import islice

from pipeline.errors import TextTooShort
from pipeline.sources import open_source
from pipeline.spec.prompts import Prompts, PromptText
from pipeline.text.chats import ChatReader, Templated
from pipeline.text.documents import read_documents
from workers.context import StageContext


def read_prompts(
    prompts: Prompts, field: str, context: StageContext, tokenizer: Templated, *, chat: bool
) -> list[str]:
    """Read the prompts at a field of the spec. `chat`: each is put as a user's message into the chat
    template. Raises TextTooShort for a text without documents."""
    reader = ChatReader(tokenizer, context.order.request.spec.model.source, asks=True)
    found = list(prompts) if isinstance(prompts, tuple) else _documents(prompts, field, context, reader, chat)
    if not chat:
        return found
    return [
        reader.read([{"role": "user", "content": prompt}], where=f"{field} with chat: prompt {i}")
        for i, prompt in enumerate(found, start=1)
    ]


def _documents(
    text: PromptText, field: str, context: StageContext, reader: ChatReader, chat: bool
) -> list[str]:
    """The documents that are not blank. With `chat`, the template is still to come, and chats are refused."""
    pin = context.order.pins.of(f"{field}.source")
    access = context.settings.access()
    source = open_source(pin.source, access, repository="dataset")
    documents = read_documents(text, pin, source, access, reader=None if chat else reader)
    found = [one[: text.characters] for one in islice((one for one in documents if one.strip()), text.limit)]
    if not found:
        raise TextTooShort(f"{text.source} has no document to take as a prompt", f"{field}.source")
    return found
