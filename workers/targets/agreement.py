"""Whether a target computes what transformers computes from the same published files.

The target answers some prompts greedily. transformers then reads each answer, and its log-probabilities of
the tokens that the target thought likeliest must be the target's own within a tolerance. So a tie that
rounding breaks the other way is no disagreement, and what comes after it is still compared, because both read
the same tokens. Each chosen token must be the likeliest for transformers too, within twice the tolerance.
"""

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pipeline.artifacts.serving import TargetCheck
from pipeline.errors import TargetFailed
from pipeline.spec.targets import TargetKind
from workers.targets.consumer import Opening
from workers.targets.opened import REFERENCE, Answer, ask

PROMPTS = (
    1,
    5,
    17,
    40,
)  # tokens of each prompt: one without any context, and lengths that are no round numbers
GENERATED = 12
POSITIONS = 64  # enough for each prompt with its answer
TEXTS = (
    "The gardener cuts 12 branches, and it's done.",
    "  Two spaces,\n\nan empty line, a\ttab; naïve café — 3,5 × 10.",
)

# In nats. A target that computes in float32 differs from transformers in the order of its sums alone: 0.00005
# was seen for a model as it was trained, and 0.0003 for one whose cut left large activations. Targets that
# multiply in 16 bits round activations before every product: 0.1 was seen for the former, and more than 2 for
# the latter. So there the measure is the model's own: what changes in transformers where it computes in the
# same 16 bits, of which twice as much is allowed. A wrong order of rows or a lost factor gives 1 and more.
FLOAT32 = 0.01
IN_FLOAT32 = ("onnxruntime", "openvino", "secateur_sparse")
SIXTEEN = {"float16": 0.1, "bfloat16": 0.5}
ROUNDINGS = 2


class _Generated(BaseModel):
    model_config = ConfigDict(extra="forbid")
    tokens: list[int]
    top: list[dict[int, float]]


class _Answers(BaseModel):
    version: str
    generated: list[_Generated]
    tokenized: list[list[int] | None]


class _Score(BaseModel):
    top: dict[int, float]
    chosen: float
    best: float


class _Reference(BaseModel):
    scores: list[list[_Score]]
    rounding: float
    tokenized: list[list[int]]


Judge = Callable[[Opening, Mapping[str, object]], Answer]


def in_a_fresh_process(opening: Opening, asked: Mapping[str, object]) -> Answer:
    """What transformers makes of the answers of a target, in a process of its own."""
    return ask(opening, asked, module=REFERENCE)


def check_target(
    opening: Opening, kind: TargetKind, *, python: str = "", judge: Judge = in_a_fresh_process
) -> TargetCheck:
    """Open a model in a target and compare. Raises TargetFailed where it does not open, or disagrees."""
    config = json.loads((Path(opening.directory) / "config.json").read_bytes())
    prompts = prompts_for(config["vocab_size"], longest=opening.length - GENERATED)
    texts, dtype = list(TEXTS) if _has_tokenizer(opening) else [], rounds_to(opening, kind)
    asked = {"generate": [{"prompt": prompt, "tokens": GENERATED} for prompt in prompts], "tokenize": texts}
    answers = _Answers.model_validate(ask(opening, asked, python=python))
    own = [text for text, ids in zip(texts, answers.tokenized, strict=True) if ids is not None]
    answered = [
        {"prompt": prompt, **made.model_dump()}
        for prompt, made in zip(prompts, answers.generated, strict=True)
    ]
    reference = _Reference.model_validate(judge(opening, {"answers": answered, "dtype": dtype, "texts": own}))
    _check_texts(kind, own, [ids for ids in answers.tokenized if ids is not None], reference.tokenized)
    tolerance = max(FLOAT32 if dtype is None else SIXTEEN[dtype], ROUNDINGS * reference.rounding)
    differences = list(_differences(kind, prompts, answers.generated, reference.scores, tolerance=tolerance))
    return TargetCheck(
        target=kind,
        version=answers.version,
        prompts=len(prompts),
        tokens=sum(len(made.tokens) for made in answers.generated),
        compared=len(differences),
        difference=round(max(differences), 7),
        tolerance=round(tolerance, 4),
        gpus=opening.gpus,
        texts=len(own),
    )


def prompts_for(rows: int, *, longest: int) -> list[list[int]]:
    """The fixed prompts for a vocabulary. Any id may stand in them, special ones too."""
    drawn = random.Random(0)
    return [[drawn.randrange(rows) for _ in range(length)] for length in PROMPTS if length <= longest]


def rounds_to(opening: Opening, kind: TargetKind) -> str | None:
    """The 16-bit type in which a target multiplies the weights as they are stored; None for float32."""
    if kind in IN_FLOAT32 or (kind == "vllm" and not opening.gpus):
        return None
    config = json.loads((Path(opening.directory) / "config.json").read_bytes())
    dtype = config.get("dtype") or config.get("torch_dtype")
    return dtype if dtype in SIXTEEN else None


def _differences(
    kind: TargetKind,
    prompts: list[list[int]],
    answers: list[_Generated],
    scores: list[list[_Score]],
    *,
    tolerance: float,
) -> list[float]:
    """The differences of all log-probabilities, in nats. Raises TargetFailed for the first one that is too
    large, with its place."""
    found = []
    for prompt, made, scored in zip(prompts, answers, scores, strict=True):
        for i, (token, top, score) in enumerate(zip(made.tokens, made.top, scored, strict=True)):
            where = f"{kind}: after a prompt of {len(prompt)} tokens, generated token {i + 1}"
            lost = score.best - score.chosen
            if not lost <= 2 * tolerance:
                raise TargetFailed(
                    f"{where} is {token}, which transformers finds {lost:.3g} nats less likely than its own; "
                    f"at most {2 * tolerance:g} are allowed. What would be published computes something else "
                    f"there"
                )
            for other, logprob in top.items():
                difference = abs(logprob - score.top[other])
                if not difference <= tolerance:
                    raise TargetFailed(
                        f"{where}: token {other} has log-probability {logprob:.4f}, and "
                        f"{score.top[other]:.4f} in transformers; at most {tolerance:g} nats of difference "
                        f"are allowed. What would be published computes something else there"
                    )
                found.append(difference)
    return found


def _check_texts(
    kind: TargetKind, texts: list[str], here: list[list[int]], reference: list[list[int]]
) -> None:
    for text, ours, theirs in zip(texts, here, reference, strict=True):
        if ours != theirs:
            raise TargetFailed(
                f"{kind}: its tokenizer cuts {text!r} into {ours}, and transformers into {theirs}"
            )


def _has_tokenizer(opening: Opening) -> bool:
    return any((Path(opening.directory) / name).exists() for name in ("tokenizer.json", "tokenizer.model"))
