"""The verification of a published model, as reports show it."""

from pipeline.artifacts.verification import Opened, OpenedLogits, OpenedTokenizer, Verification


def made_verification(*, difference: float = 0.0, remarks: tuple[str, ...] = ()) -> Verification:
    """A verification of the demo's model."""
    return Verification(
        files=12,
        bytes=270_000_000,
        tensors=272,
        values=134_515_008,
        zeros=53_084_160,
        documents=("README.md", "secateur.json", "certificate.json"),
        opened=Opened(
            version="5.0.0",
            model_class="LlamaForCausalLM",
            weights="in_memory",
            tensors=273,
            tied=True,
            logits=OpenedLogits(tokens=21, dtype="bfloat16", largest_difference=difference, tolerance=0.015),
            generated=8,
            tokenizer=OpenedTokenizer(tokens=49152, special=3),
        ),
        remarks=remarks,
    )
