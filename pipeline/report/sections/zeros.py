"""The section of the zeros certificate: weights that are zero, and every check of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from pipeline.artifacts.certificate import Certificate
from pipeline.report.inputs import Inputs
from pipeline.report.section import Headline, ModelSection, Tile

MOMENTS = {
    "mask": "when the masks were made",
    "step": "in training: master weights, optimizer moments and working weights",
    "frozen": "of kept weights, beside those from before masks were learned: the same to the bit",
    "gather": "of the whole tensors, put together from all workers",
    "save": "of what training has stored",
    "reload": "of the stored checkpoint, read back",
    "quantized": "of a quantized form, read back from what was written",
    "published": "of the published files, read back with safetensors",
}


class ZerosHeadline(Headline):
    """The certificate in two figures. `held`: number of weights that are zero at all `checks`."""

    held: int | None = None
    checks: int | None = None


class ZerosSection(ModelSection):
    """The certificate of the published model."""

    certificate: Certificate | None = None

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """Read the certificate that publishing made."""
        return {"certificate": inputs.find("certificate", Certificate)}

    @classmethod
    def headline(cls, report: Self) -> Headline | None:
        """The certificate in two figures, which are None where there are no zeros."""
        if report.certificate is None:
            return ZerosHeadline()
        return ZerosHeadline(held=report.certificate.held, checks=len(report.certificate.checks))

    @classmethod
    def tiles(cls, report: Self) -> Iterable[Tile]:
        """A tile with the achieved and the asked sparsity, and the number of checks that held."""
        if report.sparsity is None:
            return
        asked = [f"asked {report.asked:g}"] if report.asked is not None else []
        checks = report.certificate.checks if report.certificate is not None else ()
        held = [f"held at all {len(checks)} checks"] if checks else []
        yield Tile("Sparsity", f"{report.sparsity.sparsity:.4f}", "; ".join([*asked, *held]))

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """The checks by their moment; None where there are no zeros."""
        return None if report.certificate is None else {"checks": _checks(report.certificate)}


@dataclass(frozen=True)
class _Checks:
    """The checks of one moment. `steps`: the first and the last step of those in training."""

    count: int
    words: str
    held: int
    steps: tuple[int, int] | None


def _checks(certificate: Certificate) -> list[_Checks]:
    found = []
    for moment, words in MOMENTS.items():
        checks = [check for check in certificate.checks if check.at == moment]
        steps = [check.step for check in checks if check.step is not None]
        if checks:
            span = (min(steps), max(steps)) if steps else None
            found.append(_Checks(count=len(checks), words=words, held=checks[-1].held, steps=span))
    return found
