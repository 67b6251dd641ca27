"""Every way to prune through the API on a real Ray: tournament, reconstruction, propagation, solver."""

from pathlib import Path

import pytest
from safetensors.torch import load

from api.service.jobs.views import JobView
from tests.e2e.service import Service
from tests.e2e.test_job import artifacts, finished, request, with_tasks

pytestmark = pytest.mark.e2e

CANDIDATES = [{"kind": "owl", "multiplier": 3, "spread": 0.1}, {"kind": "dlp"}, {"kind": "alpha_pruning"}]


def asked(material: Path, *, workers: int = 1, **prune: object) -> dict:
    body = request(material, "llama", workers=workers)
    body["spec"]["prune"] |= prune
    return body


@pytest.fixture(scope="module")
def tournament(local_service: Service, material: Path) -> JobView:
    body = asked(
        material,
        workers=2,
        allocation={"kind": "tournament", "candidates": CANDIDATES, "samples": 4},
        propagation="linear",
        reconstruction={"epochs": 2, "samples_per_step": 4, "learning_rate": 0.001},
    )
    done = finished(local_service, body)
    assert done.status == "succeeded", done.error
    return done


def test_the_winner_of_a_tournament_is_taken_as_it_was_pruned(
    local_service: Service, tournament: JobView
) -> None:
    made = artifacts(local_service, tournament)
    with local_service.client() as client:
        data = client.report(tournament.id).data
    table = data.tournament
    assert table is not None
    assert [entry.allocation.kind for entry in table.entries] == ["uniform", "owl", "dlp", "alpha_pruning"]
    perplexities = [entry.perplexity for entry in table.entries]
    assert len(set(perplexities)) == 4
    assert perplexities[table.winner] == min(perplexities)
    assert table.tokens == 4 * 47
    assert made["prune", "checkpoint"].digest == made[f"prune:{table.winner}", "checkpoint"].digest
    status = {stage.node: stage.status for stage in tournament.stages}
    assert status["prune"] == "cached"
    assert status["judge:3"] == "succeeded"


def test_blocks_are_fitted_and_the_report_says_by_how_much(
    local_service: Service, tournament: JobView
) -> None:
    made = artifacts(local_service, tournament)
    with local_service.client() as client:
        data = client.report(tournament.id).data
        page = b"".join(
            client.file(next(f for f in made["report", "report"].files if f.path == "report.html"))
        )
    assert [fit.block for fit in data.fits] == [0, 1, 2, 3]
    assert all(fit.after < fit.before for fit in data.fits)
    assert data.sparsity is not None
    linears = data.sparsity.linears
    assert sum(one.zeros for one in linears) == round(sum(one.weights for one in linears) / 2)
    for text in (b'id="tournament-table"', b'id="pruned-fits-table"', b"Reconstruction"):
        assert text in page


def test_dense_statistics_serve_every_member_that_shares_them(local_service: Service, material: Path) -> None:
    shared = {"propagation": "dense", "method": {"kind": "sparsegpt"}}
    first = finished(local_service, asked(material, **shared))
    second = finished(
        local_service,
        asked(
            material,
            **shared,
            pattern={"kind": "nm", "keep": 2, "group": 4},
            allocation={"kind": "owl", "multiplier": 3, "nm_spread": 1},
        ),
    )
    assert (first.status, second.status) == ("succeeded", "succeeded"), (first.error, second.error)
    statistics = artifacts(local_service, first)["measure_statistics", "statistics"]
    assert any("hessian" in file.path for file in statistics.files)
    status = {stage.node: stage.status for stage in second.stages}
    assert status["measure_statistics"] == status["measure_blocks"] == "cached"
    assert status["prune"] == "succeeded"
    with local_service.client() as client:
        file = next(f for f in statistics.files if "hessian" in f.path)
        hessian = load(b"".join(client.file(file)))["hessian"]
    assert hessian.shape[0] == hessian.shape[1]
    assert (hessian.diagonal() >= 0).all()


@pytest.fixture(scope="module")
def sweep(local_service: Service, material: Path) -> JobView:
    body = asked(material, propagation="dense", allocation={"kind": "uniform"})
    body["spec"]["sweep"] = {
        "methods": [{"kind": "wanda"}, {"kind": "magnitude"}],
        "patterns": [{"kind": "unstructured", "sparsity": 0.5}, {"kind": "nm", "keep": 2, "group": 4}],
        "sparsities": [0.65],
    }
    body = with_tasks(body, material)
    body["spec"]["evaluation"]["tasks"]["tasks"] = ["trees"]
    done = finished(local_service, body)
    assert done.status == "succeeded", done.error
    return done


def test_a_sweep_compares_its_members(local_service: Service, sweep: JobView) -> None:
    with local_service.client() as client:
        data = client.sweep_report(sweep.id).data
        page = client.report_html(sweep.id)
    assert [member.title for member in data.members] == [
        "wanda · uniform · unstructured 0.65",
        "magnitude · uniform · unstructured 0.65",
        "wanda · uniform · 2:4",
        "magnitude · uniform · 2:4",
    ]
    assert [round(member.sparsity, 3) for member in data.members] == [0.65, 0.65, 0.5, 0.5]
    figures = [member.perplexity[0].final for member in data.members]
    assert len(set(figures)) == 4
    assert any(member.best for member in data.members)
    assert all(member.tasks for member in data.members)
    status = {stage.node: stage.status for stage in sweep.stages}
    assert {"measure_statistics", "prune@4", "evaluate:pruned@4", "tasks:pruned:trees@4"} <= status.keys()
    assert [node for node in status if node.startswith("measure")] == ["measure_statistics"]
    assert "publish" not in status
    assert page.count(b'class="best"') >= 1


def test_a_member_is_published_by_a_job_that_finds_its_masks(
    local_service: Service, sweep: JobView, material: Path
) -> None:
    with local_service.client() as client:
        member = client.sweep_report(sweep.id).data.members[2]
    body = asked(material, **member.prune.model_dump(mode="json"))
    alone = finished(local_service, body)
    assert alone.status == "succeeded", alone.error
    status = {stage.node: stage.status for stage in alone.stages}
    assert (status["prune"], status["evaluate:pruned"]) == ("cached", "cached")
    assert status["publish"] == "succeeded"
    assert artifacts(local_service, alone)["prune", "checkpoint"].digest == member.checkpoint
