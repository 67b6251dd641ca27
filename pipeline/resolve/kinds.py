"""Tells what a directory is when it is no checkpoint that can be pruned, and what to do with it next.

It goes by the names of files and folders, and reads small JSON files.
"""

import json
import re
import shlex
from collections.abc import Mapping

from pydantic import JsonValue

from pipeline.architecture.rows import ROWS
from pipeline.checkpoint.language_model import language_config
from pipeline.checkpoint.layout import CONFIG_JSON, PICKLE_ENDINGS, WEIGHTS, WEIGHTS_INDEX_JSON
from pipeline.errors import IncompleteCheckpoint, SecateurError, UnsupportedCheckpoint, UnsupportedModel
from pipeline.sources.access import Source
from pipeline.sources.tree import Tree
from pipeline.spec.uri import parse_uri

ADAPTER_CONFIG = "adapter_config.json"
SMALL_BYTES = 1024 * 1024
WITH_TOKENIZER = "and copy the tokenizer's files beside it"
WITH_CONFIG = f"and copy {CONFIG_JSON} and the tokenizer's files beside them"
# What a trainer needs to continue; none of it is a weight.
STATE = re.compile(
    r"(optimizer|scheduler|scaler)\.(pt|bin)|training_args\.bin|trainer_state\.json|rng_state.*\.pth"
    r"|random_states_\d+\.pkl"
)
OTHER_FORMATS = (
    (r".*\.onnx", "an ONNX model"),
    (r"openvino_model\.xml", "an OpenVINO model"),
    (r"(shared_)?vocabulary\.(json|txt)", "a CTranslate2 model"),
    (r"weights(\..*)?\.npz", "an MLX model"),
    (r"tf_model.*\.h5", "a TensorFlow model"),
    (r"flax_model.*\.msgpack", "a Flax model"),
    (r".*\.llamafile|ggml-.*\.bin", "a model of llama.cpp in an older format"),
)
TEXT_CONFIGS = ("text_config", "llm_config", "language_config")


def check_kind(source: Source, names: tuple[str, ...]) -> None:
    """Raises UnsupportedCheckpoint or IncompleteCheckpoint, which say what a source is and what to do next,
    unless its files, `names`, contain safetensors weights and a config.json."""
    own = [name for name in names if name.endswith(".safetensors") and not name.startswith("adapter_")]
    if own and CONFIG_JSON in names:
        return
    if ADAPTER_CONFIG in names:
        raise _adapter(source, names)
    if not own:
        raise _without_weights(source, names)
    if "params.json" in names:
        raise _own_format(source.uri)
    raise IncompleteCheckpoint(
        f"{source.uri} has no {CONFIG_JSON}; copy the one that belongs to its weights there"
    )


