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
from pipeline.masks.certify import certify
from pipeline.storage.content import ContentStore
from workers.training.stored import Stored
from workers.training.work import Work


def certified(
    work: Work, stored: Stored, *, checks: Sequence[Check], held: bool = True
) -> dict[str, ArtifactRef]:
    """Read the stored weights back and check them against their keep tensors. Returns the artifacts `keep`
    and `certificate`, or none where no zeros are held.

    `checks`: those of the training itself. `held`: zeros did not move, so that the patterns hold. Raises
    ZerosLost.
    """
    if stored.keep is None:
        return {}
    content = work.settings.content()
    masks = () if work.keep is None else (certify(content, work.checkpoint, work.keep, at="mask")[1],)
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
    return {"keep": stored.keep, "certificate": CertificateRef.made(content, certificate)}


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
    """Read the stored weights back and check that the kept ones equal the dense ones to the bit. Raises
    CorruptObject that names the tensor."""
    assert stored.keep is not None
    keeps = KeepReader(content, stored.checkpoint, stored.keep)
    before, after = CheckpointReader(content, dense), CheckpointReader(content, stored.checkpoint)
    held = 0
    for name in keeps.tensors:
        keep = keeps.keep(name)
        if not torch.equal(after.tensor(name)[keep], before.tensor(name)[keep]):
            raise CorruptObject(f"{name}: a weight that is kept has changed; masks alone were to be learned")
        held += keep.numel() - int(keep.sum())
    return Check(at="frozen", step=stored.step, tensors=len(keeps.tensors), held=held, zeros=held)
