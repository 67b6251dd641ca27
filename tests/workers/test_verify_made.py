"""Faults that were made before publishing, so that every digest is right, are found by opening the model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from pipeline.artifacts.refs import VerificationRef
from pipeline.artifacts.verification import Verification
from pipeline.errors import VerificationFailed
from pipeline.job.ledger import WorkOrder
from tests.workers.planted import (
    Plant,
    added,
    all_of,
    cut,
    field,
    gone,
    removed,
    revived,
    text,
    turned_into,
    value,
    weights,
)
from tests.workers.verified_jobs import FinishedJob, finished_job

pytestmark = [
    pytest.mark.usefixtures("one_thread", "all_opened_here"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # peft asks
]

SHARD = "model-00002-of-00005.safetensors"
OUTER = "model-00001-of-00005.safetensors"
UP = "model.layers.0.mlp.up_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> FinishedJob:
    """A pruned model."""
    return finished_job(tmp_path_factory.mktemp("published"), "llama")


def missing(name: str) -> Plant:
    """A tensor that neither shard nor index has."""
    return all_of(weights(SHARD, removed(name)), field(INDEX, "weight_map", to=_without(name)))


def extra(file: str, name: str, shape: tuple[int, ...]) -> Plant:
    """A tensor that shard and index have."""
    return all_of(weights(file, added(name, shape)), field(INDEX, "weight_map", name, to=file))


def _without(name: str) -> Callable[[dict[str, str]], dict[str, str]]:
    return lambda weight_map: {one: file for one, file in weight_map.items() if one != name}


FAULTS: dict[str, tuple[Plant, str]] = {
    "missing tensor": (missing(NORM), rf"config\.json makes tensor {NORM}, and the weights lack it"),
    "left-over tensor": (
        extra(SHARD, "model.layers.0.self_attn.q_proj.bias", (64,)),
        r"weights have tensor model\.layers\.0\.self_attn\.q_proj\.bias, and config\.json makes none",
    ),
    "another head": (
        extra(OUTER, "lm_head.weight", (384, 64)),
        r"config\.json has tie_word_embeddings true, and the weights hold a head that is not the embedding",
    ),
    "wrong shape": (
        weights(SHARD, turned_into(NORM, lambda w: w[:-1])),
        rf"tensor {NORM} is \[63\] in the weights, and config\.json makes it \[64\]",
    ),
    "NaN": (
        weights(SHARD, value(NORM, float("nan"), where=5)),
        rf"tensor {NORM} in {SHARD} has 1 values that are NaN or infinite, the first at \[5\]",
    ),
    "infinity": (
        weights(SHARD, value(UP, float("-inf"))),
        rf"tensor {UP} in {SHARD} has 1 values that are NaN or infinite, the first at \[0, 0\]",
    ),
    "revived weight": (
        weights(SHARD, revived(UP)),
        rf"{UP} \[\d+, \d+\] was pruned and is 0\.5 \(published\)",
    ),
    "vocab_size": (
        field("config.json", "vocab_size", to=385),
        r"tensor \S*embed_tokens\.weight is \[384, 64\] in the weights, and config\.json makes it \[385",
    ),
    "heads": (
        field("config.json", "num_key_value_heads", to=4),
        r"tensor model\.layers\.0\.self_attn\.k_proj\.weight is \[32, 64\] in the weights, and config",
    ),
    "one block more": (
        field("config.json", "num_hidden_layers", to=5),
        r"config\.json makes tensor model\.layers\.4\.\S+, and the weights lack it",
    ),
    "one block fewer": (
        field("config.json", "num_hidden_layers", to=3),
        r"the weights have tensor model\.layers\.3\.\S+, and config\.json makes none of that name",
    ),
    "another type": (
        field("config.json", "model_type", to="gpt2"),
        r"config\.json makes tensor .* lack it \(GPT2",
    ),
    "an unknown type": (
        field("config.json", "model_type", to="llamma"),
        r"config\.json .*'llamma' has no row",
    ),
    "a config that makes no model": (
        field("config.json", "hidden_act", to="gelux"),
        r"cannot open the model of config\.json .*gelux",
    ),
    "index": (
        field(INDEX, "weight_map", NORM, to=OUTER),
        rf"{INDEX} says that {NORM} is in {OUTER}, and it is in {SHARD} \(field weight_map\)",
    ),
    "no weight map": (text(INDEX, "{}"), rf"{INDEX} has no field weight_map"),
    "no index": (gone(INDEX), rf"{INDEX} is missing, and the weights are in model-00001"),
    "tokenizer": (text("tokenizer.json", "{}"), r"cannot open the tokenizer \(tokenizer\.json"),
    "BOS beyond the rows": (
        all_of(
            field("tokenizer_config.json", "bos_token", to="<more>"),
            field("tokenizer.json", "post_processor", to=None),
        ),
        r"bos_token '<more>' of tokenizer_config\.json has id 384, and the embedding has 384 rows",
    ),
    "ids beyond the rows": (
        field(
            "tokenizer.json", "model", "vocab", to=lambda v: {t: i + 1000 * (t == "e") for t, i in v.items()}
        ),
        r"the tokenizer turns .* and the embedding has 384 rows \(tokenizer\.json\)",
    ),
    "a text that does not come back": (
        field("tokenizer.json", "decoder", to={"type": "Fuse"}),
        r"the tokenizer turns 'In winter .* into .*, which are other tokens",
    ),
    "generation": (
        text("generation_config.json", "{"),
        r"transformers cannot open generation_config\.json",
    ),
    "no front matter": (text("README.md", "# Model\n"), r"README\.md is no model card"),
    "broken front matter": (
        text("README.md", "---\na: [\n---\ntext\n"),
        r"front matter of README\.md is not",
    ),
    "side file": (field("secateur.json", "spec", to={}), r"secateur\.json cannot be read: .* \(field spec"),
    "sparsity": (
        field("secateur.json", "sparsity", to=0.7),
        r"secateur\.json has sparsity 0\.7, and its linears make 0\.\d+ \(field sparsity\)",
    ),
    "zeros": (
        field("secateur.json", "zeros", "held", to=5),
        r"secateur\.json states 5 zeros in 28 tensors, and 73728 in 28 were found \(field zeros\)",
    ),
    "certificate": (
        field("certificate.json", "tensors", to=lambda tensors: tensors[1:]),
        r"certificate\.json is not about these weights: field tensors",
    ),
    "keep tensor": (
        field("certificate.json", "tensors", to=lambda tensors: [{**tensors[0], "held": 7}, *tensors[1:]]),
        r"certificate\.json is not about these weights: field tensors\.0\.held is 7, and was",
    ),
    "a check that failed": (
        field("certificate.json", "checks", to=lambda checks: [{**checks[0], "revived": 3}]),
        r"certificate\.json has checks that did not hold \(field checks\)",
    ),
    "masks": (cut("masks/masks.safetensors", 0.5), r"masks/masks\.safetensors cannot be read"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_was_made_wrong_does_not_open(fault: str, job: FinishedJob, tmp_path: Path) -> None:
    plant, message = FAULTS[fault]
    planted = job.copied(tmp_path)
    plant(planted.directory)
    with pytest.raises(VerificationFailed, match=message):
        planted.with_true_digests().verify()
    assert not (planted.directory / "manifest.json").exists()


def test_digests_of_others_are_named(job: FinishedJob, tmp_path: Path) -> None:
    planted = job.copied(tmp_path)
    weights(SHARD, value(NORM, 0.25))(planted.directory)
    with pytest.raises(
        VerificationFailed, match=rf"secateur\.json has SHA-256 .* of {SHARD} \(field digests"
    ):
        planted.listed_anew().verify()
    with pytest.raises(VerificationFailed, match=f"{SHARD} in .* is not that of the checkpoint"):
        replace(planted, published=planted.listed_anew().published).verify()


def with_adapter(job: FinishedJob, root: Path) -> FinishedJob:
    """The job with a LoRA adapter, as peft writes one."""
    copy = job.copied(root)
    model = AutoModelForCausalLM.from_pretrained(copy.directory)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    adapted.save_pretrained(copy.directory / "adapter")
    return copy


def not_a_number(tensors: dict[str, torch.Tensor]) -> None:
    """Fills the first matrix with NaN."""
    next(iter(tensors.values())).fill_(torch.nan)


@pytest.mark.parametrize("memory", ["8GiB", "64MiB"])
def test_an_adapter_is_loaded_on_its_base(job: FinishedJob, tmp_path: Path, memory: str) -> None:
    copy = with_adapter(job, tmp_path).with_true_digests()
    document = replace(copy, order=_with_memory(copy.order, memory)).verify().artifacts["verification"]
    assert isinstance(document, VerificationRef)
    opened = document.load(copy.content, Verification).opened
    assert opened.adapter_tensors == 2 * 2 * 4


def _with_memory(order: WorkOrder, memory: str) -> WorkOrder:
    resources = order.request.resources.model_copy(update={"memory_per_worker": memory})
    return order.model_copy(update={"request": order.request.model_copy(update={"resources": resources})})


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (
            field("adapter/adapter_config.json", "r", to=8),
            r"cannot open the adapter \(adapter/adapter_config\.json\): .*size mismatch",
        ),
        (
            field("adapter/adapter_config.json", "target_modules", to=["q_proj", "o_proj"]),
            r"adapter/adapter_model\.safetensors and adapter/adapter_config\.json do not agree about tensor",
        ),
        (
            weights("adapter/adapter_model.safetensors", not_a_number),
            r"tensor \S+ in adapter/adapter_model\.safetensors is not finite",
        ),
    ],
)
def test_adapters_that_do_not_fit(job: FinishedJob, tmp_path: Path, plant: Plant, message: str) -> None:
    copy = with_adapter(job, tmp_path)
    plant(copy.directory)
    with pytest.raises(VerificationFailed, match=message):
        copy.with_true_digests().verify()
