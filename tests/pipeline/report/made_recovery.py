"""Report data of jobs that train, in the form of real jobs."""

import math
import random
from typing import Any

from pipeline.artifacts.certificate import Certificate, Check, TensorCertificate
from pipeline.artifacts.curve import BlockFit, Curve, KeepUpdate, Shard, StepRecord, TokensIndex, Validation
from pipeline.artifacts.refs import CertificateRef, CurveRef, TokensRef
from pipeline.canonical import sha256_hex
from pipeline.report.data import ReportData
from pipeline.report.figures.training import training_figures
from pipeline.report.summary import seeds_of
from pipeline.request.prune_spec import PruneSpec
from pipeline.spec.recovery import Recovery
from tests.pipeline.report.made_report import (
    DENSE,
    made_evaluation,
    made_file,
    made_report,
    made_spec,
    made_stage,
    report_pins,
)

RECOVERED = sha256_hex(b"recovered")
STEPS, LENGTH, BATCH = 400, 512, 16
DEEPSPEED = {
    "train_micro_batch_size_per_gpu": 4,
    "gradient_accumulation_steps": 2,
    "train_batch_size": BATCH,
    "zero_optimization": {"stage": 2},
}


def made_recovery(**changes: Any) -> Recovery:
    """A recovery that trains all weights by distillation."""
    fields: dict[str, Any] = {
        "text": {"source": "file:/texts/books.txt", "sequence_length": LENGTH, "validation_sequences": 32},
        "objective": {"kind": "distillation"},
        "steps": STEPS,
        "global_batch_size": BATCH,
        "validate_every_steps": 50,
    }
    return Recovery.model_validate({**fields, **changes})


def recovered_spec(*, prune: bool = True, spec: PruneSpec | None = None, **changes: Any) -> PruneSpec:
    """The usual spec with training after pruning, or instead of it."""
    plain = spec or made_spec()
    if not prune:
        plain = plain.model_copy(update={"prune": None, "calibration": None})
    return plain.model_copy(update={"recovery": made_recovery(**changes)})


def made_curve(recovery: Recovery, *, starts: int = 1, result_step: int | None = None) -> Curve:
    """A loss that falls from 3.8 to about 3.1, with noise and one spike."""
    total = recovery.total_steps
    if recovery.trains.kind == "reconstruction":
        blocks = tuple(BlockFit(block=i, before=0.05 + 0.002 * i, after=0.02 + 0.0015 * i) for i in range(30))
        return Curve(blocks=blocks, total_steps=total, result_step=total)
    noise = random.Random(0)
    every = recovery.validate_every_steps
    points = sorted({*range(0, total, every), total})
    return Curve(
        steps=tuple(made_step(i, recovery, noise, starts=starts) for i in range(1, total + 1)),
        validations=tuple(
            Validation(step=i, loss=_loss(i, total), perplexity=math.exp(_loss(i, total))) for i in points
        ),
        updates=_updates(recovery),
        total_steps=total,
        result_step=total if result_step is None else result_step,
        stopped="finished" if result_step is None else "early",
        deepspeed=DEEPSPEED,
        starts=starts,
    )


def made_step(step: int, recovery: Recovery, noise: random.Random, *, starts: int = 1) -> StepRecord:
    """One step of the curve; later starts divide the steps into equal parts."""
    total, size = recovery.total_steps, recovery.global_batch_size
    loss = _loss(step, total) + noise.gauss(0, 0.08) + (1.5 if step == 137 else 0)
    distilled = recovery.objective.kind == "distillation"
    return StepRecord(
        step=step,
        loss=0.4 * loss - 0.7 if distilled else loss,
        language_modelling_loss=loss,
        learning_rate=recovery.learning_rate.at(step - 1, steps=total),
        gradient_norm=0.6 + 3 * math.exp(-step / 30) + abs(noise.gauss(0, 0.1)) + 20 * (step == 137),
        tokens_per_second=350 + noise.gauss(0, 12),
        first_sequence=(step - 1) * size,
        end_sequence=step * size,
        data_checksum=noise.randrange(2**32),
        workers=2,
        zeros=53_084_160,
        memory_bytes=1_900_000_000,
        started=1 + (step - 1) * starts // total,
    )


