"""Opens a directory with transformers: tokenizer, model, logits, a few generated tokens, and an adapter.

Shape legend: L tokens of the prompt, V vocabulary.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

# PreTrainedModel brings what transformers would import when it opens the first model. That takes a second, in
# which files are being fetched.
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
)

from pipeline.artifacts.refs import AdapterRef
from pipeline.artifacts.verification import OpenedTokenizer
from pipeline.checkpoint.gguf_file import GGUFFile
from pipeline.checkpoint.layout import CONFIG_JSON, GENERATION_CONFIG_JSON, has_tokenizer
from pipeline.checkpoint.leftovers import harmless
from pipeline.checkpoint.skeleton import auto_class
from pipeline.errors import VerificationFailed
from workers.memory import peak_memory_bytes
from workers.verification.answer import LOGITS, Answer, OpenedModel, Opening

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

PROMPT = "In winter 12 old apple trees are pruned, so that fewer but larger apples grow in autumn."
PROMPT_TOKENS = 32
NEW_TOKENS = 8
OWN_FIELDS = ("bos_token", "eos_token")


def answer_to(opening: Opening) -> Answer:
    """Opens a model in this process."""
    try:
        return Answer(opened=open_model(opening), peak_memory_bytes=peak_memory_bytes())
    except VerificationFailed as error:
        return Answer(failure=error.message, peak_memory_bytes=peak_memory_bytes())


def open_model(opening: Opening) -> OpenedModel:
    """Opens everything once, on the CPU. Raises VerificationFailed, which names file and field or tensor."""
    torch.set_num_threads(opening.threads)
    config = _config(opening)
    _check_generation(opening.directory)
    model = _model(opening, config)
    tied = _tied(model)  # asked before weights on the disk come and go
    rows = int(model.get_input_embeddings().weight.shape[0])
    tokenizer = _tokenizer(opening.directory)
    prompt_L = _prompt(tokenizer, config, rows=rows)
    checked = None if tokenizer is None else _check_tokenizer(tokenizer, rows=rows)
    with torch.no_grad():
        logits_LV = model(**_inputs(model, prompt_L), use_cache=False).logits[0]
        save_file({LOGITS: logits_LV.contiguous()}, opening.logits)
        generated = _generated(model, prompt_L, rows=rows)
    if tokenizer is not None:
        tokenizer.decode(generated)
    return OpenedModel(
        version=transformers.__version__,
        model_class=type(model).__name__,
        tensors=len(model.state_dict()),
        tied=tied,
        dtype=str(model.dtype).removeprefix("torch."),  # the logits may be wider (Nemotron-H)
        prompt=tuple(prompt_L.tolist()),
        generated=len(generated),
        tokenizer=checked,
        adapter_tensors=None if opening.adapter is None else _adapter(opening, model, config),
    )


def _config(opening: Opening) -> "PreTrainedConfig":
    directory, gguf = opening.directory, opening.gguf
    try:
        if gguf is None:
            return AutoConfig.from_pretrained(directory, local_files_only=True)
        config = AutoConfig.from_pretrained(directory, gguf_file=gguf, local_files_only=True)
        GGUFFile(directory / gguf).complete(config)  # what transformers leaves out
        return config
    except Exception as error:
        raise _cannot(gguf or CONFIG_JSON, error) from error


def _model(opening: Opening, config: "PreTrainedConfig") -> PreTrainedModel:
    """Loads the model as users do, but that differences are reported instead of warned about."""
    placed = {"device_map": {"": "disk"}, "offload_folder": str(opening.aside)}
    whole = {"gguf_file": opening.gguf, "config": config, "dtype": torch.float32}
    try:
        model, said = auto_class(config).from_pretrained(
            opening.directory,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that they are listed with their names
            output_loading_info=True,
            **(placed if opening.weights == "from_disk" else {}),
            **(whole if opening.gguf is not None else {}),
        )
    except Exception as error:
        raise _cannot(f"the model of config.json (model_type {config.model_type})", error) from error
    for name, stored, made in sorted(said["mismatched_keys"]):
        raise VerificationFailed(
            f"tensor {name} is {list(stored)} in the weights, and config.json makes it {list(made)}"
        )
    for kind, meaning in (
        ("missing_keys", "config.json makes tensor {}, and the weights lack it"),
        ("unexpected_keys", "the weights have tensor {}, and config.json makes none of that name"),
        ("error_msgs", "transformers: {}"),
    ):
        for name in sorted(_telling(said.get(kind) or ())):
            raise VerificationFailed(f"{meaning.format(name)} ({type(model).__name__})")
    ties = getattr(config, "tie_word_embeddings", False)
    if ties and not _tied(model) and not config.is_encoder_decoder:  # T5's classes say so whatever they load
        raise VerificationFailed(
            "config.json has tie_word_embeddings true, and the weights hold a head that is not the "
            "embedding; libraries that follow the config would make another model. Set it to false"
        )
    return model.eval()


def _inputs(model: PreTrainedModel, prompt_L: Tensor) -> dict[str, Tensor]:
    """The prompt as the model takes it. An encoder-decoder reads it, and is asked how it would write it
    again."""
    inputs = {"input_ids": prompt_L[None]}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(prompt_L[None])
    return inputs


def _telling(names: Iterable[str]) -> set[str]:
    """The names of tensors without those that older versions of transformers saved, and that are carried over
    in a multimodal model's other parts."""
    found = {*names}
    return found.difference(harmless(found))


