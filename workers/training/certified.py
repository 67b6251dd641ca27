"""The certificate of what training has stored."""

from collections.abc import Sequence

from pipeline.artifacts import ArtifactRef, CertificateRef, FileRef
from pipeline.canonical import canonical_json
from pipeline.certificate import Certificate, Check
from pipeline.checkpoint.certify import certify
from workers.training.student import Stored
from workers.training.work import Work


def certified(work: Work, stored: Stored, *, checks: Sequence[Check]) -> dict[str, ArtifactRef]:
    """Read the stored weights back against their keep tensors: `keep` and `certificate`, or nothing where no
    zeros are held. `checks`: those of the training itself. Raises ZerosLost."""
    if stored.keep is None:
        return {}
    content = work.settings.content()
    masks = () if work.keep is None else (certify(content, work.checkpoint, work.keep, at="mask")[1],)
    held = work.stage.recovery.keep.kind == "held"
    tensors, saved = certify(
        content,
        stored.checkpoint,
        stored.keep,
        at="save",
        step=stored.step,
        patterns=work.patterns if held else None,
    )
    gathered = () if stored.check is None else (stored.check,)
    certificate = Certificate(tensors=tensors, checks=(*masks, *checks, *gathered, saved))
    blob = content.put_bytes(canonical_json(certificate))
    file = FileRef(path="certificate.json", blob=blob)
    return {"keep": stored.keep, "certificate": CertificateRef(files=(file,))}
