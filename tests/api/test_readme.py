"""What the README and the page about specs show is what the service takes."""

import json
import re
from pathlib import Path

import pytest
import yaml

from api.service.schedules.request import ScheduleRequest, check
from pipeline.request.prune_spec import JobRequest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "docs/spec.md"])
def test_the_spec(page: str) -> None:
    (document,) = re.findall(r"```yaml\n(spec:.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    spec = JobRequest.model_validate(yaml.safe_load(document)).spec
    assert spec.prune is not None
    assert spec.evaluation.perplexity
    if page == "docs/spec.md":  # the one with every part
        assert spec.evaluation.tasks
        assert spec.structure is not None
        assert spec.recovery is not None


def test_the_schedule_of_the_night() -> None:
    (body,) = re.findall(r"\$URL/schedules .*? -d '(\{.*?\n\})'", README, flags=re.DOTALL)
    request = ScheduleRequest.model_validate(json.loads(body))
    check(request)
    assert request.alias == "nightly"