def check_type(config: Mapping[str, JsonValue], *, source: Source) -> str:
    """Returns the model type that a config.json states; of a multimodal one, that of the language model
    inside. Raises UnsupportedModel for a type without a row, which names the language model inside of a
    multimodal one, and UnsupportedCheckpoint."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise UnsupportedCheckpoint(f"{CONFIG_JSON} of {source.uri} has no model_type")
    inside = str(language_config(config)["model_type"])
    if inside in ROWS:
        return inside
    known = f"known types: {', '.join(sorted(ROWS))}"
    lacks = f"model type {model_type!r} of {source.uri} has no row in pipeline/architecture/rows.py"
    for field in TEXT_CONFIGS:
        inner = config.get(field)
        if isinstance(inner, dict):
            text = str(inner.get("model_type"))
            wraps = f"{lacks}: it wraps a language model for other inputs than text ({field})"
            if text in ROWS:
                raise UnsupportedModel(
                    f"{wraps}, a {text}, which can be pruned by itself. Save it alone: {_text_alone(source)} "
                    f"{WITH_TOKENIZER}"
                )
            raise UnsupportedModel(f"{wraps}, and its type {text!r} has no row either; {known}")
    code = "; its own Python code (auto_map) is not run" if config.get("auto_map") else ""
    raise UnsupportedModel(f"{lacks}{code}; {known}")


def to_safetensors(source: Source) -> str:
    """Returns how to convert pickle weights of a checkpoint."""
    encoder = _small_json(source, CONFIG_JSON).get("is_encoder_decoder") is True
    code = (
        f"from transformers import AutoModelFor{'Seq2Seq' if encoder else 'Causal'}LM as M; "
        f'M.from_pretrained({_place(source)}, dtype="auto").save_pretrained("NEW")'
    )
    return (
        f"convert it, for example with: {_python(code)} {WITH_TOKENIZER} (on the hub, "
        f"https://huggingface.co/spaces/safetensors/convert does the same)"
    )


def _adapter(source: Source, names: tuple[str, ...]) -> UnsupportedCheckpoint:
    described = _small_json(source, ADAPTER_CONFIG)
    kind = str(described.get("peft_type") or "LORA")
    base = described.get("base_model_name_or_path")
    named = isinstance(base, str) and base != ""
    of = f" of {base}" if named else ", which does not name its base model,"
    what = f"{source.uri} is a {'LoRA' if kind == 'LORA' else kind} adapter{of} and holds no model"
    if kind.endswith("TUNING"):
        return UnsupportedCheckpoint(
            f"{what}; it changes the prompt and no weights, so that there is nothing to prune but the model "
            f"itself: name that"
        )
    model = f'AutoModelForCausalLM.from_pretrained({json.dumps(base if named else "BASE")}, dtype="auto")'
    code = (
        "from peft import PeftModel; from transformers import AutoModelForCausalLM; "
        f'PeftModel.from_pretrained({model}, {_place(source)}).merge_and_unload().save_pretrained("NEW")'
    )
    return UnsupportedCheckpoint(f"{what}; merge them first: {_python(code)} {WITH_TOKENIZER}")


def _without_weights(source: Source, names: tuple[str, ...]) -> UnsupportedCheckpoint:
    where, folders = source.uri, source.folders()
    gguf = next((name for name in names if name.endswith(".gguf")), None)
    if gguf is not None:
        return UnsupportedCheckpoint(
            f"{where} holds GGUF weights; turn one into a Hugging Face checkpoint first: "
            f"secateur import-gguf {gguf} DIRECTORY"
        )
    found = _cache(source, folders) or _shards(source, names, folders) or _other_format(where, names, folders)
    if found is not None:
        return UnsupportedCheckpoint(found)
    pickles = [name for name in names if name.endswith(PICKLE_ENDINGS) and not STATE.fullmatch(name)]
    if pickles and "params.json" in names:
        return _own_format(where)
    if pickles:
        return UnsupportedCheckpoint(
            f"{where} has only pickle weights ({', '.join(pickles[:3])}), which can run code when they are "
            f"read; {to_safetensors(source)}"
        )
    state = [name for name in names if STATE.fullmatch(name)]
    if state:
        return IncompleteCheckpoint(
            f"{where} is the checkpoint of a trainer ({', '.join(state[:3])}) without weights; call "
            f"trainer.save_model('NEW') and name that directory{_inside(folders)}"
        )
    return IncompleteCheckpoint(
        f"{where} has no *.safetensors weights; a Hugging Face checkpoint directory has {CONFIG_JSON} and "
        f"{WEIGHTS} or shards with {WEIGHTS_INDEX_JSON}. Found: {', '.join(names[:10]) or 'nothing'}"
        f"{_inside(folders)}"
    )


def _own_format(where: str) -> UnsupportedCheckpoint:
    return UnsupportedCheckpoint(
        f"{where} is a checkpoint in its maker's own format (params.json); use the repository that has "
        f"{CONFIG_JSON}, or convert it with transformers' script for the model type, such as "
        f"convert_llama_weights_to_hf.py"
    )


def _cache(source: Source, folders: tuple[str, ...]) -> str | None:
    """Returns what to name instead of a folder of the hub's cache."""
    repositories = [name for name in folders if name.startswith("models--")]
    if repositories:
        named = "/".join(repositories[0].split("--")[1:])
        return (
            f"{source.uri} is the cache of a hub with {len(repositories)} models; name one of them, such as "
            f"hub:{named}"
        )
    if "snapshots" not in folders or not {"refs", "blobs"} & {*folders}:
        return None
    name = parse_uri(source.uri).location.rpartition("/")[2]
    org = f" or hub:{'/'.join(name.split('--')[1:])}" if name.startswith("models--") else ""
    inside = source.tree() if isinstance(source, Tree) else ()
    snapshots = [one.uri for one in inside if re.search(r"/snapshots/[^/]+$", one.uri)]
    if not snapshots:
        return f"{source.uri} is a model in the cache of a hub, without a snapshot; download it again"
    return f"{source.uri} is a model in the cache of a hub; name {', '.join(snapshots[:3])}{org}"


