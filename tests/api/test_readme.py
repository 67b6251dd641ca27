"""What the README shows is what the service takes."""

import json
import re
from pathlib import Path

import yaml

from api.service.schedules.request import ScheduleRequest, check
from pipeline.request.prune_spec import JobRequest

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_spec() -> None:
    (document,) = re.findall(r"```yaml\n(spec:.*?)```", README, flags=re.DOTALL)
    assert JobRequest.model_validate(yaml.safe_load(document)).spec.evaluation.tasks


def test_the_schedule_of_the_night() -> None:
    (body,) = re.findall(r"\$URL/schedules .*? -d '(\{.*?\n\})'", README, flags=re.DOTALL)
    request = ScheduleRequest.model_validate(json.loads(body))
    check(request)
    assert request.alias == "nightly"
