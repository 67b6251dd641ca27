"""The certificate of the weights that training has stored."""

import hashlib
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from pipeline.artifacts.certificate import Certificate, Check
from pipeline.artifacts.refs import ArtifactRef, CertificateRef, CheckpointRef
from pipeline.checkpoint.keeps import KeepReader
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.errors import CorruptObject
from pipeline.masks.certify import Certified, certify
from pipeline.storage.content import ContentStore
from workers.training import ranks
from workers.training.stored import Stored
from workers.training.work import Work


def certified(
    work: Work, stored: Stored, *, checks: Sequence[Check], held: bool = True
) -> dict[str, ArtifactRef]:
    """Read the stored weights back and check them against their keep tensors. Returns the artifacts `keep`
    and `certificate`, or none where no zeros are held.

    All workers call it. Each checks its share of the blocks, outside of collectives. `checks`: those of the
    training itself. `held`: zeros did not move, so that the patterns hold. Raises ZerosLost on all workers.
    """
    keep = stored.keep
    if keep is None:
        return {}
    content = work.settings.content()
    share = (ranks.rank(), ranks.workers())

    def own() -> tuple[Check | None, Certified]:
        mask = None
        if work.keep is not None:
            _, mask = certify(content, work.checkpoint, work.keep, at="mask", share=share)
        patterns = work.patterns if held else None
        return mask, certify(
            content, stored.checkpoint, keep, at="save", step=stored.step, patterns=patterns, share=share
        )

    every = ranks.each(own)
    masks = [mask for mask, _ in every if mask is not None]
    before = (_summed(masks),) if masks else ()
    gathered = () if stored.check is None else (stored.check,)
    saved = _summed([check for _, (_, check) in every])
    order = KeepReader(content, stored.checkpoint, keep).tensors
    tensors = {one.tensor: one for _, (shares, _) in every for one in shares}
    certificate = Certificate(
        tensors=tuple(tensors[name] for name in order), checks=(*before, *checks, *gathered, saved)
    )
    made = ranks.from_first(lambda: CertificateRef.made(content, certificate))
    return {"keep": keep, "certificate": made}


def _summed(checks: Sequence[Check]) -> Check:
    """The check of all shares together."""
    return checks[0].model_copy(
        update={
            field: sum(getattr(check, field) for check in checks) for field in ("tensors", "held", "zeros")
        }
    )


def tensor_digest(tensor: Tensor) -> str:
    """The SHA-256 of a tensor's bytes, as the index of a checkpoint has it."""
    return hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def check_digests(
    content: ContentStore,
    checkpoint: CheckpointRef,
    digests: Sequence[Mapping[str, str]],
    *,
    trained: Collection[str],
) -> None:
    """Check that a stored checkpoint has the tensors that were trained. `digests`: those of the trained
    tensors, by name, which each worker took. Raises CorruptObject that names the tensor."""
    handed = {name: digest for one in digests for name, digest in one.items()}
    stored = CheckpointReader(content, checkpoint).index.tensors
    for name in sorted(trained):
        if name not in stored or handed.get(name) != stored[name].sha256:
            raise CorruptObject(
                f"{name} was trained, and the stored checkpoint has another tensor of that name or none; "
                f"nothing is published"
            )


def kept_as_they_were(content: ContentStore, dense: CheckpointRef, stored: Stored) -> Check:
    """Read the stored weights back and check that the kept ones equal the dense ones to the bit. All workers
    call it, and each checks its share of the blocks. Raises CorruptObject, on all of them, that names the
    tensor."""
    keep = stored.keep
    assert keep is not None

    def own() -> Check:
        keeps = KeepReader(content, stored.checkpoint, keep)
        before, after = CheckpointReader(content, dense), CheckpointReader(content, stored.checkpoint)
        names = [name for name, one in keeps.tensors.items() if one.block % ranks.workers() == ranks.rank()]
        held = 0
        for name in names:
            kept = keeps.keep(name)
            if not torch.equal(after.tensor(name)[kept], before.tensor(name)[kept]):
                raise CorruptObject(
                    f"{name}: a weight that is kept has changed; masks alone were to be learned"
                )
            held += kept.numel() - int(kept.sum())
        return Check(at="frozen", step=stored.step, tensors=len(names), held=held, zeros=held)

    return _summed(ranks.each(own))
