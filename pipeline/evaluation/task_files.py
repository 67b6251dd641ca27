"""The task files of an include directory: the tasks that they define, the data that they read, and the check
that no line of them runs code.

They are lm-eval's YAML without its ways to call Python: prompts are Jinja templates (rendered in a sandbox),
data are files of the same directory or datasets of the hub.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import yaml

from pipeline.errors import InvalidSpec
from pipeline.plain_yaml import read_yaml

TASK_ENDINGS = (".yaml", ".yml")
INCLUDE_ENDINGS = (*TASK_ENDINGS, ".json", ".jsonl", ".parquet", ".arrow", ".txt", ".csv")
DATA_FORMATS = ("json", "csv", "parquet", "text", "arrow")  # dataset_path of data beside the task file
MAX_TASK_FILES = 256
TASK_FILE_BYTES = 1024 * 1024

_PROMPT = {
    "doc_to_text", "doc_to_target", "doc_to_choice", "gen_prefix", "fewshot_delimiter", "target_delimiter"
}  # fmt: skip
_TASK = _PROMPT | {
    "task", "task_alias", "tag", "include", "dataset_path", "dataset_name", "dataset_kwargs",
    "training_split", "validation_split", "test_split", "fewshot_split", "fewshot_config", "num_fewshot",
    "description", "output_type", "metric_list", "generation_kwargs", "repeats", "filter_list",
    "should_decontaminate", "doc_to_decontamination_query", "metadata",
}  # fmt: skip
_GROUP = _TASK | {"group", "group_alias", "aggregate_metric_list"}
_INSIDE = {  # field → keys that its mapping may have
    "dataset_kwargs": {"data_files", "field", "revision", "delimiter", "sep", "column_names", "header"},
    "fewshot_config": _PROMPT | {"sampler", "split", "samples", "fewshot_indices"},
    "generation_kwargs": {
        "until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "num_beams",
        "repetition_penalty",
    },
}  # fmt: skip
_CODE = {
    "class", "custom_dataset", "doc_to_audio", "doc_to_image", "process_docs", "process_results",
    "trust_remote_code", "unsafe_code", "use_prompt", "hf_evaluate",
}  # fmt: skip
_REPOSITORY = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


@dataclass(frozen=True)
class TaskFile:
    """One YAML file. `defines`: its task or group, None for a part that others include. `members`: the names
    in a group. `data`: files that it reads."""

    path: str
    defines: str | None
    tags: tuple[str, ...]
    includes: tuple[str, ...]
    members: tuple[str, ...]
    metrics: tuple[str, ...]
    data: tuple[str, ...]


class TaskFiles:
    """The task files of one directory."""

    def __init__(self, files: Sequence[TaskFile]) -> None:
        self._by_path = {file.path: file for file in files}
        self._by_name = {file.defines: file for file in files if file.defines is not None}
        self._tagged: dict[str, list[str]] = {}
        for name, file in self._by_name.items():
            for tag in file.tags:
                self._tagged.setdefault(tag, []).append(name)

    @property
    def names(self) -> frozenset[str]:
        """The tasks, groups and tags that are defined here."""
        return frozenset({*self._by_name, *self._tagged})

    def reach(self, name: str) -> tuple[frozenset[str], frozenset[str]]:
        """The files that a name needs, and the names in it that are not defined here."""
        files: set[str] = set()
        foreign: set[str] = set()
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            here = waiting.pop()
            if here in seen:
                continue
            seen.add(here)
            if here in self._by_name:
                for file in self._whole(self._by_name[here].path):
                    files |= {file.path, *file.data}
                    waiting += file.members
            elif here in self._tagged:
                waiting += self._tagged[here]
            else:
                foreign.add(here)
        return frozenset(files), frozenset(foreign)

    def metrics(self, name: str) -> frozenset[str]:
        """The metrics that the files of a name ask for."""
        files, _ = self.reach(name)
        return frozenset(
            metric for path in files if path in self._by_path for metric in self._by_path[path].metrics
        )

    def _whole(self, path: str) -> Iterator[TaskFile]:
        """A file with the files that it includes."""
        seen, waiting = set(), [path]
        while waiting:
            here = waiting.pop()
            if here not in seen:
                seen.add(here)
                file = self._by_path[here]
                yield file
                waiting += file.includes


def read_task_files(contents: Mapping[str, bytes], present: Collection[str]) -> TaskFiles:
    """Check the YAML files of a directory. `present`: names of all files that were taken from it. Raises
    InvalidSpec that names file and key for code, files that are not there, unknown keys and double names."""
    if not contents:
        raise InvalidSpec(
            f"there are no task files (*.yaml); found {', '.join(sorted(present)[:10]) or 'nothing'}"
        )
    files = [_read(path, contents[path], present) for path in sorted(contents)]
    definers: dict[str, str] = {}
    for file in files:
        if file.defines is None:
            continue
        if file.defines in definers:
            raise InvalidSpec(f"{file.path} defines {file.defines!r}, and so does {definers[file.defines]}")
        definers[file.defines] = file.path
    return TaskFiles(files)


def near(name: str, known: Collection[str]) -> str:
    """Return `; did you mean 'arc_easy'?` when a known name is close, else an empty string."""
    found = get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def _read(path: str, content: bytes, present: Collection[str]) -> TaskFile:
    value = _parsed(path, content)
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InvalidSpec(f"{path} must be a mapping with `task:` or `group:`, got {type(value).__name__}")
    _check_keys(value, path)
    defines = value.get("group", value.get("task") if isinstance(value.get("task"), str) else None)
    if defines is not None and not isinstance(defines, str):
        raise InvalidSpec(f"{path}: group must be a name, got {defines!r}")
    if defines is not None and not path.endswith(".yaml"):
        raise InvalidSpec(f"{path} defines {defines!r}; lm-eval looks for tasks in *.yaml only: rename it")
    configs = [value, *_inline(value)]
    return TaskFile(
        path=path,
        defines=defines,
        tags=_texts(value.get("tag"), f"{path}: tag"),
        includes=_present(_texts(value.get("include"), f"{path}: include"), path, present, TASK_ENDINGS),
        members=tuple(_members(value)),
        metrics=tuple(name for config in configs for name in _metrics(config, path)),
        data=tuple(name for config in configs for name in _data(config, path, present)),
    )


def _parsed(path: str, content: bytes) -> object:
    try:
        return read_yaml(content, _Loader)
    except _RunsCode as error:
        raise InvalidSpec(
            f"{path} runs Python code ({error}), and no foreign code is run here; say it as a Jinja "
            f"template, or prepare the data before"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidSpec(f"{path} is not YAML: {' '.join(str(error).split())}") from error


class _RunsCode(Exception):
    """A YAML tag that would call a function."""


class _Loader(yaml.SafeLoader):
    """A YAML loader that takes plain values only."""


def _refuse(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> None:
    value = f" {node.value}" if isinstance(node, yaml.ScalarNode) else ""
    raise _RunsCode(f"!{suffix}{value}")


_Loader.add_multi_constructor("!", _refuse)
_Loader.add_multi_constructor("tag:yaml.org,2002:python/", _refuse)


def _check_keys(config: Mapping[str, object], path: str) -> None:
    """Check the keys of a task or group, and those of its parts."""
    known = _GROUP if "group" in config or "task" in config else _TASK
    for key, value in config.items():
        _refuse_code(key, value, path)
        if key not in known and key not in _CODE:
            raise InvalidSpec(f"{path}: {key} is no field of a task{near(key, known)}")
        if key in _INSIDE and value is not None:
            if not isinstance(value, dict):
                raise InvalidSpec(f"{path}: {key} must be a mapping, got {type(value).__name__}")
            for inner, given in value.items():
                _refuse_code(str(inner), given, f"{path}: {key}")
                if inner not in _INSIDE[key] and inner not in _CODE:
                    raise InvalidSpec(
                        f"{path}: {key}.{inner} is not taken here{near(str(inner), _INSIDE[key])}; allowed: "
                        f"{', '.join(sorted(_INSIDE[key]))}"
                    )
    for inline in _direct(config):
        _check_keys(inline, path)


def _refuse_code(key: str, value: object, where: str) -> None:
    if key in _CODE and value not in (None, False):
        raise InvalidSpec(
            f"{where}: {key} needs code or inputs beside text, and no foreign code is run here; leave it out"
        )


def _direct(config: Mapping[str, object]) -> Iterator[dict[str, object]]:
    """The members of a group that are written out in place."""
    members = config.get("task")
    if isinstance(members, list):
        yield from (member for member in members if isinstance(member, dict))


def _inline(config: Mapping[str, object]) -> Iterator[dict[str, object]]:
    """The members that are written out in place, at any depth."""
    for inline in _direct(config):
        yield inline
        yield from _inline(inline)


def _members(config: Mapping[str, object]) -> Iterator[str]:
    """The names in a group. A member that is written out in place is left out, as its name is its own."""
    members = config.get("task")
    for member in members if isinstance(members, list) else []:
        if isinstance(member, str):
            yield member
        elif isinstance(member, dict):
            name = member.get("group", member.get("task"))
            written_out = "dataset_path" in member or isinstance(member.get("task"), list)
            if isinstance(name, str) and not written_out:
                yield name
            yield from _members(member)


def _metrics(config: Mapping[str, object], path: str) -> Iterator[str]:
    listed = config.get("metric_list")
    for metric in listed if isinstance(listed, list) else []:
        name = metric.get("metric") if isinstance(metric, dict) else None
        if not isinstance(name, str):
            raise InvalidSpec(f"{path}: an entry of metric_list is `metric: name`, got {metric!r}")
        _refuse_code("hf_evaluate", metric.get("hf_evaluate"), f"{path}: metric_list")
        yield name


def _data(config: Mapping[str, object], path: str, present: Collection[str]) -> Iterator[str]:
    """The files that a task reads; none when its dataset lies on the hub."""
    dataset, kwargs = config.get("dataset_path"), config.get("dataset_kwargs")
    given = kwargs.get("data_files") if isinstance(kwargs, dict) else None
    if dataset is not None and dataset not in DATA_FORMATS:
        if not isinstance(dataset, str) or not _REPOSITORY.fullmatch(dataset):
            raise InvalidSpec(
                f"{path}: dataset_path got {dataset!r}; write {', '.join(DATA_FORMATS)} for data_files "
                f"beside the task file, or the org/name of a dataset on the hub"
            )
        if given is not None:
            raise InvalidSpec(f"{path}: data_files of the hub's {dataset} are not taken; use dataset_name")
        return
    if given is None:
        if dataset is not None and "task" in config and "include" not in config:
            raise InvalidSpec(f"{path}: dataset_path: {dataset} needs dataset_kwargs: {{data_files: ...}}")
        return
    values = given.values() if isinstance(given, dict) else [given]
    names = [name for value in values for name in _texts(value, f"{path}: data_files")]
    yield from _present(names, path, present, INCLUDE_ENDINGS)


def _present(
    names: Sequence[str], path: str, present: Collection[str], endings: tuple[str, ...]
) -> tuple[str, ...]:
    for name in names:
        if name not in present or not name.endswith(endings):
            usable = sorted(one for one in present if one.endswith(endings))
            raise InvalidSpec(
                f"{path} names {name!r}, which is no file beside it{near(name, usable)}; there are "
                f"{', '.join(usable[:10])}. Only files directly in the directory are taken"
            )
    return tuple(names)


def _texts(value: object, where: str) -> tuple[str, ...]:
    """The texts of a field that holds one text or a list of them."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(one, str) for one in values):
        raise InvalidSpec(f"{where} must be a text or a list of texts, got {value!r}")
    return tuple(values)
