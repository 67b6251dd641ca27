"""The section of serving: how fast the targets are with the dense and with the final model."""

from collections.abc import Iterable, Mapping
from typing import Self

from pipeline.artifacts.serving import Served, Serving, Spread
from pipeline.report.inputs import Inputs
from pipeline.report.quantity import human_bytes, human_perplexity
from pipeline.report.section import Headline, ModelSection, Tile


class ServingHeadline(Headline):
    """How many times as many tokens a second each target generates with the final model; by target."""

    serving: dict[str, float] | None = None


class ServingSection(ModelSection):
    """The figures of each target that the spec names."""

    serving: tuple[Serving, ...] = ()

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """Read what was measured in each target."""
        found = [inputs.find(f"serving:{target.kind}", Serving) for target in inputs.spec.target]
        return {"serving": tuple(one for one in found if one is not None)}

    @classmethod
    def headline(cls, report: Self) -> Headline | None:
        """The ratios of the medians; None without a target."""
        ratios = {one.target: round(decode_ratio(one), 3) for one in report.serving}
        return ServingHeadline(serving=ratios or None)

    @classmethod
    def tiles(cls, report: Self) -> Iterable[Tile]:
        """A tile for each target."""
        for one in report.serving:
            yield Tile(
                f"In {one.target}",
                f"× {decode_ratio(one):.2f}",
                f"{one.dense.decode.median:.1f} → {one.final.decode.median:.1f} generated tokens/s",
            )

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """Rows of a table for each target; None without a target."""
        if not report.serving:
            return None
        return {
            "targets": [
                (one, list(_rows(one)), list(_others(one)), list(_faster(one))) for one in report.serving
            ]
        }


def decode_ratio(serving: Serving) -> float:
    """Generated tokens per second of the final model over those of the dense one."""
    return serving.final.decode.median / serving.dense.decode.median


def _rows(serving: Serving) -> Iterable[tuple[str, str, str, str]]:
    """The name of a figure, its median with least and most for the dense and for the final model, and the
    ratio of the medians. Where the target skips zeros, also beside its own kernels that do not."""
    dense, final, same = serving.dense, serving.final, serving.dense_kernels
    for name, before, after in (
        ("prompt, tokens/s", dense.prefill, final.prefill),
        ("generated, tokens/s", dense.decode, final.decode),
    ):
        yield name, _spread(before), _spread(after), f"{after.median / before.median:.2f}"
    if same is not None:
        for name, before, after in (
            ("prompt, beside dense kernels of the same make", same.prefill, final.prefill),
            ("generated, beside dense kernels of the same make", same.decode, final.decode),
        ):
            yield name, _spread(before), _spread(after), f"{after.median / before.median:.2f}"
    before, after = dense.first_token, final.first_token
    ratio = f"{after.median / before.median:.2f}"
    yield "first token, ms", _spread(before, 1000), _spread(after, 1000), ratio
    before, after = dense.memory, final.memory
    ratio = f"{after.median / before.median:.2f}"
    yield "peak memory", human_bytes(int(before.median)), human_bytes(int(after.median)), ratio
    sizes = dense.file_bytes, final.file_bytes
    yield "files", human_bytes(sizes[0]), human_bytes(sizes[1]), f"{sizes[1] / sizes[0]:.2f}"


def _others(serving: Serving) -> Iterable[tuple[str, str, str, str, str]]:
    """A row for each model that ran in the same rounds: its name, tokens per second of the prompt and of the
    answer, its files, and its perplexities. None where there is nothing to compare with."""
    if not serving.beside:
        return
    for name, served in (
        (f"{serving.target}, final", serving.final),
        (f"{serving.target}, dense", serving.dense),
        *((f"llama.cpp {one.type}, dense", one.served) for one in serving.beside),
    ):
        rates = _spread(served.prefill), _spread(served.decode)
        yield name, *rates, human_bytes(served.file_bytes), _perplexities(served) or "not measured"


def _faster(serving: Serving) -> Iterable[str]:
    """A sentence for each type in which llama.cpp generates as fast with the dense model as the target with
    the final one, with the perplexity of both."""
    for one in serving.beside:
        ratio = one.served.decode.median / serving.final.decode.median
        if ratio < 1:
            continue
        sentence = f"llama.cpp generates {ratio:.2f} times as fast with the dense model in {one.type}"
        theirs, ours = _perplexities(one.served), _perplexities(serving.final)
        yield (
            f"{sentence}, whose perplexity is {theirs}; that of the final model is {ours}"
            if ours
            else sentence
        )


def _perplexities(served: Served) -> str:
    return ", ".join(f"{human_perplexity(value)} ({name})" for name, value in served.perplexity.items())


def _spread(spread: Spread, factor: float = 1) -> str:
    least, median, most = (factor * value for value in (spread.least, spread.median, spread.most))
    return f"{median:.4g} ({least:.4g} to {most:.4g})"
