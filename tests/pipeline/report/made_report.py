"""Report data in the form of a real job, with any number of blocks."""

import math
from collections.abc import Mapping

from pipeline.allocations.measures import Measurements, OutlierRatio
from pipeline.allocations.owl import Owl
from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.environment import Environment
from pipeline.artifacts.refs import (
    ArtifactRef,
    CheckpointRef,
    EvaluationRef,
    KeepRef,
    ManifestRef,
    MeasurementsRef,
    PlanRef,
    SamplesRef,
    StatisticsRef,
)
from pipeline.artifacts.sparsity import LinearSparsity, SparsityTable
from pipeline.canonical import sha256_hex
from pipeline.job.ledger import Measured, NodeResult
from pipeline.methods.wanda import Wanda
from pipeline.report.data import ReportData
from pipeline.report.summary import seeds_of
from pipeline.request.prune_spec import Prune, PruneSpec
from pipeline.sources.pins import ModelFacts, Pin, PinnedFile, Pins
from pipeline.spec.evaluation import (
    Evaluation,
    EvaluationResult,
    PerplexityContract,
    PerplexityResult,
    PerplexityText,
)
from pipeline.spec.model import ModelSource
from pipeline.spec.patterns import Unstructured
from pipeline.spec.source_fields import SourceField
from pipeline.spec.texts import Calibration
from pipeline.spec.uri import SourceKind
from pipeline.storage.content import BlobRef
from tests.made_pins import made_pins

LINEARS = {
    "self_attn.q_proj": 576 * 576,
    "self_attn.k_proj": 192 * 576,
    "self_attn.v_proj": 192 * 576,
    "self_attn.o_proj": 576 * 576,
    "mlp.gate_proj": 1536 * 576,
    "mlp.up_proj": 1536 * 576,
    "mlp.down_proj": 576 * 1536,
}
DENSE, PRUNED = sha256_hex(b"dense"), sha256_hex(b"pruned")
VERSIONS = {
    "python": "3.11.2",
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "ray": "2.60.0",
    "secateur": "0.1.0",
}


def made_spec(*, model: str = "file:/models/SmolLM2-135M") -> PruneSpec:
    """A spec that prunes half of the weights with Wanda and OWL."""
    return PruneSpec(
        model=ModelSource(source=model),
        calibration=Calibration(source="file:/texts/c4.txt", samples=16, sequence_length=512),
        prune=Prune(method=Wanda(), allocation=Owl(spread=0.05), pattern=Unstructured(sparsity=0.5)),
        evaluation=Evaluation(
            perplexity=(
                PerplexityText(
                    source="file:/texts/wiki.txt",
                    characters=400_000,
                    sequence_length=512,
                    windows=16,
                    bos="none",
                ),
            )
        ),
    )


def made_report(*, blocks: int = 30, spec: PruneSpec | None = None, name: str = "SmolLM2-135M") -> ReportData:
    """The report of a job with this number of blocks."""
    spec = spec or made_spec()
    assert spec.prune is not None
    ratios = tuple(2 + math.sin(block) + 3 / (1 + block) for block in range(blocks))
    asked = OutlierRatio(multiplier=5)
    measured = ratios if spec.prune.allocation.measure is not None else ()
    plan = spec.prune.allocation.plan(spec.prune.pattern, [LINEARS] * blocks, measured=measured)
    return ReportData(
        model_name=name,
        job="job_0123456789",
        job_name="nightly",
        spec=spec,
        pins=report_pins(spec),
        plan=plan,
        sparsity=_table(plan.sparsity),
        measurements=Measurements(measure=asked, title=asked.title, blocks=ratios),
        dense=made_evaluation(DENSE, loss=2.972),
        pruned=made_evaluation(PRUNED, loss=3.765),
        stages=made_stages(),
        environment=Environment(
            versions=VERSIONS, platform="Linux-6.1-x86_64", cpu_model="EPYC 7763", cores=2, threads=1
        ),
        checkpoints={"dense": DENSE, "pruned": PRUNED},
        manifest_prefix="published/SmolLM2-135M-0123456789ab/",
        manifest_digest=sha256_hex(b"manifest"),
        seeds=seeds_of(spec),
    )


