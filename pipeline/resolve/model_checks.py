"""Checks of a spec against the model that it names, as far as config.json and file sizes allow."""

import difflib
from collections.abc import Callable

from pipeline.architecture.row import Architecture
from pipeline.architecture.rows import row_for
from pipeline.checkpoint.language_model import check_inside
from pipeline.errors import InvalidSpec, SequenceTooLong, TextTooShort
from pipeline.request.prune_spec import PruneSpec
from pipeline.resolve.lacking import check_lacking
from pipeline.resolve.multimodal import check_multimodal
from pipeline.serving.llama_cpp import check_gguf_types
from pipeline.serving.quantized import check_quantization
from pipeline.serving.shapes import check_target
from pipeline.sources.pins import MODEL, TEACHER, ModelFacts, Pins
from pipeline.spec.evaluation import PerplexityText
from pipeline.spec.recovery import Lora, Recovery
from pipeline.spec.self_calibration import SelfCalibration
from pipeline.spec.source_fields import source_fields
from pipeline.spec.structure import Structure
from pipeline.spec.targets import SecateurSparse
from pipeline.spec.texts import Calibration
from pipeline.spec.training_recipe import Distillation, TrainingRecipe, TrainingText
from pipeline.structure.sizes import Sizes, sizes_of


def check_against_model(spec: PruneSpec, facts: ModelFacts) -> None:
    """Check a spec against its model, without the teacher. Raises InvalidRequest subclasses that name the
    field."""
    row = row_for(facts.model_type)
    check_lacking(spec, row)
    blocks, vocabulary = facts.blocks, facts.vocabulary
    if spec.structure is not None:
        new = _check_structure(spec.structure, spec.recovery, row, facts)
        blocks, vocabulary = new.num_hidden_layers, new.vocab_size
    check_multimodal(spec, facts)
    _check_targets(spec, row, facts)
    for one in spec.members or (spec,):
        if one.prune is not None:
            one.prune.method.check(one.prune.pattern)
            one.prune.allocation.check(one.prune.pattern, blocks=blocks)
    _check_lengths(spec, facts)
    if spec.learns_masks:
        check_masks_learnable(facts.model_type, "spec.prune.method.kind")
    recovery = spec.recovery
    if recovery is None:
        return
    if isinstance(recovery.trains, Lora):
        _check_linears(recovery.trains, row)
    objective = recovery.objective
    top_k = objective.top_k if isinstance(objective, Distillation) else None
    if top_k is not None and vocabulary is not None and top_k > vocabulary:
        raise InvalidSpec(
            f"top_k {top_k} is more than the model's vocabulary of {vocabulary} tokens; use fewer, or leave "
            f"it out for all of them",
            "spec.recovery.objective.top_k",
        )


def _check_targets(spec: PruneSpec, row: Architecture, facts: ModelFacts) -> None:
    """Check the sizes and the type of the result against its targets, and against its quantized forms."""
    if not spec.target and not spec.quantize:
        return
    sizes, config = sizes_of(row, facts.config), dict(facts.config)
    for i, target in enumerate(spec.target):
        if isinstance(target, SecateurSparse) and target.llama_cpp:
            check_gguf_types(target.llama_cpp, sizes, field=f"spec.target.{i}.llama_cpp")
            _check_one_vocabulary(spec, field=f"spec.target.{i}.llama_cpp")
    if spec.structure is not None:
        sizes = spec.structure.target(row, facts.config)
        config |= spec.structure.changes(row, facts.config)
    model_type = str(config.get("model_type", facts.model_type))
    for i, target in enumerate(spec.target):
        check_target(target, model_type=model_type, config=config, sizes=sizes, field=f"spec.target.{i}")
    for i, form in enumerate(spec.quantize):
        check_quantization(
            form, model_type=model_type, config=config, sizes=sizes, field=f"spec.quantize.{i}"
        )


