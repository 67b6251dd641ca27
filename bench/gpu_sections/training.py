"""DeepSpeed under ZeRO 1, 2 and 3, with zeros held, alone and with a teacher.

Shape legend: B sequences, L tokens.
"""

import os
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import LlamaForCausalLM

from gpu_sections.setting import Setting, llama
from pipeline.planning.machine import gpu_of
from pipeline.request.resources import TrainingResources
from pipeline.spec.recovery import Recovery
from pipeline.spec.training_recipe import Distillation, LanguageModelling
from pipeline.tensor.divergence import objective_loss
from workers.training.config import deepspeed_config
from workers.training.engine import MASTER, Engine, prepare_process
from workers.training.guard import Guard
from workers.training.student import adam_arguments

STEPS = 10
PEAK = 989e12  # FLOP/s of an H100 or H200 in bfloat16, by its data sheet


def training(setting: Setting) -> dict[str, object]:
    """Tokens a second and the share of the data sheet's FLOP/s, by stage, and the zeros in master weights
    after ten steps. Raises AssertionError when one is not zero."""
    with tempfile.TemporaryDirectory(prefix="secateur-bench-") as name:
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}  # DeepSpeed asks for them
        store = dist.FileStore(str(Path(name) / "store"), 1)
        dist.init_process_group("nccl" if setting.on_gpu else "gloo", store=store, rank=0, world_size=1)
        prepare_process(cuda=setting.on_gpu)
        stages = (1, 3) if setting.quick else (1, 2, 3)
        found = {
            f"zero {stage}{' with a teacher' if teaches else ''}": trained(setting, stage, teaches=teaches)
            for stage in stages
            for teaches in ((False,) if setting.quick and stage == 1 else (False, True))
        }
        dist.destroy_process_group()
    return found


def trained(setting: Setting, stage: int, *, teaches: bool) -> dict[str, float]:
    """The figures of ten steps after one that is not counted."""
    config = (
        llama(64, 128, 4, blocks=2, vocabulary=256) if setting.quick else llama(2048, 5632, 16, blocks=16)
    )
    batch, length = (2, 32) if setting.quick else (4, 2048)
    recipe = Recovery.model_validate(
        {
            "text": {"source": "file:/text.txt", "sequence_length": max(length, 8)},
            "steps": 100,
            "global_batch_size": batch,
            "precision": "bfloat16" if setting.on_gpu else "float32",
            "objective": {"kind": "distillation"} if teaches else {"kind": "language_modelling"},
        }
    )
    split = TrainingResources.model_validate(
        {"zero_stage": stage, "micro_batch_size": batch, "gradient_checkpointing": not setting.quick}
    )
    student, keeps = pruned(LlamaForCausalLM._from_config(config, dtype=setting.dtype))
    teacher = None
    if teaches:
        teacher = LlamaForCausalLM._from_config(config, dtype=setting.dtype).to(setting.device).eval()
    if split.gradient_checkpointing:
        student.gradient_checkpointing_enable()
    weights = sum(one.numel() for one in student.parameters())
    arguments = adam_arguments(recipe)
    engine = Engine(student, deepspeed_config(recipe, split, workers=1, accumulation=1), arguments)
    guard = Guard(engine, keeps.items())
    tokens_BL = torch.randint(config.vocab_size, (batch, length), device=setting.device)

    def step() -> None:
        one_step(engine, teacher, tokens_BL, recipe.objective)

    setting.reset_peak()
    step()
    seconds = setting.once(lambda: [step() for _ in range(STEPS)]) / STEPS
    check = guard.check(STEPS + 1)  # raises ZerosLost
    masters = sum(int((fragment.parts[MASTER] == 0).sum()) for fragment in engine.fragments())
    assert masters >= check.held, f"{masters} of {check.held} pruned weights are zero in the masters"
    tokens = batch * length
    flop = (8 if split.gradient_checkpointing else 6) * weights * tokens
    flop += 2 * weights * tokens if teaches else 0
    return {
        "tokens_a_second": tokens / seconds,
        "mfu": 6 * weights * tokens / seconds / PEAK if setting.on_gpu else 0.0,
        "tflops": flop / seconds / 1e12,
        "expected_tflops": gpu_of(None).training(2) / 1e12 if setting.on_gpu else 0.0,
        "peak_bytes": float(setting.peak()),
        "zeros": float(check.held),
    }


def pruned(model: LlamaForCausalLM) -> tuple[LlamaForCausalLM, dict[str, Tensor]]:
    """A model with half of the weights of its linears at zero, and their keep tensors by parameter name."""
    keeps = {}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("_proj.weight"):
                keep = torch.rand(weight.shape) < 0.5
                keeps[name] = keep
                weight.masked_fill_(~keep.to(weight.device), 0)
    return model, keeps


def one_step(
    engine: Engine,
    teacher: LlamaForCausalLM | None,
    tokens_BL: Tensor,
    objective: LanguageModelling | Distillation,
) -> None:
    """One step of the optimizer."""
    logits_BLV = engine.forward(input_ids=tokens_BL).logits
    taught_BLV = None
    if teacher is not None:
        with torch.no_grad():
            taught_BLV = teacher(input_ids=tokens_BL).logits
    loss, *_ = objective_loss(objective, logits_BLV, tokens_BL, teacher_logits_BLV=taught_BLV)
    engine.backward(loss)
    engine.step(1e-5)