def _check_generation(directory: Path) -> None:
    """Reads the generation config, which loading a model passes over in silence where it is broken."""
    if (directory / GENERATION_CONFIG_JSON).is_file():
        try:
            GenerationConfig.from_pretrained(directory, local_files_only=True)
        except Exception as error:
            raise _cannot(GENERATION_CONFIG_JSON, error) from error


def _tied(model: PreTrainedModel) -> bool:
    """Tells whether head and embedding are one tensor, or two with the same values."""
    head = model.get_output_embeddings()
    if head is None:
        return False
    one, other = head.weight, model.get_input_embeddings().weight
    return one is other or (
        one.shape == other.shape and one.device.type != "meta" and torch.equal(one, other)
    )


def _tokenizer(directory: Path) -> "PreTrainedTokenizerBase | None":
    if not has_tokenizer([path.name for path in directory.iterdir()]):
        return None
    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:
        raise _cannot("the tokenizer (tokenizer.json, tokenizer_config.json)", error) from error


def _check_tokenizer(tokenizer: "PreTrainedTokenizerBase", *, rows: int) -> OpenedTokenizer:
    ids = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    again = tokenizer(text, add_special_tokens=False)["input_ids"]
    if again != ids and tokenizer.unk_token_id not in ids:
        raise VerificationFailed(f"the tokenizer turns {PROMPT!r} into {text!r}, which are other tokens")
    beyond = []
    for token in tokenizer.all_special_tokens:
        number = tokenizer.convert_tokens_to_ids(token)
        if number is None or tokenizer.convert_ids_to_tokens(number) != token:
            raise VerificationFailed(
                f"the tokenizer has no id for its special token {token!r} (tokenizer_config.json)"
            )
        if number >= rows:
            beyond.append(token)
    for field in OWN_FIELDS:
        token = getattr(tokenizer, field)
        if token in beyond:
            raise VerificationFailed(
                f"{field} {token!r} of tokenizer_config.json has id "
                f"{tokenizer.convert_tokens_to_ids(token)}, and the embedding has {rows} rows"
            )
    return OpenedTokenizer(
        tokens=len(tokenizer), special=len(tokenizer.all_special_tokens), beyond_rows=tuple(beyond)
    )


def _prompt(tokenizer: "PreTrainedTokenizerBase | None", config: "PreTrainedConfig", *, rows: int) -> Tensor:
    """The ids [L] of the prompt; without a tokenizer they are spread over the embedding."""
    if tokenizer is None:
        ids = [i * (rows // PROMPT_TOKENS) % rows for i in range(PROMPT_TOKENS)]
    else:
        ids = tokenizer(PROMPT)["input_ids"]
        if not ids or max(ids) >= rows:
            raise VerificationFailed(
                f"the tokenizer turns {PROMPT!r} into {ids}, and the embedding has {rows} rows "
                f"(tokenizer.json)"
            )
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or PROMPT_TOKENS * 2
    return torch.tensor(ids[: max(1, min(PROMPT_TOKENS, positions - NEW_TOKENS))])


def _generated(model: PreTrainedModel, prompt_L: Tensor, *, rows: int) -> list[int]:
    """The ids that follow the prompt, each the likeliest."""
    pad = model.generation_config.pad_token_id
    try:
        made = model.generate(
            prompt_L[None],
            attention_mask=torch.ones_like(prompt_L)[None],
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            num_beams=1,
            pad_token_id=pad if pad is not None and 0 <= pad < rows else 0,
        )
    except Exception as error:
        raise _cannot("the model's generation (generation_config.json)", error) from error
    given = 1 if model.config.is_encoder_decoder else len(prompt_L)  # a decoder begins with its start token
    ids: list[int] = made[0, given:].tolist()
    if not ids or max(ids) >= rows:
        raise VerificationFailed(f"the model generates {ids} (generation_config.json)")
    return ids


def _adapter(opening: Opening, model: PreTrainedModel, config: "PreTrainedConfig") -> int:
    """Loads the adapter on a model of the same shapes, and counts its matrices."""
    from peft import PeftConfig, PeftModel, load_peft_weights, set_peft_model_state_dict

    assert opening.adapter is not None
    directory = opening.directory / opening.adapter
    if opening.weights == "from_disk":
        with torch.device("meta"):
            model = auto_class(config).from_config(config)
    try:
        adapter = PeftConfig.from_pretrained(str(directory))
        matrices = load_peft_weights(str(directory), device="cpu")
        said = set_peft_model_state_dict(PeftModel(model, adapter), matrices, low_cpu_mem_usage=True)
    except Exception as error:
        raise _cannot(f"the adapter ({opening.adapter}/{AdapterRef.CONFIG})", error) from error
    missing = [name for name in said.missing_keys if "lora_" in name]
    for name in (*missing, *said.unexpected_keys):
        raise VerificationFailed(
            f"{opening.adapter}/{AdapterRef.MATRICES} and {opening.adapter}/{AdapterRef.CONFIG} do not agree "
            f"about tensor {name}"
        )
    for name, matrix in matrices.items():
        if not bool(torch.isfinite(matrix).all()):
            raise VerificationFailed(
                f"tensor {name} in {opening.adapter}/{AdapterRef.MATRICES} is not finite"
            )
    return len(matrices)


def _cannot(what: str, error: Exception) -> VerificationFailed:
    said = " ".join(str(error).split())
    return VerificationFailed(f"transformers cannot open {what}: {type(error).__name__}: {said[:1000]}")