def _check_one_vocabulary(spec: PruneSpec, *, field: str) -> None:
    if spec.structure is not None and spec.structure.vocabulary is not None and spec.evaluation.perplexity:
        raise InvalidSpec(
            "the perplexity of the dense model in llama.cpp cannot be compared with that of a result whose "
            "vocabulary is cut, because their tokens differ; leave llama_cpp out, or "
            "spec.structure.vocabulary",
            field,
        )


def _check_structure(
    structure: Structure, recovery: Recovery | None, row: Architecture, facts: ModelFacts
) -> Sizes:
    """Check structure against the model and the recovery, and return the sizes of the smaller model."""
    new = structure.target(row, facts.config)
    structure.foreseen(row, facts.config)
    structure.changes(row, facts.config)
    check_inside(facts.whole_config, sizes_of(row, facts.config), new)
    if recovery is None or not isinstance(recovery.objective, Distillation):
        return new
    if structure.vocabulary is not None and recovery.objective.teacher is not None:
        raise InvalidSpec(
            "structure.vocabulary gives the model tokens of its own, which another teacher does not have; "
            "leave the teacher out: the model with the cut vocabulary teaches, before anything else is cut",
            TEACHER,
        )
    if recovery.objective.hidden_weight > 0 and new.hidden_size != facts.hidden_size:
        raise InvalidSpec(
            f"hidden_weight {recovery.objective.hidden_weight:g} compares hidden states, and structure "
            f"leaves {new.hidden_size} of the teacher's {facts.hidden_size} channels; set hidden_weight to 0",
            "spec.recovery.objective.hidden_weight",
        )
    return new


def check_masks_learnable(model_type: str, field: str) -> None:
    """Refuse models with experts where masks are learned: transformers holds all experts of a block in one
    parameter, and learned masks replace linears."""
    if row_for(model_type).experts is not None:
        raise InvalidSpec(
            f"{model_type} has experts, and their masks cannot be learned yet; use a one-shot method", field
        )


def check_teacher(spec: PruneSpec, pins: Pins) -> None:
    """Check a teacher that is another model. Raises InvalidRequest subclasses that name the field."""
    recovery, ours, teacher = spec.recovery, pins.facts, pins.models.get(TEACHER)
    if recovery is None or teacher is None:
        return
    assert isinstance(recovery.objective, Distillation), "no other objective names a teacher"
    if None not in (ours.vocabulary, teacher.vocabulary) and ours.vocabulary != teacher.vocabulary:
        raise InvalidSpec(
            f"the teacher has a vocabulary of {teacher.vocabulary} tokens and the model one of "
            f"{ours.vocabulary} (vocab_size in config.json), so their distributions cannot be compared; use "
            f"a teacher with the model's own tokenizer, or leave it out: then the model before pruning "
            f"teaches",
            TEACHER,
        )
    sizes = (ours.hidden_size, teacher.hidden_size)
    if recovery.objective.hidden_weight > 0 and None not in sizes and sizes[0] != sizes[1]:
        raise InvalidSpec(
            f"hidden_weight {recovery.objective.hidden_weight:g} compares hidden states, and the model's "
            f"have size {sizes[0]}, the teacher's {sizes[1]}; set hidden_weight to 0 or use another teacher",
            "spec.recovery.objective.hidden_weight",
        )
    length = recovery.text.sequence_length
    if teacher.max_positions is not None and length > teacher.max_positions:
        raise SequenceTooLong(
            f"sequence_length {length} is longer than the teacher's {teacher.max_positions} positions; use "
            f"{teacher.max_positions} or less",
            "spec.recovery.text.sequence_length",
        )
    if not spec.makes_zeros and pins.of(TEACHER).files == pins.of(MODEL).files:
        raise InvalidSpec(
            "the teacher is the model itself, and nothing is pruned: there is nothing to learn from it; name "
            "another teacher, add prune, or use objective kind language_modelling",
            TEACHER,
        )


