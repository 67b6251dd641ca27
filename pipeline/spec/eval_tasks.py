"""lm-eval tasks in a spec, and the facts that are known of each before it runs.

The word `task` is lm-eval's: a question set with its prompts and metrics, or a group or tag of them.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from pipeline.canonical import Frozen
from pipeline.spec.uri import TaskFilesUri, parse_uri

LM_EVAL_VERSION = "0.4.13"  # it is part of every figure's contract; workers refuse other versions

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:()+-]{0,127}")

Suite = Literal["openba"]
Engine = Literal["transformers", "vllm"]
SUITES: dict[Suite, dict[str, int]] = {  # task → few-shot examples
    "openba": {
        "sciq": 0,
        "piqa": 0,
        "winogrande": 0,
        "arc_easy": 0,
        "arc_challenge": 25,
        "hellaswag": 10,
        "logiqa": 0,
        "boolq": 32,
        "mmlu": 5,
    }
}


def _full_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"got {name!r}; write the full name of one of lm-eval's tasks, groups or tags, such as arc_easy "
            f"(no patterns, no spaces)"
        )
    return name


def _named(value: object) -> object:
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, dict | EvalTask):
        raise ValueError("a task is a name, or a mapping with name, num_fewshot and limit")
    return value


def _is_usual(engine: object) -> bool:
    return engine == "transformers"


class EvalTask(Frozen):
    """One task, group or tag of lm-eval.

    `num_fewshot`: examples in front of every question; None leaves it to the task. `limit`: only this many
    first questions are asked (of each member of a group); None asks all.
    """

    name: Annotated[str, AfterValidator(_full_name)]
    num_fewshot: int | None = Field(default=None, ge=0, le=1000)
    limit: int | None = Field(default=None, ge=1)


class EvalTasks(Frozen):
    """The tasks on which lm-eval evaluates the dense and the pruned model: a suite, named tasks, or both.

    A task is a name, or a name with its own `num_fewshot` and `limit`. `num_fewshot` here is the default of
    the named tasks (a suite brings its own), `limit` that of all. `include`: a directory whose files are task
    definitions in lm-eval's YAML format with the data that they read; it may not hold code. `seed` draws the
    few-shot examples.

    `engine`: the program that computes: transformers, as lm-eval's command line does, or vLLM, which shares
    the model among the GPUs of an evaluation worker by tensor parallelism. It is part of a figure's contract.
    """

    suite: Suite | None = None
    tasks: tuple[Annotated[EvalTask, BeforeValidator(_named, json_schema_input_type=str | EvalTask)], ...] = (
        Field(default=(), max_length=256)
    )
    include: TaskFilesUri | None = None
    num_fewshot: int | None = Field(default=None, ge=0, le=1000)
    limit: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=8, ge=1, le=65_536)
    seed: int = Field(default=1234, ge=0, le=2**32 - 1)
    engine: Engine = Field(default="transformers", exclude_if=_is_usual)

    @field_validator("include")
    @classmethod
    def _directory(cls, value: str | None) -> str | None:
        if value is not None and parse_uri(value).scheme == "hub":
            raise ValueError(f"got {value!r}; task files lie in file:/directory or s3://bucket/prefix")
        return value

    @model_validator(mode="after")
    def _each_once(self) -> "EvalTasks":
        if self.suite is None and not self.tasks:
            raise ValueError(
                f"nothing is asked: name tasks, or a suite ({', '.join(SUITES)}); leave evaluation.tasks out "
                f"to ask nothing"
            )
        of_suite = SUITES[self.suite] if self.suite is not None else {}
        first: dict[str, int] = {}
        for i, task in enumerate(self.tasks):
            if task.name in of_suite:
                raise ValueError(f"tasks.{i} {task.name!r} is part of suite {self.suite}; leave it out")
            if task.name in first:
                raise ValueError(f"tasks.{i} repeats {task.name!r} of tasks.{first[task.name]}")
            first[task.name] = i
        return self

    @property
    def asked(self) -> tuple[EvalTask, ...]:
        """All tasks with the defaults filled in, those of the suite first."""
        return tuple(self._asked())

    def field_of(self, name: str) -> str:
        """The path of the field in a request that asks for a task."""
        for i, task in enumerate(self.tasks):
            if task.name == name:
                return f"spec.evaluation.tasks.tasks.{i}"
        return "spec.evaluation.tasks.suite"

    def _asked(self) -> Iterator[EvalTask]:
        if self.suite is not None:
            for name, shots in SUITES[self.suite].items():
                yield EvalTask(name=name, num_fewshot=shots, limit=self.limit)
        for task in self.tasks:
            yield EvalTask(
                name=task.name,
                num_fewshot=self.num_fewshot if task.num_fewshot is None else task.num_fewshot,
                limit=self.limit if task.limit is None else task.limit,
            )


class LeafTask(Frozen):
    """One question set. `dataset`: the dataset from which lm-eval takes it, with its configuration `config`.
    `revision`: its commit on the hub; None for local files and for data that lm-eval fetches in other ways.

    `samples`: the number of questions. `metrics`: name → true if higher is better, None if lm-eval does not
    say.
    """

    name: str
    version: str
    output_type: str
    dataset: str
    config: str | None
    revision: str | None
    samples: int
    metrics: dict[str, bool | None]


class CheckedTask(Frozen):
    """The content of `task.json`: the meaning of a task's name in the spec.

    `folders`: the folders of lm-eval's own tasks that it needs. `commits`: hub dataset → the commit that
    evaluations load. Beside `task.json`, `files/` holds the task files and data of the include directory that
    it reads.
    """

    name: str
    harness_version: str
    folders: tuple[str, ...]
    commits: dict[str, str]
    leaves: tuple[LeafTask, ...]
