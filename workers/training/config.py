"""A spec and its resources become a DeepSpeed configuration, which the report shows."""

from pipeline.request.resources import TrainingResources
from pipeline.resolve.communication import Communication
from pipeline.spec.training_recipe import TrainingRecipe


def deepspeed_config(
    recipe: TrainingRecipe,
    resources: TrainingResources,
    *,
    workers: int,
    accumulation: int,
    sends: Communication | None = None,
) -> dict[str, object]:
    """The configuration of the student's engine on `workers` ranks with `accumulation` micro-batches a step.
    `sends`: the communication on GPUs; CPUs have DeepSpeed's defaults, which take no memory there.

    torch's AdamW is used everywhere: DeepSpeed's own would be compiled at the first use, and rounds
    differently. The training loop sets the learning rate at every step, so that it depends on the step alone.
    """
    optimizer = recipe.optimizer
    zero: dict[str, object] = {
        "stage": resources.zero_stage,
        "contiguous_gradients": True,
        "overlap_comm": False,
        **({} if sends is None else sends.zero(resources.zero_stage)),
    }
    if resources.offload.optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if resources.offload.parameters:
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": resources.micro_batch,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": resources.micro_batch * accumulation * workers,
        "gradient_clipping": optimizer.gradient_clipping or 0.0,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": recipe.precision == "bfloat16"},
        "fp16": {"enabled": recipe.precision == "float16", "loss_scale": 0, "initial_scale_power": 16},
        "steps_per_print": 10**9,
    }


def teacher_config(resources: TrainingResources, *, workers: int, precision: str) -> dict[str, object]:
    """The configuration of a teacher that is sharded over the ranks (ZeRO 3), in CPU memory if offloaded."""
    zero: dict[str, object] = {"stage": 3}
    if resources.teacher == "offloaded":
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": resources.micro_batch,
        "train_batch_size": resources.micro_batch * workers,
        "zero_optimization": zero,
        "bf16": {"enabled": precision == "bfloat16"},
        "fp16": {"enabled": precision == "float16"},
        "steps_per_print": 10**9,
    }