def check_texts(spec: PruneSpec, pins: Pins, *, is_packed: Callable[[str, TrainingText], bool]) -> None:
    """Check the length of all training texts. `is_packed`: tells whether the text of a field is packed,
    whatever its name says. Raises TextTooShort that names the field."""
    recipes: list[tuple[str, TrainingRecipe]] = []
    if spec.recovery is not None:
        recipes.append(("spec.recovery", spec.recovery))
    if spec.learned_method is not None:
        recipes.append(("spec.prune.method.training", spec.learned_method.training))
    for field, recipe in recipes:
        try:
            check_text(recipe, pins.of(f"{field}.text.source").size, field)
        except TextTooShort:
            if not is_packed(f"{field}.text.source", recipe.text):
                raise


def check_text(recipe: TrainingRecipe, size: int, field: str) -> None:
    """Check that a text file of `size` bytes can give the sequences that the recipe at `field` needs. Raises
    TextTooShort.

    It refuses only the impossible: a token takes a byte at least, each document adds EOS and some tokenizers
    a mark in front, and a line has an end; so a line of n bytes with its end has at most 2n tokens. Packed
    files and the hub do not tell their size: there the stage that reads the text checks its length.
    """
    text = recipe.text
    if not text.is_plain:
        return
    most = 2 * (size + 1)
    sequences = most // text.text_length - text.validation_sequences
    if sequences * text.epochs >= recipe.sequences:
        return
    needs = (
        f"{text.source} has {size} bytes, so at most {most} tokens: "
        f"{max(sequences, 0)} training sequences of {text.text_length} beside "
        f"{text.validation_sequences} held out"
    )
    if sequences < 1:
        raise TextTooShort(
            f"{needs}; use a longer text, a shorter sequence_length or fewer validation_sequences",
            f"{field}.text.source",
        )
    raise TextTooShort(
        f"{needs}. The {recipe.sequences} that are asked for would go through it "
        f"{-(-recipe.sequences // sequences)} times, and epochs is {text.epochs}; use a longer text, fewer "
        f"tokens or steps, or raise epochs",
        f"{field}.text.epochs",
    )


def _check_lengths(spec: PruneSpec, facts: ModelFacts) -> None:
    for i, one in enumerate(spec.evaluation.perplexity):
        if one.stride is not None and one.stride > one.text_length:  # by the habit of the model type
            raise InvalidSpec(
                f"stride {one.stride} leaves out tokens: {facts.model_type} has BOS in front of every window "
                f"and {one.text_length} tokens of text; use {one.text_length} or less, or leave stride out",
                f"spec.evaluation.perplexity.{i}.stride",
            )
    if facts.max_positions is None:
        return
    written = {}
    if isinstance(spec.calibration, SelfCalibration):
        written["spec.calibration.sequence_length"] = spec.calibration.sequence_length
    if spec.evaluation.behaviour is not None:  # a prompt has one token at least
        written["spec.evaluation.behaviour.max_new_tokens"] = spec.evaluation.behaviour.max_new_tokens + 1
    for where, most in written.items():
        if most > facts.max_positions:
            raise SequenceTooLong(
                f"{most} tokens are more than the model's {facts.max_positions} positions; use fewer", where
            )
    for field in source_fields(spec, "spec"):
        text = field.holder
        if not isinstance(text, Calibration | PerplexityText | TrainingText):
            continue
        if text.sequence_length > facts.max_positions:
            raise SequenceTooLong(
                f"sequence_length {text.sequence_length} is longer than the model's {facts.max_positions} "
                f"positions; use {facts.max_positions} or less",
                f"{field.path.removesuffix('.source')}.sequence_length",
            )


def _check_linears(lora: Lora, row: Architecture) -> None:
    known = row.adaptable
    for i, name in enumerate(lora.linears or ()):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InvalidSpec(
                f"{row.model_type} has no linear {name!r}{hint}; it has {', '.join(known)}",
                f"spec.recovery.trains.linears.{i}",
            )
    if lora.dropout and row.experts is not None and row.experts.stored in (lora.linears or ()):
        raise InvalidSpec(
            f"dropout {lora.dropout:g} cannot be applied to the update of experts, whose weights are one "
            f"parameter; set it to 0, or leave {row.experts.stored} out of linears",
            "spec.recovery.trains.dropout",
        )
