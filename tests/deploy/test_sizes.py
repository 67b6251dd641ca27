"""Every spec that the project shows has a place in the chart's worker groups, and its training on a GPU."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from api.examples import REQUEST_EXAMPLES
from pipeline.request.parts import PARTS, WorkerShare
from pipeline.request.prune_spec import JobRequest
from pipeline.request.spec_files import located
from pipeline.resolve.mask_memory import mask_memory
from pipeline.resolve.training_memory import training_memory
from pipeline.sources.pins import ModelFacts
from pipeline.spec.patterns import NM
from tests.deploy.charts import CHART, ROOT
from tests.made_pins import made_pins

SEVEN_B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}
FACTS = ModelFacts(
    model_type="llama",
    blocks=32,
    max_positions=4096,
    hidden_size=4096,
    vocabulary=32000,
    parameters=6_738_415_616,
    config=SEVEN_B,
)
GPU = 80 * 10**9  # the chart's example has H100s
UNITS = {"Mi": 2**20, "Gi": 2**30}


def shown() -> Iterator[tuple[str, dict[str, Any]]]:
    """Requests by the place where a reader finds them."""
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        yield path.name, located(yaml.safe_load(path.read_text()), path.parent)
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for i, text in enumerate(re.findall(r"```yaml\n(spec:.*?)```", path.read_text(), flags=re.DOTALL)):
            document = yaml.safe_load(text)
            if "resources" in document:
                yield f"{path.name} {i + 1}", document
    for name, example in REQUEST_EXAMPLES.items():
        yield f"api: {name}", example["value"]
    (parts,) = re.findall(
        r"```yaml\n(resources:.*?)```", (ROOT / "docs" / "resources.md").read_text(), re.DOTALL
    )
    prune = {"method": {"kind": "magnitude"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}}
    yield "resources.md", {"spec": {"model": {"source": "file:/m"}, "prune": prune}, **yaml.safe_load(parts)}
    (night,) = re.findall(
        r"\$URL/schedules .*? -d '(\{.*?\n\})'", (ROOT / "README.md").read_text(), re.DOTALL
    )
    template = json.loads(night)["template"]
    yield "README.md, the night", {**template, "spec": {"model": {"source": "file:/m"}, **template["spec"]}}


SHOWN = dict(shown())


def groups() -> list[dict[str, Any]]:
    """The worker groups of the chart and of its example for production."""
    found = []
    for path in (CHART / "values.yaml", CHART / "ci" / "production-values.yaml"):
        values = yaml.safe_load(path.read_text())["rayCluster"]["workerGroups"]
        defaults = yaml.safe_load((CHART / "values.yaml").read_text())["rayCluster"]["workerGroups"]
        found += [{"gpus": 0, **defaults.get(name, {}), **group} for name, group in values.items()]
    return found


def fits(share: WorkerShare, group: dict[str, Any]) -> bool:
    room = size(group["memory"]) - size(group["sharedMemory"])
    return (
        share.cpus_per_worker <= group["cpus"]
        and share.gpus_per_worker <= group["gpus"]
        and share.memory_bytes <= room
    )


def size(text: str) -> int:
    return int(text[:-2]) * UNITS[text[-2:]]


def test_the_shown_specs_were_found() -> None:
    assert {
        "maskllm.yaml",
        "README.md 1",
        "spec.md 1",
        "recovery.md 1",
        "README.md, the night",
    } <= SHOWN.keys()


@pytest.mark.parametrize("name", SHOWN)
def test_every_worker_has_a_place(name: str) -> None:
    resources = JobRequest.model_validate(SHOWN[name]).resources
    for part in PARTS:
        share = resources.of(part)
        assert any(fits(share, group) for group in groups()), f"{part}: {share}"
        if share.gpus_per_worker == 1 and name != "resources.md":  # a job for nodes of eight GPUs
            assert fits(share, groups()[1]), "the group that a reader switches on first"


@pytest.mark.parametrize("name", SHOWN)
def test_training_seven_billion_weights_fits_on_a_gpu(name: str) -> None:
    request = JobRequest.model_validate(SHOWN[name])
    spec, resources = request.spec, request.resources
    if not resources.of("recovery").gpus_per_worker:
        return
    pins = made_pins(spec, facts=FACTS)
    needed = []
    if spec.recovery is not None:
        needed.append(training_memory(spec.recovery, resources, pins=pins, sparse=spec.makes_zeros))
    if spec.prune is not None and spec.learned_method is not None and isinstance(spec.prune.pattern, NM):
        training = spec.learned_method.training
        needed.append(mask_memory(training, spec.prune.pattern, resources, facts=FACTS))
    for one in needed:
        assert one.total < GPU, one.parts()


def test_a_group_from_zero_may_take_longer_to_start_than_ten_minutes() -> None:
    """Machine, driver and image of a GPU node: the default waits for half an hour."""
    assert JobRequest.model_validate(SHOWN["README.md 1"]).resources.placement_timeout_seconds >= 1800