def _shards(source: Source, names: tuple[str, ...], folders: tuple[str, ...]) -> str | None:
    """Returns how to merge the weights that the ranks of a training saved one by one."""
    place = shlex.quote(json.loads(_place(source)))
    steps = [name for name in folders if re.fullmatch(r"global_step\d+", name)]
    if steps or "zero_to_fp32.py" in names:
        script = f"{place}/zero_to_fp32.py" if "zero_to_fp32.py" in names else "zero_to_fp32.py"
        return (
            f"{source.uri} has the shards of DeepSpeed's ZeRO{f' ({steps[0]})' if steps else ''} and no "
            f"merged weights; merge them first: python {script} {place} NEW --safe_serialization, "
            f"{WITH_CONFIG}"
        )
    sharded = [name for name in folders if re.fullmatch(r"pytorch_model_fsdp_\d+", name)]
    if sharded or any(name.endswith(".distcp") for name in names):
        folder = f"{place}/{sharded[0]}" if sharded else place
        return (
            f"{source.uri} has the shards of FSDP and no merged weights; merge them first: "
            f"accelerate merge-weights {folder} NEW, {WITH_CONFIG}"
        )
    return None


def _other_format(where: str, names: tuple[str, ...], folders: tuple[str, ...]) -> str | None:
    for pattern, what in OTHER_FORMATS:
        if any(re.fullmatch(pattern, name) for name in names):
            return (
                f"{where} is {what}, which was made from a Hugging Face checkpoint; prune that one, and make "
                f"{what} of the result"
            )
    if "onnx" in folders and CONFIG_JSON in names:
        return f"{where} is an ONNX model (in its folder onnx); prune the checkpoint that it was made from"
    return None


def _inside(folders: tuple[str, ...]) -> str:
    """Returns the end of a sentence about a directory that has others in it."""
    if not folders:
        return ""
    more = f" and {len(folders) - 5} more" if len(folders) > 5 else ""
    return f"; if one of its folders is the checkpoint, name that: {', '.join(folders[:5])}{more}"


def _small_json(source: Source, name: str) -> dict[str, JsonValue]:
    """Returns a small JSON file; an empty object for what is none, because it only words a refusal."""
    try:
        (file,) = source.pin(name.__eq__).files
        value = json.loads(b"".join(source.read(file))) if file.size <= SMALL_BYTES else {}
    except (ValueError, RecursionError, SecateurError):
        return {}
    return value if isinstance(value, dict) else {}


def _text_alone(source: Source) -> str:
    return _python(
        "from transformers import AutoModelForCausalLM as M, AutoModelForImageTextToText as A; "
        f'w = A.from_pretrained({_place(source)}, dtype="auto"); '
        "m = M.from_config(w.config.get_text_config(), dtype=w.dtype); "
        "m.base_model.load_state_dict(w.get_decoder().state_dict()); "
        "m.get_output_embeddings().load_state_dict(w.get_output_embeddings().state_dict()); "
        'm.save_pretrained("NEW")'
    )


def _python(code: str) -> str:
    return f"python -c {shlex.quote(code)}"


def _place(source: Source) -> str:
    """Returns where Python programs find a source, as a literal: its path, or its name on the hub."""
    uri = parse_uri(source.uri)
    return json.dumps("DIR" if uri.scheme == "s3" else uri.location, ensure_ascii=False)
