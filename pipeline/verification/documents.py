"""Checks that the documents of a fetched directory can be read, and say what its other files say."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, JsonValue, ValidationError

from pipeline.artifacts.artifact import Document
from pipeline.artifacts.certificate import Certificate, TensorCertificate
from pipeline.artifacts.refs import MASKS_PATH, CertificateRef, CutRef, VocabularyRef
from pipeline.artifacts.vocabulary import KeptTokens
from pipeline.errors import InvalidSpec, VerificationFailed
from pipeline.masks.file import MaskFile
from pipeline.plain_yaml import read_yaml
from pipeline.report.model_card import SIDE_FILE
from pipeline.report.side_file import SideFile
from pipeline.structure.cut import Cut
from pipeline.verification.differences import differing_field

CARD = "README.md"
CERTIFICATE = CertificateRef.path_of(Certificate)
OTHERS: Mapping[str, type[BaseModel]] = {
    CutRef.path_of(Cut): Cut,
    VocabularyRef.path_of(KeptTokens): KeptTokens,
}


def check_documents(
    directory: Path, digests: Mapping[str, str], certificates: Sequence[TensorCertificate]
) -> tuple[str, ...]:
    """Returns the paths of the documents. `digests`: path → SHA-256 of all published files; `certificates`:
    what the weights turned out to be.

    Raises VerificationFailed, which names file and field.
    """
    _check_card(directory)
    side = _read(directory, SIDE_FILE, SideFile)
    _check_side_file(side, digests)
    read = [CARD, SIDE_FILE]
    for path, document in OTHERS.items():
        if path in digests:
            _read(directory, path, document)
            read.append(path)
    if certificates:
        certificate = _read(directory, CERTIFICATE, Certificate)
        _check_certificate(certificate, certificates)
        _check_masks(directory, certificates)
        read += [CERTIFICATE, MASKS_PATH]
    elif CERTIFICATE in digests:
        raise VerificationFailed(f"{CERTIFICATE} was published for weights of which none must be zero")
    _check_zeros(side, certificates)
    return tuple(read)


def _check_card(directory: Path) -> None:
    card = _bytes(directory, CARD).decode(errors="replace")
    matter, closed, text = card.removeprefix("---\n").partition("\n---\n")
    try:
        fields = read_yaml(matter) if card.startswith("---\n") and closed else None
    except yaml.YAMLError as error:
        raise VerificationFailed(f"the front matter of {CARD} is not YAML: {error}") from error
    if not isinstance(fields, dict) or not text.strip():
        raise VerificationFailed(f"{CARD} is no model card: it needs a front matter of fields, and a text")


def _check_side_file(side: SideFile, digests: Mapping[str, str]) -> None:
    for field, listed in (("weights", side.digests.weights), ("tokenizer", side.digests.tokenizer)):
        for path, digest in listed.items():
            if digests.get(path) != digest:
                raise VerificationFailed(
                    f"{SIDE_FILE} has SHA-256 {digest} of {path} (field digests.{field}), and the file has "
                    f"{digests.get(path, 'not been published')}"
                )
    missing = [path for path in _top_weights(digests) if path not in side.digests.weights]
    if missing:
        raise VerificationFailed(f"{SIDE_FILE} has no digest of {missing[0]} (field digests.weights)")
    if side.linears:
        sparsity = sum(one.zeros for one in side.linears) / sum(one.weights for one in side.linears)
        if side.sparsity != sparsity:
            raise VerificationFailed(
                f"{SIDE_FILE} has sparsity {side.sparsity}, and its linears make {sparsity} (field sparsity)"
            )


def _top_weights(digests: Mapping[str, str]) -> list[str]:
    return [path for path in digests if path.endswith(".safetensors") and "/" not in path]


def _check_certificate(certificate: Certificate, found: Sequence[TensorCertificate]) -> None:
    """`found` has no N:M patterns, because publishing has checked every group."""
    stated = (one.model_copy(update={"nm": None}) for one in certificate.tensors)
    field = differing_field(_plain(found), _plain(stated), at="tensors")
    if field is not None:
        raise VerificationFailed(f"{CERTIFICATE} is not about these weights: {field}")
    if not certificate.holds:
        raise VerificationFailed(f"{CERTIFICATE} has checks that did not hold (field checks)")


def _plain(tensors: Iterable[TensorCertificate]) -> JsonValue:
    return [one.model_dump(mode="json") for one in tensors]


def _check_zeros(side: SideFile, found: Sequence[TensorCertificate]) -> None:
    held = sum(one.held for one in found)
    stated = (side.zeros.tensors, side.zeros.held) if side.zeros is not None else (0, 0)
    if stated != (len(found), held):
        raise VerificationFailed(
            f"{SIDE_FILE} states {stated[1]} zeros in {stated[0]} tensors, and {held} in {len(found)} were "
            f"found (field zeros)"
        )


def _check_masks(directory: Path, found: Sequence[TensorCertificate]) -> None:
    try:
        entries = MaskFile(directory / MASKS_PATH, named=MASKS_PATH).entries
    except (InvalidSpec, OSError) as error:
        raise VerificationFailed(f"{MASKS_PATH} cannot be read: {error}") from error
    for one in found:
        if one.tensor not in entries or entries[one.tensor].keep_sha256 != one.keep_sha256:
            raise VerificationFailed(f"{MASKS_PATH} has another mask of {one.tensor} than the weights have")


def _read(directory: Path, path: str, document: type[Document]) -> Document:
    try:
        return document.model_validate_json(_bytes(directory, path))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise VerificationFailed(f"{path} cannot be read: {first['msg']} (field {field})") from error


def _bytes(directory: Path, path: str) -> bytes:
    try:
        return (directory / path).read_bytes()
    except OSError as error:
        raise VerificationFailed(f"{path} cannot be read: {error}") from error
