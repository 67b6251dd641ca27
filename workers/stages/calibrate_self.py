"""The stage that makes calibration samples from text that the model itself writes."""

from itertools import cycle, islice

import torch
from torch import Tensor

from pipeline.dag.stages.sources import CalibrateSelf
from pipeline.errors import InvalidSpec, SequenceTooLong
from pipeline.spec.self_calibration import SelfCalibration
from pipeline.text.tokens import begin_token
from workers.context import Made, Progress, StageContext, Steps
from workers.harness.generating import Drawing, Writer, writer
from workers.stages.prompts import read_prompts
from workers.stages.samples import put_samples

FIELD = "spec.calibration"


def run(stage: CalibrateSelf, context: StageContext) -> Steps:
    """Continue the prompts in batches until they fill the samples. Equal seeds draw equal tokens on equal
    machines."""
    asked, resources = stage.calibration, context.order.request.resources.of("evaluation")
    yield Progress(0, 1, "loads the checkpoint")
    with writer(
        context.checkpoint(), context.content, dtype=stage.compute_dtype, resources=resources
    ) as model:
        prompts = read_prompts(asked.prompts, f"{FIELD}.prompts", context, model.tokenizer, chat=asked.chat)
        ids = [model.prompt_ids(prompt, begins=stage.begins) for prompt in prompts]
        _check_prompts(asked, model, ids)
        wanted = asked.samples * asked.text_length
        row: list[int] = []
        coming = cycle(ids)
        devices = [model.model.device] if model.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(asked.seed)
            while len(row) < wanted:
                for tokens in _written(asked, model, list(islice(coming, asked.batch_size))):
                    row += tokens
                yield Progress(min(len(row), wanted), wanted)
        front = _front(asked, model)
    text_NT = torch.tensor(row[:wanted]).view(asked.samples, asked.text_length)
    tokens_NL = torch.cat((front.expand(asked.samples, -1), text_NT), dim=1)
    yield Made(
        {"samples": put_samples(context.content, tokens_NL)}, details={"tokens": float(tokens_NL.numel())}
    )


def _written(asked: SelfCalibration, model: Writer, prompts: list[list[int]]) -> list[list[int]]:
    """Prompts with their continuations, as documents of a packed row: none begins with BOS but where
    `bos: once` asks for it, and each ends with EOS."""
    room = asked.sequence_length - max(map(len, prompts))
    drawing = Drawing(asked.temperature, asked.top_k)
    documents = []
    for ids, new in zip(prompts, model.continued(prompts, max_new_tokens=room, drawing=drawing), strict=True):
        document = [*ids, *new]
        while document and document[0] == model.tokenizer.bos_token_id:
            del document[0]
        begin = [begin_token(model.tokenizer, field=FIELD)] if asked.bos == "once" else []
        end = [] if document and document[-1] in model.ends else [model.tokenizer.eos_token_id]
        documents.append([*begin, *document, *end])
    return documents


def _check_prompts(asked: SelfCalibration, model: Writer, prompts: list[list[int]]) -> None:
    if model.tokenizer.eos_token_id is None:
        raise InvalidSpec(
            "text that the model writes is joined with EOS, and its tokenizer has none; set eos_token in its "
            "tokenizer_config.json, or calibrate on a text",
            f"{FIELD}.source",
        )
    longest = max(map(len, prompts))
    if longest >= asked.sequence_length:
        raise SequenceTooLong(
            f"prompt {1 + [len(one) for one in prompts].index(longest)} has {longest} tokens, and "
            f"sequence_length {asked.sequence_length} leaves no room to continue it; use shorter prompts",
            f"{FIELD}.prompts",
        )


def _front(asked: SelfCalibration, model: Writer) -> Tensor:
    """What stands in front of every sample [1, 0 or 1]: BOS for `every_window`."""
    begins = asked.bos == "every_window"
    return torch.tensor([[begin_token(model.tokenizer, field=FIELD)] if begins else []], dtype=torch.int64)
