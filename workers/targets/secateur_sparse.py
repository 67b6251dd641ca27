"""transformers with sparse linears, which reads the published checkpoint itself."""

from collections.abc import Sequence

from workers.targets.consumer import TOP, Generated, Opening, Timing, on_the_clock


def open_session(opening: Opening) -> "_Session":
    """Open the checkpoint on the CPU. Where no weight has enough zeros, as in the dense model, all linears
    are torch's own."""
    return _Session(opening)


def open_scoring(opening: Opening) -> "_Session":
    """Open the same, to predict texts."""
    return _Session(opening)


class _Session:
    """See Session and ScoringSession."""

    def __init__(self, opening: Opening) -> None:
        import torch
        import transformers

        from secateur.sparse import load
        from secateur.sparse.generating import Answerer
        from secateur.sparse.operators import backend

        torch.set_num_threads(opening.threads)
        self.version = f"transformers {transformers.__version__}, {backend()}"
        model = load(opening.directory, values=opening.values, kernels=opening.kernels)  # type: ignore[arg-type]
        self._answerer = Answerer(model, None)

    def generate(self, prompt: Sequence[int], tokens: int) -> Generated:
        """The answer with its log-probabilities."""
        chosen, top = [], []
        for token, logits_V in self._answerer.steps(prompt, tokens, lambda logits_V: int(logits_V.argmax())):
            best = logits_V.log_softmax(-1).topk(min(TOP, logits_V.shape[0]))
            chosen.append(token)
            top.append(dict(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
        return Generated(chosen, top)

    def timed(self, prompt: Sequence[int], tokens: int) -> Timing:
        """A token is there when it is chosen."""
        steps = self._answerer.steps(prompt, tokens, lambda logits_V: int(logits_V.argmax()))
        return on_the_clock((None for _ in steps), tokens)

    def loss(self, tokens: Sequence[int], scored: int) -> float:
        """As a job evaluates, with the whole model in memory."""
        import torch

        from pipeline.tensor.sequence_loss import whole_loss

        return whole_loss(self._answerer.model, torch.tensor(tokens), scored=scored)

    def tokenize(self, text: str) -> list[int] | None:
        """It uses transformers' tokenizer, which there is no need to compare with itself."""
        return None
