"""Which targets an installation has."""

import json
from collections.abc import Iterable
from importlib.util import find_spec

from pydantic import BaseModel, Field, field_validator

from pipeline.errors import InvalidSpec
from pipeline.spec.eval_tasks import EvalTasks
from pipeline.spec.targets import TARGET_KINDS, SecateurSparse, Target, TargetKind

EXTRA = "pip install 'secateur[targets]'"
# The modules that writing and opening take.
MODULES: dict[TargetKind, tuple[str, ...]] = {
    "vllm": ("vllm",),
    "llama.cpp": ("xllamacpp", "gguf"),
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
    "openvino": ("openvino", "onnx", "onnxscript"),
    "secateur_sparse": (),  # every worker has it
}
INSTALL: dict[TargetKind, str] = {
    "vllm": "install vllm into a Python of its own and name it in SECATEUR_VLLM_PYTHON",
    "llama.cpp": EXTRA,
    "onnxruntime": EXTRA,
    "openvino": EXTRA,
    "secateur_sparse": "nothing is to be installed",
}


class TargetSettings(BaseModel):
    """The settings about targets, which the API and the workers share."""

    targets: tuple[TargetKind, ...] | None = Field(
        default=None,
        description="Programs that the workers have for `target` in a spec: a JSON list, or separated by "
        "commas, of `vllm`, `llama.cpp`, `onnxruntime`, `openvino`, `secateur_sparse`. Left out: those that "
        "are installed for the Python of the service.",
    )
    vllm_python: str = Field(
        default="",
        description="Python on the workers that has vLLM, which pins torch and transformers. Left out: their "
        "own Python.",
    )

    @field_validator("targets", mode="before")
    @classmethod
    def _listed_targets(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            return json.loads(value)
        return [part.strip() for part in value.split(",") if part.strip()]

    @property
    def available(self) -> tuple[TargetKind, ...]:
        """The targets that a job may ask for."""
        if self.targets is not None:
            return self.targets
        return tuple(
            kind for kind in TARGET_KINDS if _installed(kind) or (kind == "vllm" and self.vllm_python)
        )


def check_available(
    targets: Iterable[Target], settings: TargetSettings, *, tasks: EvalTasks | None = None
) -> None:
    """Raises InvalidSpec for a target, or an engine of `tasks`, that the workers do not have. It names what
    to install."""
    for i, target in enumerate(targets):
        _check(target.kind, settings, f"spec.target.{i}.kind", "leave the target out")
        if isinstance(target, SecateurSparse) and target.llama_cpp:
            _check("llama.cpp", settings, f"spec.target.{i}.llama_cpp", "leave llama_cpp out")
    if tasks is not None and tasks.engine == "vllm":
        _check(tasks.engine, settings, "spec.evaluation.tasks.engine", "use engine transformers")


def _check(kind: TargetKind, settings: TargetSettings, field: str, otherwise: str) -> None:
    if kind not in settings.available:
        has = ", ".join(settings.available) or "none"
        raise InvalidSpec(
            f"the workers do not have {kind} (they have: {has}); on the workers, {INSTALL[kind]}, and where "
            f"SECATEUR_TARGETS is set, list {kind} there; or {otherwise}",
            field,
        )


def _installed(kind: TargetKind) -> bool:
    return all(find_spec(module) is not None for module in MODULES[kind])
