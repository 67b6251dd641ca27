"""The part of a DAG that quantizes a result, in each form that the spec names."""

from collections.abc import Iterator

from pipeline.dag.evaluation import evaluation_nodes
from pipeline.dag.nodes import Input, Node
from pipeline.dag.stages.quantizing import Quantize, RoundBlocks
from pipeline.request.prune_spec import PruneSpec
from pipeline.sources.pins import Pins
from pipeline.spec.quantization import Gptq


def quantizing_nodes(spec: PruneSpec, pins: Pins, *, final: Input, keep: Input | None) -> Iterator[Node]:
    """Quantize the final checkpoint in every form, and measure the perplexity of what is read back."""
    for form in spec.quantize:
        inputs = {"checkpoint": final}
        if isinstance(form, Gptq):
            rounding = RoundBlocks(form=form, compute_dtype=spec.dtype, reproducible=spec.reproducible)
            samples = Input(node="calibrate", artifact="samples")
            node = Node(id=f"round:{form.name}", stage=rounding, inputs={**inputs, "samples": samples})
            yield node
            inputs["rounded"] = Input(node=node.id, artifact="checkpoint")
        if keep is not None:
            inputs["keep"] = keep
        yield Node(id=_quantize(form.name), stage=Quantize(form=form), inputs=inputs)
        read_back = Input(node=_quantize(form.name), artifact="checkpoint")
        yield next(evaluation_nodes(form.name, read_back, spec, pins))  # the perplexities, and no tasks


def forms(spec: PruneSpec) -> dict[str, Input]:
    """The files of each form, by the names that `publish` and `report` know."""
    return {
        _quantize(form.name): Input(node=_quantize(form.name), artifact="quantized") for form in spec.quantize
    }


def read_backs(spec: PruneSpec) -> dict[str, Input]:
    """The weights that each form gives back, by the names that `verify` knows."""
    return {
        f"read_back:{form.name}": Input(node=_quantize(form.name), artifact="checkpoint")
        for form in spec.quantize
    }


def form_evaluations(spec: PruneSpec) -> dict[str, Input]:
    """The perplexities of each form, by the names that `report` knows."""
    return {
        f"evaluation:{form.name}": Input(node=f"evaluate:{form.name}", artifact="evaluation")
        for form in spec.quantize
    }


def _quantize(form: str) -> str:
    return f"quantize:{form}"
