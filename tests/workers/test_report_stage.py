"""The report stage reads what the nodes before it made."""

from pathlib import Path

from pydantic import BaseModel

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.curve import BlockFit, BlockFits
from pipeline.artifacts.refs import (
    ArtifactRef,
    CertificateRef,
    CheckpointRef,
    CurveRef,
    EvaluationRef,
    KeepRef,
    ManifestRef,
    MeasurementsRef,
    PlanRef,
    TokensRef,
    VerificationRef,
)
from pipeline.artifacts.sparsity import BlockExperts, ExpertTable, SparsityTable
from pipeline.canonical import canonical_json
from pipeline.dag.nodes import resolve_inputs
from pipeline.dag.plan import plan
from pipeline.dag.stages.results import Report
from pipeline.job.ledger import WorkOrder
from pipeline.report.data import ReportData, ReportDocument
from pipeline.request.prune_spec import JobRequest
from tests.pipeline.report.made_recovery import made_curve, recovered_report
from workers.context import Made, StageContext
from workers.settings import WorkerSettings
from workers.stages import report

NOTE = "damping raised from 0.01 to 0.1"


def test_what_pruning_told_is_in_the_report_when_training_follows(tmp_path: Path) -> None:
    """Training makes keep tensors of its own, with no more beside them than the zeros of each linear."""
    data = recovered_report(blocks=2)
    experts = ExpertTable(minimum_tokens=32, blocks=(BlockExperts(block=0, tokens=(31, 40)),))
    fits = BlockFits(blocks=(BlockFit(block=0, before=0.5, after=0.2),))
    made = reported(tmp_path, data, experts, fits)
    assert made.experts == experts
    assert made.fits == fits.blocks
    assert made.sparsity is not None
    assert data.sparsity is not None
    assert [one.note for one in made.sparsity.linears] == [NOTE] + [None] * 13
    assert [one.zeros for one in made.sparsity.linears] == [one.zeros for one in data.sparsity.linears]
    assert made.certificate == data.certificate


def reported(root: Path, data: ReportData, experts: ExpertTable, fits: BlockFits) -> ReportData:
    """The report of a job that prunes and trains, from artifacts with the documents of `data`."""
    settings = WorkerSettings.model_validate({"storage_url": f"file://{root}/storage"})
    content = settings.content()

    def files(**documents: BaseModel | None) -> tuple[FileRef, ...]:
        return tuple(
            FileRef(path=f"{name}.json", blob=content.put_bytes(canonical_json(document)))
            for name, document in documents.items()
            if document is not None
        )

    assert data.sparsity is not None
    assert data.spec.recovery is not None
    first, *others = data.sparsity.linears
    noted = SparsityTable(linears=(first.model_copy(update={"note": NOTE}), *others))
    checkpoint = CheckpointRef(files=())
    evaluations = {"dense": data.dense, "pruned": data.pruned, "recovered": data.recovered}
    made: dict[str, dict[str, ArtifactRef]] = {
        "import_model": {"checkpoint": checkpoint},
        "prepare_text": {"tokens": TokensRef(files=files(tokens=data.tokens))},
        "measure_blocks": {"measurements": MeasurementsRef(files=files(measurements=data.measurements))},
        "allocate": {"plan": PlanRef(files=files(plan=data.plan))},
        "prune": {
            "checkpoint": checkpoint,
            "keep": KeepRef(files=files(sparsity=noted, experts=experts, reconstruction=fits)),
        },
        "recover": {
            "checkpoint": checkpoint,
            "keep": KeepRef(files=files(sparsity=data.sparsity)),
            "curve": CurveRef(files=files(curve=made_curve(data.spec.recovery))),
        },
        "verify": {
            "manifest": ManifestRef(files=(), prefix="published/x/"),
            "verification": VerificationRef(files=files(verification=data.verification)),
        },
        "publish": {
            "certificate": CertificateRef(files=files(certificate=data.certificate)),
        },
        **{
            f"evaluate:{which}": {"evaluation": EvaluationRef(files=files(evaluation=one))}
            for which, one in evaluations.items()
        },
    }
    node = plan(data.spec, data.pins)["report"]
    inputs = resolve_inputs(node, made)
    assert inputs is not None
    assert isinstance(node.stage, Report)
    order = WorkOrder(job="job-x", attempt=1, request=JobRequest(spec=data.spec), pins=data.pins)
    context = StageContext(
        node="report", key="0" * 64, order=order, inputs=inputs, earlier=data.stages, settings=settings
    )
    *_, last = report.run(node.stage, context)
    assert isinstance(last, Made)
    return ReportDocument.model_validate_json(
        content.get_bytes(last.artifacts["report"].file("report.json"))
    ).data
