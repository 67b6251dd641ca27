"""The stage in which a checkpoint continues prompts greedily, one after the other."""

from pipeline.artifacts.refs import BehaviourRef
from pipeline.canonical import digest_of
from pipeline.dag.stages.results import Behave
from pipeline.errors import InvalidRequest
from pipeline.evaluation.behaviour import BehaviourContract, BehaviourResult, Continuation, repetition
from pipeline.text.tokens import tokenizer_digest
from workers.context import Made, Progress, StageContext, Steps
from workers.harness.generating import Writer, writer
from workers.stages.prompts import read_prompts

FIELD = "spec.evaluation.behaviour"


def run(stage: Behave, context: StageContext) -> Steps:
    """Continue each prompt by itself, so that no padding changes its bits."""
    checkpoint, resources = context.checkpoint(), context.order.request.resources.of("evaluation")
    asked = stage.behaviour
    yield Progress(0, 1, "loads the checkpoint")
    with writer(checkpoint, context.content, dtype=stage.compute_dtype, resources=resources) as model:
        prompts = read_prompts(asked.prompts, f"{FIELD}.prompts", context, model.tokenizer, chat=asked.chat)
        continuations = []
        for done, prompt in enumerate(prompts, start=1):
            continuations.append(_continued(stage, model, prompt))
            yield Progress(done, len(prompts))
        contract = BehaviourContract(
            prompts_digest=digest_of([*prompts]),
            prompts=len(prompts),
            tokenizer_digest=tokenizer_digest(checkpoint),
            max_new_tokens=asked.max_new_tokens,
            template=asked.chat,
            bos=stage.bos,
            ngram=asked.ngram,
            dtype=stage.compute_dtype,
            device=model.model.device.type,
        )
    result = BehaviourResult(
        checkpoint_digest=checkpoint.digest, contract=contract, continuations=tuple(continuations)
    )
    tokens = float(sum(one.tokens for one in continuations))
    yield Made({"behaviour": BehaviourRef.made(context.content, result)}, details={"tokens": tokens})


def _continued(stage: Behave, model: Writer, prompt: str) -> Continuation:
    asked = stage.behaviour
    try:
        ids = model.prompt_ids(prompt, begins=stage.bos is not None)
        (tokens,) = model.continued([ids], max_new_tokens=asked.max_new_tokens)
    except InvalidRequest as error:
        error.param = error.param or f"{FIELD}.prompts"
        raise
    ended = bool(tokens) and tokens[-1] in model.ends
    written = tokens[:-1] if ended else tokens
    return Continuation(
        prompt=prompt,
        text=model.tokenizer.decode(written, skip_special_tokens=False),
        tokens=len(written),
        ended=ended,
        repetition=repetition(written, n=asked.ngram),
    )
