"""The head of a job's page shows what each part of the job has for itself."""

from playwright.sync_api import Page, expect

from tests.browser import go
from tests.web import scenes
from tests.web.conftest import Site


def test_parts_with_sizes_of_their_own_are_shown(page: Page, site: Site) -> None:
    resources = {
        "workers": 2,
        "gpus_per_worker": 1,
        "cpus_per_worker": 8,
        "memory_per_worker": "48GiB",
        "accelerator_type": "H100",
        "evaluation": {"workers": 1, "gpus_per_worker": 4},
    }
    job = scenes.play(site.api, name="parts", resources=resources)
    go(page, f"/jobs/{job.id}")
    expect(page.get_by_text("2 workers × 8 CPU, 1 H100 GPU, 48GiB")).to_have_text(
        "2 workers × 8 CPU, 1 H100 GPU, 48GiB · evaluation 1 worker × 8 CPU, 4 H100 GPU, 48GiB"
    )