def made_certificate(data: ReportData, recovery: Recovery | None) -> Certificate:
    """A certificate that follows from the sparsity table of a report."""
    assert data.sparsity is not None
    tensors = tuple(
        TensorCertificate(
            tensor=f"model.layers.{linear.block}.{linear.linear}.weight",
            block=linear.block,
            linear=linear.linear,
            keep_sha256=sha256_hex(f"{linear.block} {linear.linear}".encode()),
            weights=linear.weights,
            held=linear.pruned,
            zeros=linear.pruned,
        )
        for linear in data.sparsity.linears
    )
    held = sum(tensor.held for tensor in tensors)

    def check(at: Any, step: int | None = None) -> Check:
        return Check(at=at, step=step, tensors=len(tensors), held=held, zeros=held)

    if recovery is None:
        return Certificate(tensors=tensors, checks=(check("mask"), check("reload"), check("published")))
    steps = range(0, recovery.total_steps + 1, recovery.certify_every_steps)
    trained = [check("step", step) for step in steps]
    last = recovery.total_steps
    return Certificate(
        tensors=tensors,
        checks=(check("mask"), *trained, check("gather", last), check("save", last), check("published")),
    )


def recovered_report(*, blocks: int = 30, spec: PruneSpec | None = None, starts: int = 1) -> ReportData:
    """The report of a job that trains, after pruning if the spec prunes."""
    spec = spec or recovered_spec()
    recovery = spec.recovery
    assert recovery is not None
    data = made_report(blocks=blocks, spec=spec if spec.prune is not None else made_spec())
    if spec.prune is None:
        left_out = {"plan": None, "sparsity": None, "measurements": None, "pruned": None}
        data = data.model_copy(update={**left_out, "spec": spec})
    curve = made_curve(recovery, starts=starts)
    made = {
        "curve": CurveRef(files=(made_file("curve.json"),)),
        **({"certificate": CertificateRef(files=(made_file("certificate.json"),))} if data.sparsity else {}),
    }
    return data.model_copy(
        update={
            "recovered": made_evaluation(RECOVERED, loss=3.213),
            "training": training_figures(curve, recovery),
            "tokens": TokensIndex(
                sequence_length=LENGTH,
                sequences=4000,
                validation_sequences=32,
                shards=(Shard(path="train-00000.safetensors", sequences=4000),),
                read_tokens=2_064_500,
                text_digest=sha256_hex(b"books"),
            ),
            "certificate": made_certificate(data, recovery) if data.sparsity is not None else None,
            "pins": report_pins(spec),
            "checkpoints": {**data.checkpoints, "recovered": RECOVERED} if data.pruned else {"dense": DENSE},
            "seeds": seeds_of(spec),
            "stages": (
                *data.stages,
                made_stage("prepare_text", {"tokens": TokensRef(files=(made_file("tokens.json"),))}, 3.0),
                made_stage("recover", made, 9400.0),
            ),
        }
    )


def _loss(step: int, total: int) -> float:
    return 3.05 + 0.75 * math.exp(-4 * step / total)


def _updates(recovery: Recovery) -> tuple[KeepUpdate, ...]:
    keep, total = recovery.keep, recovery.total_steps
    if keep.kind == "held":
        return ()
    steps = range(keep.every_steps, int(keep.until * total) + 1, keep.every_steps)
    grows = keep.kind == "dynamic"
    return tuple(
        KeepUpdate(
            step=step,
            dropped=1_000_000 // (i + 1),
            grown=1_000_000 // (i + 1) if grows else 0,
            zeros=53_084_160 if grows else 53_084_160 + 200_000 * i,
        )
        for i, step in enumerate(steps)
    )
