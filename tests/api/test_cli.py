"""The CLI against a real service on a real port."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import api.cli.main
from api.cli.demo import demo_request
from pipeline.request.prune_spec import JobRequest
from tests.api import played
from tests.api.bodies import body
from tests.api.conftest import RunningApi, free_port
from tests.api.terminal import cli, submit

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(body(name="from a file")))
    return path


def test_submit_prints_id_and_links(sqlite_api: RunningApi, spec_file: Path) -> None:
    result = cli("submit", str(spec_file), url=sqlite_api.url)
    assert result.exit_code == 0, result.output
    job_id, *links = result.stdout.splitlines()
    assert f"{sqlite_api.url}/jobs/{job_id}" in [link.strip() for link in links]
    assert sqlite_api.client.get(f"/jobs/{job_id}").json()["name"] == "from a file"


def test_submit_reads_standard_input_and_json(sqlite_api: RunningApi) -> None:
    result = cli("submit", "-", "--json", url=sqlite_api.url, text=json.dumps(body(name="piped")))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["name"] == "piped"


def test_submit_overrides_fields(sqlite_api: RunningApi, spec_file: Path) -> None:
    given = [
        "spec.prune.pattern.sparsity=0.6",
        "labels.team=serving",
        "resources.memory_per_worker=3GiB",
        "name=other",
    ]
    arguments = [part for one in given for part in ("--set", one)]
    result = cli("submit", str(spec_file), "--json", *arguments, url=sqlite_api.url)
    assert result.exit_code == 0, result.output
    job = json.loads(result.stdout)
    assert job["spec"]["prune"]["pattern"]["sparsity"] == 0.6
    assert job["labels"] == {"team": "serving"}
    assert job["resources"]["memory_per_worker"] == "3GiB"
    assert job["name"] == "other"


def test_files_count_from_the_directory_of_the_spec(sqlite_api: RunningApi, tmp_path: Path) -> None:
    path = tmp_path / "specs" / "job.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(body(model="file:../models/tiny")))
    result = cli("submit", str(path), "--json", url=sqlite_api.url)
    assert json.loads(result.stdout)["model"] == f"file:{tmp_path}/models/tiny"


def test_a_repeated_key_gives_the_same_job(sqlite_api: RunningApi, spec_file: Path) -> None:
    arguments = ("submit", str(spec_file), "--idempotency-key", "night-1")
    first, again = (cli(*arguments, url=sqlite_api.url) for _ in range(2))
    assert first.stdout == again.stdout
    other = cli(*arguments, "--set", "name=changed", url=sqlite_api.url)
    assert other.exit_code == 1
    assert "error: Idempotency-Key 'night-1' was used with another body" in other.stderr


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("spec.prune.method.kind=wonda", "did you mean 'wanda'?"),
        ("spec.prune.pattern.sparsity=1.2", "spec.prune.pattern.sparsity is refused"),
        ("spec.prune.pattern=2", "spec.prune.pattern"),
        ("sparsity", "--set got 'sparsity'; write path.to.field=value"),
        ("name.first.second=1", "'first' is not a place in the spec"),
    ],
)
def test_bad_requests_are_one_line_and_exit_2(
    sqlite_api: RunningApi, spec_file: Path, override: str, told: str
) -> None:
    result = cli("submit", str(spec_file), "--set", "name=x", "--set", override, url=sqlite_api.url)
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("spec: [", "is neither YAML nor JSON"),
        ("- a list", "must be a mapping with `spec:` at its top, got list"),
        ("{'spec': {'model': 1}, }", "spec.model"),
        ("name: 2024-01-01", "put it in quotes"),
    ],
)
def test_bad_files_are_one_line_and_exit_2(
    sqlite_api: RunningApi, tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    result = cli("submit", str(path), url=sqlite_api.url)
    assert result.exit_code == 2
    assert told in result.stderr


def test_a_missing_file_is_named(sqlite_api: RunningApi) -> None:
    result = cli("plan", "nowhere.yaml", url=sqlite_api.url)
    assert (result.exit_code, result.stderr) == (
        2,
        "error: cannot read nowhere.yaml: No such file or directory\n",
    )


@pytest.mark.parametrize("command", [("jobs",), ("show", "job-x"), ("watch", "job-x"), ("logs", "job-x")])
def test_nobody_at_the_url(command: tuple[str, ...]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    result = cli(*command, url=url)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: no Secateur answers at {url}")
    assert "secateur serve" in result.stderr
    assert result.stderr.count("\n") == 1


def test_something_else_at_the_url(sqlite_api: RunningApi) -> None:
    assert "there is nothing at" in cli("jobs", url=f"{sqlite_api.url}/elsewhere").stderr
    assert "no Secateur answers at not a url" in cli("jobs", url="not a url").stderr


@pytest.mark.parametrize("command", ["show", "watch", "logs", "cancel", "retry", "report"])
def test_an_unknown_job(sqlite_api: RunningApi, command: str) -> None:
    result = cli(command, "job-00000000000000000000", url=sqlite_api.url)
    assert result.exit_code == 1
    assert "error: there is no job job-00000000000000000000 (id)" in result.stderr


def test_jobs_are_listed_and_filtered(sqlite_api: RunningApi) -> None:
    assert cli("jobs", url=sqlite_api.url).stdout == "no jobs\n"
    ids = [submit(sqlite_api, labels={"night": str(i % 2)}, name=f"[bold]n{i}") for i in range(5)]
    played.fail(sqlite_api, ids[0])
    table = cli("jobs", url=sqlite_api.url).stdout
    assert [line.split()[0] for line in table.splitlines()[1:]] == ids[::-1]
    assert "[bold]n3" in table
    assert cli("jobs", "--status", "failed", url=sqlite_api.url).stdout.count("job-") == 1
    assert cli("jobs", "--label", "night=1", url=sqlite_api.url).stdout.count("job-") == 2
    assert cli("jobs", "--limit", "3", url=sqlite_api.url).stdout.count("job-") == 3
    assert cli("jobs", "--created-before", "2020-01-01", url=sqlite_api.url).stdout == "no jobs\n"
    assert cli("jobs", "--model", "elsewhere", url=sqlite_api.url).stdout == "no jobs\n"
    listed = json.loads(cli("jobs", "--json", url=sqlite_api.url).stdout)
    assert [job["id"] for job in listed] == ids[::-1]
    assert "allowed: queued" in cli("jobs", "--status", "done", url=sqlite_api.url).stderr


def test_pages_are_followed(sqlite_api: RunningApi) -> None:
    ids = [submit(sqlite_api) for _ in range(5)]
    with sqlite_api.secateur() as client:
        assert [job.id for job in client.jobs(page=2)] == ids[::-1]


def test_show_cancel_retry(sqlite_api: RunningApi) -> None:
    job = submit(sqlite_api, labels={"team": "serving"})
    assert cli("cancel", job, url=sqlite_api.url).stdout == f"{job} cancelled\n"
    assert cli("retry", job, url=sqlite_api.url).stdout == f"{job} queued\n"
    played.start(sqlite_api, job)
    shown = cli("show", job, url=sqlite_api.url).stdout
    assert re.search(r"status +running", shown)
    assert re.search(r"labels +team:serving", shown)
    assert re.search(r"prune +running +1/2 block", shown)
    assert json.loads(cli("show", job, "--json", url=sqlite_api.url).stdout)["id"] == job
    refused = cli("retry", job, url=sqlite_api.url)
    assert refused.exit_code == 1
    assert "only a failed or cancelled job can be retried" in refused.stderr


def test_plan(sqlite_api: RunningApi, spec_file: Path) -> None:
    shown = cli("plan", str(spec_file), url=sqlite_api.url).stdout
    assert re.search(r"evaluate:pruned +runs +[\dm.s ]*prune", shown)
    assert "warning: spec.evaluation.perplexity is empty" in shown
    assert json.loads(cli("plan", str(spec_file), "--json", url=sqlite_api.url).stdout)["object"] == "plan"


def test_every_command_helps() -> None:
    listed = cli("--help").stdout
    commands = (
        "serve submit plan jobs show watch logs cancel retry report download import-gguf slice demo run keys "
        "apply-mask compare-masks"
    )
    for command in commands.split():
        assert command in listed
        assert cli(command, "--help").exit_code == 0


def test_serve_names_a_bad_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "error: SECATEUR_PORT: Input should be" in cli("serve", "--port", "0").stderr
    monkeypatch.setenv("SECATEUR_LOG_LEVEL", "LOUD")
    assert "error: SECATEUR_LOG_LEVEL: " in cli("serve").stderr


def test_no_torch_no_ray() -> None:
    heavy = {"torch", "ray", "transformers", "datasets"}
    code = f"import sys, api.cli.main; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=EXAMPLES.parent, check=False).returncode == 0
    assert callable(api.cli.main.main)


def test_examples_are_valid() -> None:
    paths = sorted(EXAMPLES.glob("*.yaml"))
    assert {"demo.yaml", "two-four.yaml", "hub.yaml", "s3.yaml"} <= {path.name for path in paths}
    for path in paths:
        result = cli("plan", str(path), "--url", f"http://127.0.0.1:{free_port()}")
        assert "no Secateur answers" in result.stderr, result.output
        document = yaml.safe_load(path.read_text().replace("file:", "file:/demo/").replace("//", "/"))
        JobRequest.model_validate(json.loads(json.dumps(document).replace("s3:/", "s3://")))


def test_the_demo_posts_its_example() -> None:
    text = (EXAMPLES / "demo.yaml").read_text().replace(": file:", ": file:/demo/")
    assert JobRequest.model_validate(yaml.safe_load(text)) == demo_request(Path("/demo"))
