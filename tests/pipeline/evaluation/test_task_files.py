"""Task files of strangers: plain ones are understood, and no line of them runs code or reads elsewhere."""

import contextlib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InvalidSpec
from pipeline.evaluation.task_files import TaskFiles, read_task_files
from workers.eval_data import TASK_FILES

GOOD = {
    "task": "mine",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"validation": "a.jsonl", "test": ["b.jsonl"]}},
    "doc_to_text": "{{q}}",
}


def read(*, present: tuple[str, ...] = ("a.jsonl", "b.jsonl"), **files: str | dict[str, object]) -> TaskFiles:
    contents = {
        f"{name}.yaml": (text if isinstance(text, str) else yaml.safe_dump(text)).encode()
        for name, text in files.items()
    }
    return read_task_files(contents, {*contents, *present})


def test_a_name_reaches_its_files_and_no_others() -> None:
    files = read(
        base={"output_type": "multiple_choice", "metric_list": [{"metric": "acc"}], "tag": "never_inherited"},
        mine={**GOOD, "include": "base.yaml", "tag": ["mine_all", "another"]},
        other={**GOOD, "task": "other", "dataset_kwargs": {"data_files": "b.jsonl"}, "tag": "mine_all"},
        group={"group": "all", "task": ["mine", {"task": "other", "num_fewshot": 1}, "arc_easy"]},
        inline={
            "group": "outer",
            "task": [{"group": "all"}, {"group": "made_up", "task": ["other"]}, {**GOOD, "task": "here"}],
        },
    )
    assert files.names == {"mine", "other", "all", "outer", "mine_all", "another"}
    assert files.reach("mine") == ({"base.yaml", "mine.yaml", "a.jsonl", "b.jsonl"}, frozenset())
    assert files.reach("other") == ({"other.yaml", "b.jsonl"}, frozenset())
    assert files.reach("mine_all")[0] == {"base.yaml", "mine.yaml", "other.yaml", "a.jsonl", "b.jsonl"}
    assert files.reach("all")[1] == {"arc_easy"}
    assert {"inline.yaml", "group.yaml", "other.yaml"} < files.reach("outer")[0]
    assert files.reach("hellaswag") == (frozenset(), {"hellaswag"})
    assert files.metrics("all") == {"acc"}


def test_circles_end() -> None:
    files = read(
        a={**GOOD, "include": "b.yaml"},
        b={"include": "a.yaml"},
        one={"group": "one", "task": ["two"]},
        two={"group": "two", "task": ["one", "mine"]},
    )
    assert files.reach("one")[0] == {"one.yaml", "two.yaml", "a.yaml", "b.yaml", "a.jsonl", "b.jsonl"}


def test_the_examples_are_good_ones() -> None:
    contents = {path.name: path.read_bytes() for path in TASK_FILES.glob("*.yaml")}
    data = {f"{name.removesuffix('_slice.yaml')}.jsonl" for name in contents}
    files = read_task_files(contents, {*contents, *data})
    assert files.reach("reasoning_slices")[0] >= {"_accuracy.yaml", "piqa.jsonl", "winogrande_slice.yaml"}
    assert files.reach("reasoning_slices")[1] == frozenset()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("task: x\nprocess_docs: !function utils.process_docs", "!function utils.process_docs"),
        ("task: x\ndoc_to_text: !function utils.text", "runs Python code"),
        ("task: x\nclass: !function task.Mine", "runs Python code"),
        ("task: x\nmetadata: !!python/object/apply:os.system ['id']", "runs Python code"),
        ("task: x\nclass: os.system", "class needs code"),
        ("task: x\nunsafe_code: true", "unsafe_code needs code"),
        ("task: x\nuse_prompt: promptsource:all", "use_prompt needs code"),
        ("task: x\ndoc_to_image: image", "doc_to_image needs code"),
        (
            "task: x\ndataset_kwargs: {trust_remote_code: true}",
            "dataset_kwargs: trust_remote_code needs code",
        ),
        ("task: x\nmetric_list: [{metric: f1, hf_evaluate: true}]", "hf_evaluate needs code"),
        ("task: x\ngeneration_kwargs: {custom_generate: org/x}", "generation_kwargs.custom_generate"),
        ("group: g\ntask: [{task: y, process_results: utils.f}]", "process_results needs code"),
        ("task: x\ndataset_path: pandas\ndataset_kwargs: {data_files: a.jsonl}", "dataset_path got 'pandas'"),
        ("task: x\ndataset_path: /etc", "dataset_path got '/etc'"),
        ("task: x\ndataset_path: ../secrets", "dataset_path got"),
        ("task: x\ndataset_path: org/x\ndataset_kwargs: {data_files: /etc/passwd}", "are not taken"),
        ("task: x\ndataset_path: text\ndataset_kwargs: {data_files: /etc/passwd}", "'/etc/passwd'"),
        ("task: x\ndataset_path: text\ndataset_kwargs: {data_files: ../a.jsonl}", "'../a.jsonl'"),
        ("task: x\ndataset_path: json\ndataset_kwargs: {data_files: 'https://a/b.jsonl'}", "https"),
        ("task: x\ndataset_path: json\ndataset_kwargs: {data_files: a.json}", "did you mean 'a.jsonl'"),
        ("task: x\ndataset_path: json\ndataset_kwargs: {data_dir: /etc}", "data_dir is not taken"),
        ("task: x\ndataset_path: json", "needs dataset_kwargs"),
        ("task: x\ninclude: /etc/x.yaml", "'/etc/x.yaml'"),
        ("task: x\ninclude: a.jsonl", "'a.jsonl'"),
        ("task: x\ndoc_to_txt: hello", "did you mean 'doc_to_text'"),
        ("- a\n- b", "must be a mapping"),
        ("task: [", "is not YAML"),
        ("task: x\nmetric_list: [acc]", "metric_list"),
        ("group: [x]\ntask: []", "group must be a name"),
        ("\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), ""),
    ],
)
def test_refusals_name_file_and_key(text: str, told: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        read(bad=text)
    assert "bad.yaml" in caught.value.message
    assert told in caught.value.message


def test_a_name_has_one_definition() -> None:
    with pytest.raises(InvalidSpec, match=r"b\.yaml defines 'mine', and so does a\.yaml"):
        read(a=GOOD, b=GOOD)


def test_a_directory_without_task_files_is_none() -> None:
    with pytest.raises(InvalidSpec, match=r"no task files.*a\.jsonl"):
        read_task_files({}, ["a.jsonl"])


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with contextlib.suppress(InvalidSpec):
        read_task_files({"a.yaml": content}, ["a.yaml"])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=10),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(sorted({*GOOD, "group", "include", "tag", "metric_list", "fewshot_config"})),
)
def test_any_value_of_any_field_is_read_or_refused(value: object, field: str) -> None:
    with contextlib.suppress(InvalidSpec):
        read(a={**GOOD, field: value})
