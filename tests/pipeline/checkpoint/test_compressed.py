"""Quantized checkpoints as transformers opens them with the library, and as they are read back here."""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from pipeline.artifacts.refs import CheckpointRef
from pipeline.blocks.local import LocalCrew
from pipeline.blocks.logits import streamed_logits
from pipeline.blocks.pruning import PrunedBlocks, Pruning, prune_blocks, pruned_checkpoint
from pipeline.blocks.steps import run_through
from pipeline.checkpoint.compressed import Packer, write_compressed
from pipeline.checkpoint.export import export_checkpoint
from pipeline.checkpoint.read_back import ReadBack, read_back
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.stored_block import StoredBlock
from pipeline.errors import ZerosLost
from pipeline.methods.gptq import GptqRounding
from pipeline.serving.quantized import NOT_OPENED
from pipeline.spec.patterns import Unstructured
from pipeline.spec.quantization import Gptq, Quantization, Rtn
from pipeline.spec.sparsity_plan import SparsityPlan
from pipeline.storage import ContentStore
from pipeline.storage.progress import StageProgress
from tests.checkpoints import imported
from tests.model_configs import DENSE
from tests.models import VOCABULARY, tiny_checkpoint
from tests.pipeline.blocks.test_sweep import samples

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")

Result = TypeVar("Result")
FORM: TypeAdapter[Quantization] = TypeAdapter(Quantization)
GPTQ = Gptq(group_size=32)
PROMPT = torch.arange(1, 25) * 7 % VOCABULARY


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> tuple[ContentStore, CheckpointRef]:
    """A tiny model in bfloat16 of which every third weight of a linear is zero."""
    directory = tmp_path_factory.mktemp("compressed")
    tiny_checkpoint("llama", directory / "model", dtype="bfloat16")
    model = AutoModelForCausalLM.from_pretrained(directory / "model", dtype=torch.bfloat16)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("_proj.weight"):
                weight.view(-1)[::3] = 0
    model.save_pretrained(directory / "model")
    return imported(directory / "model", directory / "store")


def finished(work: Generator[int, None, Result]) -> Result:
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: Result = end.value
            return result


def rounded(
    content: ContentStore, final: CheckpointRef, *, workers: int = 1, done: Sequence[StoredBlock] = ()
) -> PrunedBlocks:
    """GPTQ as the stage runs it. `done`: blocks that an earlier attempt has stored."""
    crew = LocalCrew(content, final, samples(), workers=workers)
    plan = SparsityPlan(asked=0, blocks=(Unstructured(sparsity=0),) * crew.blocks)
    rounding = Pruning(GptqRounding(form=GPTQ), plan, "pruned", samples=len(samples()))
    progress = StageProgress(content, "0" * 64) if done else None
    for block in done:
        assert progress is not None
        progress.put_block(block.block, block)
    return run_through(prune_blocks(crew, rounding, progress=progress))


def opened(
    content: ContentStore, written: CheckpointRef, found: ReadBack, directory: Path
) -> PreTrainedModel:
    """The model as transformers opens it; its logits are those of the weights that were read back."""
    export_checkpoint(content, written, directory)
    model, said = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not any(said.values()), said
    logits = model(PROMPT[None]).logits[0]
    back = streamed_logits(CheckpointReader(content, found.checkpoint), PROMPT, dtype=logits.dtype)
    torch.testing.assert_close(logits, back, rtol=0, atol=2**-6 * float(back.abs().max()))
    return model


def reading(content: ContentStore, written: CheckpointRef, form: Any, final: CheckpointRef) -> ReadBack:
    packer, reader = Packer(form), CheckpointReader(content, written)
    back = read_back(content, final, lambda name: packer.unpacked(reader, name), where=form.name)
    return finished(back)


@pytest.mark.parametrize(
    ("asked", "layout", "largest_error"),
    [
        ({"kind": "rtn", "group_size": 32}, "pack-quantized", 0.12),
        ({"kind": "rtn", "weights": "int8", "group_size": None}, "pack-quantized", 0.01),
        ({"kind": "fp8"}, "float-quantized", 0.04),
        ({"kind": "fp8", "scales": "tensor"}, "float-quantized", 0.04),
    ],
    ids=lambda value: FORM.validate_python(value).name if isinstance(value, dict) else None,
)
def test_transformers_opens_what_is_read_back(
    asked: dict[str, Any],
    layout: str,
    largest_error: float,
    pruned: tuple[ContentStore, CheckpointRef],
    tmp_path: Path,
) -> None:
    content, final = pruned
    form = FORM.validate_python(asked)
    written = finished(write_compressed(content, final, final, form))  # type: ignore[arg-type]
    found = reading(content, written, form, final)
    assert found.matrices == 7 * 4
    assert found.held > found.weights / 3 - 1
    assert found.zeros >= found.held
    assert 0 < found.error < largest_error

    config = opened(content, written, found, tmp_path).config.quantization_config.quantization_config
    assert config.format == layout
    assert "lm_head" in config.ignore


@pytest.mark.parametrize("kind", [kind for kind in DENSE if kind not in ("llama", "gpt2", *NOT_OPENED)])
def test_every_type_without_experts_can_be_quantized(kind: str, tmp_path: Path) -> None:
    """But GPT-2, whose weights are stored transposed, and those that transformers does not open."""
    content, final = imported(tiny_checkpoint(kind, tmp_path / "model"), tmp_path / "store")
    form = Rtn(weights="int8", group_size=32)
    written = finished(write_compressed(content, final, final, form))
    (tmp_path / "written").mkdir()
    opened(content, written, reading(content, written, form, final), tmp_path / "written")


def test_gptq_has_the_same_codes_for_any_number_of_workers_and_goes_on_after_a_stored_block(
    pruned: tuple[ContentStore, CheckpointRef],
) -> None:
    content, final = pruned
    whole = rounded(content, final)
    one = pruned_checkpoint(content, final, whole)
    for again in (rounded(content, final, workers=2), rounded(content, final, done=whole.blocks[:2])):
        assert pruned_checkpoint(content, final, again).digest == one.digest
    written = finished(write_compressed(content, final, one, GPTQ))
    found, plain = (
        reading(content, made, GPTQ, final)
        for made in (written, finished(write_compressed(content, final, final, GPTQ)))
    )
    assert found.zeros >= found.held == plain.held
    assert found.error > plain.error  # its weights are further off, and its outputs nearer
    before, reader = CheckpointReader(content, one), CheckpointReader(content, found.checkpoint)
    for name in reader.index.tensors:
        if name.endswith("_proj.weight"):  # the codes are those that the walk has chosen
            back = reader.tensor(name)
            assert torch.equal(back.to(torch.bfloat16), before.tensor(name)), name


def test_a_zero_that_a_form_loses_is_named(pruned: tuple[ContentStore, CheckpointRef]) -> None:
    content, final = pruned
    reader = CheckpointReader(content, final)

    def lossy(name: str) -> Tensor:
        weight = reader.tensor(name).float()
        if name.endswith("1.mlp.up_proj.weight"):
            weight[0, 3] = 0.5
        return weight

    with pytest.raises(ZerosLost, match=r"layers\.1\.mlp\.up_proj\.weight \[0, 3\] is zero, and 0\.5 as"):
        finished(read_back(content, final, lossy, where="a form"))
