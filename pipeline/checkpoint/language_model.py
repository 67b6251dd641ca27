"""The language model inside of a multimodal checkpoint: its config, and the names of its tensors.

Every other checkpoint is its own language model. Whoever works on a model asks here first, and after that
nothing knows of the other parts, until a checkpoint is assembled (assemble.py).
"""

from collections.abc import Iterable, Mapping

from pydantic import JsonValue

from pipeline.architecture.row import Fixed
from pipeline.architecture.wrappers import FIXED, READ_AS, WRAPPERS, Wrapper, language_name
from pipeline.checkpoint.config_json import DTYPE_FIELDS, TIED
from pipeline.errors import InvalidSpec
from pipeline.structure.sizes import Sizes

TEXT = "text_config"
ROPE = ("rope_parameters", "rope_scaling")
ROPE_KINDS = ("rope_type", "type")
_ONLY_WRAPPER = ("vision_config", "architectures", "transformers_version")
_FLAT_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

Config = Mapping[str, JsonValue]


def wrapper_of(config: Config) -> Wrapper | None:
    """Returns the row of a multimodal config.json that has a language model inside; None for any other."""
    wrapper = WRAPPERS.get(str(config.get("model_type")))
    if wrapper is None or not (isinstance(config.get(TEXT), dict) or wrapper.flat):
        return None
    return wrapper


def language_config(config: Config) -> dict[str, JsonValue]:
    """Returns the config.json that the language model would have alone; the content itself if the checkpoint
    is no multimodal one."""
    wrapper = wrapper_of(config)
    if wrapper is None:
        return dict(config)
    inner = {name: value for name, value in _inside(config).items() if name not in _ONLY_WRAPPER}
    model_type = str(inner.get("model_type") or wrapper.text)
    inner["model_type"] = model_type
    if model_type in READ_AS:
        read_as = READ_AS[model_type]
        inner = {**read_as.defaults, **_without_sections(inner), "model_type": read_as.model_type}
    for name in DTYPE_FIELDS:
        if config.get(name) is not None:
            inner = {**{key: value for key, value in inner.items() if key not in DTYPE_FIELDS}}
            inner["dtype"] = config[name]
            break
    inner[TIED] = _tied(wrapper, config)
    return inner


def with_language(config: Config, before: Config, after: Config) -> dict[str, JsonValue]:
    """Returns config.json with what a change of the language model's config changes in it.

    `before`: the language model's config, as `language_config` gives it; `after`: what it is to be. If the
    checkpoint is no multimodal one, that is the result.
    """
    wrapper = wrapper_of(config)
    if wrapper is None:
        return dict(after)
    changed = {name: value for name, value in after.items() if name not in before or before[name] != value}
    outer: dict[str, JsonValue] = {**config}
    if TIED in changed:
        outer[TIED] = changed[TIED]
    if isinstance(config.get(TEXT), dict):
        outer[TEXT] = {**_inside(config), **changed}
    else:
        outer |= changed
    return outer


def language_names(config: Config, stored: Iterable[str]) -> dict[str, str]:
    """Maps the names of the language model's tensors, as it would have them alone, to those under which the
    checkpoint with this config.json stores them."""
    if wrapper_of(config) is None:
        return {name: name for name in stored}
    named = {name: language_name(name) for name in stored}
    return {alone: name for name, alone in named.items() if alone is not None}


def check_inside(config: Config, old: Sizes, new: Sizes) -> None:
    """Raises InvalidSpec for a size of the language model that the other parts of a multimodal checkpoint
    depend on. `config`: the whole config.json."""
    wrapper = wrapper_of(config)
    for fixed in inside_of(wrapper) if wrapper is not None else ():
        for size in fixed.sizes:
            before, after = getattr(old, size), getattr(new, size)
            if before != after:
                raise InvalidSpec(
                    f"{config['model_type']} is multimodal and keeps the {size}={before} of its language "
                    f"model, and this structure would leave {after}: {fixed.why}; leave it out, or cut the "
                    f"language model alone",
                    f"spec.structure.{FIELDS.get(size, size)}",
                )


def inside_of(wrapper: Wrapper) -> tuple[Fixed, ...]:
    """Returns the sizes of the language model that cannot be cut inside of a wrapper, with the reasons."""
    return (*FIXED, *wrapper.fixed)


FIELDS = {"num_hidden_layers": "drop_blocks", "vocab_size": "vocabulary"}  # of a spec's structure, by size


def _inside(config: Config) -> dict[str, JsonValue]:
    """Returns the part of config.json that is about the language model."""
    stated = config.get(TEXT)
    if isinstance(stated, dict):
        return dict(stated)
    return {
        name: value
        for name, value in config.items()
        if name != "model_type" and (not name.endswith("_token_id") or name in _FLAT_IDS)
    }


def _without_sections(config: Config) -> dict[str, JsonValue]:
    """Returns a config without the sections of Qwen's rotary embedding, which texts do not need."""
    made = dict(config)
    for field in ROPE:
        stated = made.get(field)
        if not isinstance(stated, dict):
            continue
        rest = {name: value for name, value in stated.items() if not name.startswith("mrope_")}
        ordinary = all(rest.get(name, "default") in ("default", "mrope") for name in ROPE_KINDS)
        if ordinary:
            rest = {name: value for name, value in rest.items() if name not in ROPE_KINDS}
        del made[field]
        if "rope_theta" in rest:
            made["rope_theta"] = rest.pop("rope_theta")
        if rest:
            made[field] = rest
    return made


def _tied(wrapper: Wrapper, config: Config) -> bool:
    stated = config.get(TIED)
    own = _inside(config).get(TIED) if isinstance(config.get(TEXT), dict) else None
    return bool(wrapper.tied if stated is None else stated) or (wrapper.follows and bool(own))
