"""Report data of jobs that learn their masks, in the form of real jobs."""

import math
import random
from typing import Any

from pipeline.artifacts.certificate import Certificate
from pipeline.artifacts.curve import (
    BlockFit,
    BlockMasks,
    Curve,
    MaskRecord,
    Shard,
    StepRecord,
    TokensIndex,
    Validation,
)
from pipeline.artifacts.mask_overlap import LinearOverlap, MaskOverlap
from pipeline.artifacts.refs import (
    CertificateRef,
    CurveRef,
    TokensRef,
)
from pipeline.canonical import sha256_hex
from pipeline.methods.maskllm import MaskLLM
from pipeline.report.data import ReportData
from pipeline.report.figures.masks import mask_learning
from pipeline.report.summary import seeds_of
from pipeline.request.prune_spec import Prune, PruneSpec
from pipeline.spec.mask_training import MaskTraining
from pipeline.spec.patterns import NM
from tests.pipeline.report.made_recovery import BATCH, DEEPSPEED, LENGTH, made_certificate
from tests.pipeline.report.made_report import (
    LINEARS,
    made_file,
    made_report,
    made_spec,
    made_stage,
    report_pins,
)

STEPS = 300


def made_training(**changes: Any) -> MaskTraining:
    """A mask training of scope model with the objective language modelling."""
    fields: dict[str, Any] = {
        "text": {
            "source": "file:/texts/books.txt",
            "sequence_length": LENGTH,
            "seed": 7,
            "validation_sequences": 32,
        },
        "steps": STEPS,
        "global_batch_size": BATCH,
        "validate_every_steps": 50,
    }
    return MaskTraining.model_validate({**fields, **changes})


def learned_spec(*, prior: dict[str, Any] | str | None = "wanda", **changes: Any) -> PruneSpec:
    """The usual spec, 2:4 with masks that are learned. `prior`: a kind, fields of one, or none."""
    fields = {"kind": prior} if isinstance(prior, str) else prior
    training = made_training(**changes).model_dump(mode="json")
    method = MaskLLM.model_validate({"prior": fields, "training": training})
    return made_spec().model_copy(update={"prune": Prune(method=method, pattern=NM(keep=2, group=4))})


def made_mask_curve(
    training: MaskTraining,
    *,
    blocks: int = 30,
    starts: int = 1,
    result_step: int | None = None,
    every: int = 10,
) -> Curve:
    """A curve of masks that change at first and settle at the end, and change more in later blocks. With
    scope block: the distance of each block, and the masks before and after."""
    total = training.total_steps
    noise = random.Random(0)
    if training.scope == "block":
        return Curve(
            blocks=tuple(
                BlockFit(block=i, before=0.05 + 0.002 * i, after=0.03 + 0.001 * i) for i in range(blocks)
            ),
            masks=tuple(made_masks(step, training, blocks) for step in (0, total)),
            total_steps=total,
            result_step=total,
        )
    recorded = sorted({*range(0, total, every), total})
    judged = sorted({*range(0, total, training.validate_every_steps), total})
    return Curve(
        steps=tuple(made_mask_step(i, training, noise, starts=starts) for i in range(1, total + 1)),
        validations=tuple(made_validation(step, training) for step in judged),
        masks=tuple(made_masks(step, training, blocks) for step in recorded),
        total_steps=total,
        result_step=total if result_step is None else result_step,
        stopped="finished" if result_step is None else "early",
        deepspeed=DEEPSPEED,
        starts=starts,
    )


def made_masks(step: int, training: MaskTraining, blocks: int) -> MaskRecord:
    """The record of the masks after a step."""
    total = training.total_steps
    done = step / total
    return MaskRecord(
        step=step,
        temperature=training.temperature.at(max(step - 1, 0), steps=total),
        scale=training.scale.at(max(step - 1, 0), steps=total),
        blocks=tuple(
            BlockMasks(
                entropy=1.1 * (1 - done) ** 2 + 0.02 + 0.002 * i,
                certainty=0.55 + 0.44 * done - 0.004 * i * done,
                changed=(1 - math.exp(-4 * done)) * (0.08 + 0.004 * i),
            )
            for i in range(blocks)
        ),
    )


