"""What a job cannot ask of a multimodal checkpoint, of which it works on the language model alone."""

from pipeline.checkpoint.language_model import wrapper_of
from pipeline.errors import InvalidSpec
from pipeline.request.prune_spec import PruneSpec
from pipeline.sources.pins import ModelFacts


def check_multimodal(spec: PruneSpec, facts: ModelFacts) -> None:
    """Raises InvalidSpec for a form of the result that holds a language model and nothing else."""
    wrapper = wrapper_of(facts.whole_config)
    if wrapper is None:
        return
    if spec.target:
        raise InvalidSpec(why_alone(wrapper.model_type, f"target {spec.target[0].kind}"), "spec.target.0")
    if spec.publish is not None:
        raise InvalidSpec(why_alone(wrapper.model_type, "publish.sparse"), "spec.publish.sparse")
    if spec.quantize:
        raise InvalidSpec(
            why_alone(wrapper.model_type, f"quantize {spec.quantize[0].kind}"), "spec.quantize.0"
        )


def why_alone(model_type: str, form: str) -> str:
    """Returns why a form of the result is refused for a multimodal type, and what to do."""
    return (
        f"{form} takes a language model, and a {model_type} is multimodal: its other parts would be lost; "
        f"leave it out, or save the language model alone and prune that"
    )
