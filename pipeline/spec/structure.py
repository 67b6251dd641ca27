"""The part of a spec that asks for a smaller model."""

from collections.abc import Mapping
from itertools import accumulate
from typing import Literal, Self, get_args

from pydantic import Field, JsonValue, PositiveInt, model_validator

from pipeline.architecture.axes import Size
from pipeline.architecture.row import Architecture
from pipeline.canonical import Frozen
from pipeline.errors import InvalidSpec
from pipeline.spec.field_error import refusal
from pipeline.spec.texts import is_unset
from pipeline.spec.vocabulary import VocabularySize
from pipeline.structure.base import Known
from pipeline.structure.criteria import Activation, Criterion, Explicit
from pipeline.structure.cut import Cut, sizes_after
from pipeline.structure.depth import DropBlocks
from pipeline.structure.expert_counts import check_experts
from pipeline.structure.expert_criteria import ExplicitExperts
from pipeline.structure.experts import ExpertChoice
from pipeline.structure.sizes import Sizes, expert_groups, sizes_of, stack_sizes, staying_by_stack
from pipeline.structure.target import check_fixed, check_shares, target_sizes


class Structure(Frozen):
    """The sizes of the smaller model. Sizes that are left out do not change, and head_dim never does.

    If `num_key_value_heads` is left out, whole groups are removed, so that the ratio to query heads stays.
    `tensor_parallel`: each of this many ranks keeps equally many channels and heads. `export_as`: a model
    type that computes the same and accepts sizes that the model's own type refuses. `vocabulary` is cut
    first. `experts`: how the `num_experts` that stay are chosen, and what becomes of the others; without it
    they are chosen by `criterion`, and the others are dropped.
    """

    hidden_size: PositiveInt | None = None
    num_attention_heads: PositiveInt | None = None
    num_key_value_heads: PositiveInt | None = None
    intermediate_size: PositiveInt | None = None
    moe_intermediate_size: PositiveInt | None = None
    shared_expert_intermediate_size: PositiveInt | None = None
    num_experts: PositiveInt | None = None
    drop_blocks: DropBlocks | None = None
    vocabulary: VocabularySize | None = None
    criterion: Criterion = Field(default_factory=Activation)
    experts: ExpertChoice | None = Field(default=None, exclude_if=is_unset)
    tensor_parallel: PositiveInt = 1
    export_as: Literal["mistral"] | None = None

    @model_validator(mode="after")
    def _cross_checks(self) -> Self:
        if isinstance(self.criterion, Explicit):
            if self.asked or self.drop_blocks is not None:
                raise ValueError("criterion explicit says what stays: leave sizes and drop_blocks out")
            if self.experts is not None:
                raise refusal("criterion explicit says which experts stay: leave experts out", "experts")
            if self.criterion.cut.vocabulary is not None:
                raise refusal(
                    "the tokenizer would keep all tokens; leave it null, and ask for structure.vocabulary",
                    "criterion",
                    "cut",
                    "vocabulary",
                )
        elif self.beside_vocabulary is None and self.vocabulary is None:
            raise ValueError(
                f"structure asks for nothing: name one of {', '.join(self._sizes())}, drop_blocks, vocabulary"
            )
        if self.experts is not None:
            self._check_experts(self.experts)
        if self.export_as is not None and self.beside_vocabulary is None:
            raise refusal(
                "with the vocabulary alone the model's own type takes every size; leave it out", "export_as"
            )
        return self

    @property
    def beside_vocabulary(self) -> Self | None:
        """The structure without its vocabulary, which is cut after it; None if nothing else is cut."""
        if self.asked or self.drop_blocks is not None or isinstance(self.criterion, Explicit):
            return self.model_copy(update={"vocabulary": None})
        return None

    @classmethod
    def _sizes(cls) -> list[Size]:
        return [size for size in get_args(Size) if size in cls.model_fields]

    @property
    def asked(self) -> dict[Size, int]:
        """The sizes that the spec names."""
        return {size: getattr(self, size) for size in self._sizes() if getattr(self, size) is not None}

    @property
    def needs_samples(self) -> bool:
        """Tells whether any decision depends on activations."""
        by_depth = self.drop_blocks is not None and self.drop_blocks.needs_samples
        by_experts = self.experts is not None and self.experts.needs_samples
        return by_depth or by_experts or (self.criterion.needs_samples and self.ranks_by_criterion)

    @property
    def ranks_by_criterion(self) -> bool:
        """Tells whether `criterion` chooses anything: experts may have one of their own."""
        own = {"num_experts"} if self.experts is not None else set()
        return bool(self.asked.keys() - own) or isinstance(self.criterion, Explicit)

    def _check_experts(self, experts: ExpertChoice) -> None:
        if self.num_experts is None:
            raise refusal("experts says which experts stay: say how many with num_experts", "experts")
        if not isinstance(experts.criterion, ExplicitExperts):
            return
        for block, named in experts.criterion.blocks.items():
            if len({*named}) != self.num_experts or len(named) != self.num_experts:
                raise refusal(
                    f"block {block} names {len({*named})} different experts in {len(named)} numbers, and "
                    f"num_experts={self.num_experts} of each block stay; name as many",
                    *("experts", "criterion", "blocks", block),
                )

    def target(self, row: Architecture, config: Mapping[str, JsonValue]) -> Sizes:
        """The sizes of the smaller model. Raises InvalidSpec with the field and the nearest valid values."""
        old = dense = sizes_of(row, config)
        if self.vocabulary is not None:
            self.vocabulary.check(old.vocab_size)
            old = old.model_copy(update={"vocab_size": self.vocabulary.rows})
        if isinstance(self.criterion, Explicit):
            new = sizes_after(self.criterion.cut, old)
        else:
            new = target_sizes(row, config, self.asked, any_hidden=self.export_as is not None)
            new = new.model_copy(update={"vocab_size": old.vocab_size})
            check_experts(row, config, old, new)
            if self.drop_blocks is not None:
                kept = self.drop_blocks.counted(old.num_hidden_layers)
                new = new.model_copy(update={"num_hidden_layers": kept})
        check_fixed(row, config, dense, new, self.asked)
        check_shares(old, new, self.tensor_parallel)
        return new

    def foreseen(self, row: Architecture, config: Mapping[str, JsonValue]) -> tuple[int, ...]:
        """The blocks that stay, by number. Where activations will choose them, as many others: the first ones
        of the model, and of each of its stacks one. Raises InvalidSpec where a stack would have none."""
        old, new = sizes_of(row, config), self.target(row, config)
        if isinstance(self.criterion, Explicit):
            return tuple(block.block for block in self.criterion.cut.blocks)
        if self.drop_blocks is not None and not self.drop_blocks.needs_samples:
            blocks = self.drop_blocks.kept(old.num_hidden_layers, ())
        else:
            starts = [0, *accumulate(stack_sizes(row, config))][:-1]
            rest = [block for block in range(old.num_hidden_layers) if block not in starts]
            blocks = tuple(sorted([*starts, *rest][: new.num_hidden_layers]))
        staying_by_stack(row, config, blocks)
        return blocks

    def changes(self, row: Architecture, config: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """The fields of config.json that `export_as` changes. Raises InvalidSpec if the other type would
        compute something else."""
        if self.export_as is None:
            return {}
        biases = [name for name in ("attention_bias", "mlp_bias") if config.get(name)]
        if row.model_type != "llama" or biases:
            has = f"a {row.model_type} with {biases[0]}" if biases else f"a {row.model_type}"
            raise InvalidSpec(
                f"structure.export_as={self.export_as} takes Llama models without biases, and this is {has}; "
                f"leave it out",
                "spec.structure.export_as",
            )
        return {
            "model_type": "mistral",
            "architectures": ["MistralForCausalLM"],
            "sliding_window": None,
        }

    def cut(self, row: Architecture, config: Mapping[str, JsonValue], known: Known) -> Cut:
        """Choose what stays of a model. `known`: its scores and shapes."""
        from pipeline.structure.choosing import choose

        if isinstance(self.criterion, Explicit):
            return self.criterion.cut
        old, new = sizes_of(row, config), self.target(row, config)
        blocks = tuple(range(old.num_hidden_layers))
        if self.drop_blocks is not None:
            influences = known.influences() if self.drop_blocks.needs_samples else ()
            blocks = self.drop_blocks.kept(old.num_hidden_layers, influences)
            staying_by_stack(row, config, blocks)  # refuses to empty one
        scores = self.criterion.scores(known) if self.ranks_by_criterion else known.shapes()
        if self.experts is not None:
            scores = self.experts.ranked(scores, known)
        chosen = choose(
            scores,
            old,
            new,
            blocks,
            tensor_parallel=self.tensor_parallel,
            expert_groups=expert_groups(row, config),
        )
        return chosen if self.experts is None else self.experts.applied(chosen, known)
