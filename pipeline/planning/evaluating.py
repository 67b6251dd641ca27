"""Time and memory of evaluation: perplexities block by block, and whatever loads a whole model."""

from pipeline.planning.place import Cost, Place, Samples
from pipeline.planning.pruning import Walk, walk_cost
from pipeline.planning.shape import ModelShape

FLOAT = 4


def perplexity_cost(shape: ModelShape, windows: Samples, place: Place) -> Cost:
    """The cost of the losses of all windows: a walk, and the head at its end, whose logits in float32 stand
    whole for one window."""
    walk = walk_cost(shape, windows, place, Walk())
    assert walk.seconds is not None, "a walk knows its time"
    assert walk.gpu is not None, "and its memory"
    assert walk.host is not None, "and its memory"
    tokens = place.share(windows.count) * windows.length
    head = place.computed(2.0 * shape.embedding * tokens)
    logits = windows.length * shape.vocabulary * (FLOAT + place.width)
    end = shape.embedding * place.width + logits
    gpu = place.machine.memory is not None
    return Cost(
        seconds=walk.seconds + head,
        parts={**walk.parts, "head": head},
        gpu=max(walk.gpu, place.machine.context + end) if gpu else 0,
        host=walk.host if gpu else max(walk.host, place.idle + end),
    )


def whole_model_cost(shape: ModelShape, place: Place, *, gpus: int) -> Cost:
    """The memory of a model that is loaded whole, spread over the GPUs of one worker. How long its tasks take
    depends on texts that are not read before."""
    size = shape.weights * place.width
    if not gpus:
        return Cost(gpu=0, host=place.idle + size)
    return Cost(gpu=-(-size // gpus) + place.machine.context, host=place.idle)