def made_evaluation(
    checkpoint: str, *, loss: float, name: str = "wiki.txt", stride: int = 512
) -> EvaluationResult:
    """An evaluation on one text."""
    contract = PerplexityContract(
        text_digest=sha256_hex(b"text"),
        tokenizer_digest=sha256_hex(b"tokenizer"),
        sequence_length=512,
        stride=stride,
        bos="none",
        windows=16,
        tokens_scored=16 * 511,
        dtype="float32",
    )
    result = PerplexityResult(
        name=name, contract=contract, loss=loss, perplexity=math.exp(loss), window_losses=(loss,) * 16
    )
    return EvaluationResult(checkpoint_digest=checkpoint, perplexity=(result,))


def made_stages() -> tuple[NodeResult, ...]:
    """All stages but the report; the first two come from the cache."""
    dense = CheckpointRef(files=(made_file("config.json"), made_file("model.safetensors")))
    pruned = CheckpointRef(files=(made_file("config.json"), made_file("model-pruned.safetensors")))
    made = [
        ("import_model", {"checkpoint": dense}, 1.2),
        ("calibrate", {"samples": SamplesRef(files=(made_file("samples.safetensors"),))}, 0.4),
        (
            "measure_statistics",
            {"statistics": StatisticsRef(files=(made_file("block-00000.safetensors"),))},
            60.0,
        ),
        ("measure_blocks", {"measurements": MeasurementsRef(files=(made_file("measurements.json"),))}, 1.0),
        ("allocate", {"plan": PlanRef(files=(made_file("plan.json"),))}, 0.01),
        ("prune", {"checkpoint": pruned, "keep": KeepRef(files=(made_file("sparsity.json"),))}, 95.5),
        ("evaluate:dense", {"evaluation": EvaluationRef(files=(made_file("evaluation.json"),))}, 40.0),
        ("evaluate:pruned", {"evaluation": EvaluationRef(files=(made_file("evaluation2.json"),))}, 41.0),
        (
            "publish",
            {"manifest": ManifestRef(files=(made_file("manifest.json"),), prefix="published/x/")},
            2.0,
        ),
    ]
    return tuple(
        made_stage(node, artifacts, seconds, index=index)
        for index, (node, artifacts, seconds) in enumerate(made)
    )


def made_stage(
    node: str, artifacts: Mapping[str, ArtifactRef], seconds: float, *, index: int = 2
) -> NodeResult:
    """The result of one stage."""
    peak = None if node == "allocate" else 300_000_000 + index
    return NodeResult(
        node=node,
        key=sha256_hex(node.encode()),
        cached=index < 2,
        artifacts=dict(artifacts),
        measured=Measured(seconds=seconds, peak_memory_bytes=peak),
    )


def _table(sparsity: tuple[float, ...]) -> SparsityTable:
    return SparsityTable(
        linears=tuple(
            LinearSparsity(
                block=block,
                linear=linear,
                pruned=round(weights * wanted),
                zeros=round(weights * wanted),
                weights=weights,
            )
            for block, wanted in enumerate(sparsity)
            for linear, weights in LINEARS.items()
        )
    )


def report_pins(spec: PruneSpec) -> Pins:
    """The pins of a reported job's sources."""

    def pin(field: SourceField) -> Pin:
        path = "model.safetensors" if field.kind is SourceKind.MODEL else field.uri.rsplit("/", 1)[-1]
        file = PinnedFile(path=path, size=1000, tag=f"sha256:{sha256_hex(path.encode())}")
        return Pin(source=field.uri, files=(file,))

    return made_pins(spec, facts=ModelFacts(model_type="llama", blocks=30, max_positions=2048), pin=pin)


def made_file(path: str) -> FileRef:
    """A file of an artifact."""
    return FileRef(path=path, blob=BlobRef(digest=sha256_hex(path.encode()), size=1000))