def made_validation(step: int, training: MaskTraining) -> Validation:
    """The validation on the held-out text after a step."""
    loss = _loss(step, training.total_steps)
    return Validation(step=step, loss=loss, perplexity=math.exp(loss))


def made_mask_step(step: int, training: MaskTraining, noise: random.Random, *, starts: int = 1) -> StepRecord:
    """One step of the curve; later starts divide the steps into equal parts."""
    total, size = training.total_steps, training.global_batch_size
    loss = _loss(step, total) + 0.3 * (1 - step / total) + noise.gauss(0, 0.06)
    return StepRecord(
        step=step,
        loss=0.5 * loss - 0.9 if training.needs_teacher else loss,
        language_modelling_loss=loss,
        learning_rate=training.learning_rate.at(step - 1, steps=total),
        gradient_norm=0.02 + 0.3 * math.exp(-step / 60) + abs(noise.gauss(0, 0.01)),
        tokens_per_second=290 + noise.gauss(0, 9),
        first_sequence=(step - 1) * size,
        end_sequence=step * size,
        data_checksum=noise.randrange(2**32),
        workers=2,
        memory_bytes=2_300_000_000,
        started=1 + (step - 1) * starts // total,
    )


def made_overlaps(*others: str, blocks: int) -> tuple[MaskOverlap, ...]:
    """The overlap with each of the other masks, which is lower in later blocks."""
    return tuple(
        MaskOverlap(
            other=other,
            linears=tuple(
                LinearOverlap(
                    block=block,
                    linear=linear,
                    groups=0.9 - 0.1 * i - 0.003 * block - 0.01 * j,
                    kept=0.95 - 0.05 * i - 0.0015 * block - 0.005 * j,
                )
                for block in range(blocks)
                for j, linear in enumerate(LINEARS)
            ),
        )
        for i, other in enumerate(others)
    )


def learned_report(
    *,
    blocks: int = 30,
    spec: PruneSpec | None = None,
    others: tuple[str, ...] = ("prior", "sparsegpt"),
    data: ReportData | None = None,
    **curve: Any,
) -> ReportData:
    """The report of a job that learns its masks. `data`: a report of its other work, such as
    recovered_report."""
    spec = spec or learned_spec()
    assert spec.learned_method is not None
    training = spec.learned_method.training
    data = data or made_report(blocks=blocks, spec=spec)
    learned = mask_learning(
        made_mask_curve(training, blocks=blocks, **curve),
        training,
        tokens=TokensIndex(
            sequence_length=LENGTH,
            sequences=4800,
            validation_sequences=32,
            shards=(Shard(path="train-00000.safetensors", sequences=4800),),
            read_tokens=2_474_100,
            text_digest=sha256_hex(b"books"),
        ),
    )
    made = {
        "curve": CurveRef(files=(made_file("mask-curve.json"),)),
        "certificate": CertificateRef(files=(made_file("certificate.json"),)),
    }
    stages = [
        one.model_copy(update={"artifacts": {**one.artifacts, **made}}) if one.node == "prune" else one
        for one in data.stages
    ]
    return data.model_copy(
        update={
            "spec": spec,
            "masks": learned,
            "agreements": made_overlaps(*others, blocks=blocks),
            "certificate": data.certificate or _frozen(made_certificate(data, None)),
            "pins": report_pins(spec),
            "seeds": seeds_of(spec),
            "stages": (
                *stages,
                made_stage(
                    "prepare_text:masks", {"tokens": TokensRef(files=(made_file("mask-tokens.json"),))}, 3.0
                ),
            ),
        }
    )


def _frozen(certificate: Certificate) -> Certificate:
    """The certificate with the check of kept weights that ends mask learning."""
    first, *others = certificate.checks
    return certificate.model_copy(
        update={"checks": (first, first.model_copy(update={"at": "frozen"}), *others)}
    )


def _loss(step: int, total: int) -> float:
    return 3.2 + 0.55 * math.exp(-4 * step / total)
