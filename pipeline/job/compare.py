"""Compares what two jobs of the same work made, down to the tensor."""

import json
from collections.abc import Iterator, Mapping, Sequence

from pydantic import JsonValue

from pipeline.artifacts.artifact import Artifact, FileRef
from pipeline.artifacts.tensor_index import TensorEntry
from pipeline.checkpoint.reader import read_tensor
from pipeline.checkpoint.scan import TensorScan
from pipeline.job.ledger import JobResult, NodeResult
from pipeline.job.reproduction import Difference, Reproduction
from pipeline.storage.content import BlobRef, ContentStore

SHOWN = 60  # characters of a value that a sentence quotes
Found = Mapping[str, JsonValue]  # fields of a Difference


def compare_jobs(
    first: JobResult, again: Sequence[NodeResult], content: ContentStore, *, job: str
) -> Reproduction:
    """Compare what two jobs made, node by node. `job`: the first one. Artifacts that hold times differ
    between equal jobs and are left out. Nodes that only one of them has count as a difference."""
    made = {result.node: result for result in again}
    equal = 0
    for before in first.nodes:
        for name, artifact in sorted(before.artifacts.items()):
            if not artifact.repeatable:
                continue
            after = made[before.node].artifacts.get(name) if before.node in made else None
            found = _difference(artifact, after, content)
            if found is not None:
                at = {"node": before.node, "artifact": name}
                return Reproduction(
                    job=job, artifacts=equal, difference=Difference.model_validate({**at, **found})
                )
            equal += 1
    return Reproduction(job=job, artifacts=equal)


def _difference(before: Artifact, after: Artifact | None, content: ContentStore) -> Found | None:
    """The first file that differs, weights before anything else: other files often follow from them."""
    if after is None:
        return {"detail": "the second job did not make it"}
    ours, theirs = _blobs(before.files), _blobs(after.files)
    for path in sorted(ours.keys() | theirs.keys(), key=lambda path: (not _holds_tensors(path), path)):
        if ours.get(path) == theirs.get(path):
            continue
        if path not in theirs or path not in ours:
            which = "first" if path in ours else "second"
            return {"file": path, "detail": f"only the {which} job made it"}
        return {"file": path, **_between(path, ours[path], theirs[path], content)}
    return None


def _blobs(files: Sequence[FileRef]) -> dict[str, BlobRef]:
    return {file.path: file.blob for file in files}


def _holds_tensors(path: str) -> bool:
    return path.endswith(".safetensors")


def _between(path: str, before: BlobRef, after: BlobRef, content: ContentStore) -> Found:
    if _holds_tensors(path):
        return _between_tensors(path, before, after, content)
    if path.endswith(".json"):
        fields = _first_field(*(json.loads(content.get_bytes(blob)) for blob in (before, after)), at="")
        return {"detail": fields or "the same values in other bytes"}
    return {"detail": f"{before.size} bytes became {after.size} other bytes"}


def _between_tensors(path: str, before: BlobRef, after: BlobRef, content: ContentStore) -> Found:
    """The first tensor with other bytes. Both files are streamed; only two tensors are ever in memory."""
    ours, theirs = (_entries(path, blob, content) for blob in (before, after))
    for name, entry in ours.items():
        other = theirs.get(name)
        if other is None:
            return {"tensor": name, "detail": f"tensor {name} is missing in the second job"}
        if (entry.dtype, entry.shape) != (other.dtype, other.shape):
            forms = f"{entry.dtype} {list(entry.shape)} became {other.dtype} {list(other.shape)}"
            return {"tensor": name, "detail": f"tensor {name}: {forms}"}
        if entry.sha256 == other.sha256:
            continue
        x, y = (
            read_tensor(content, blob, one, name=name).double()
            for blob, one in ((before, entry), (after, other))
        )
        values, largest = int((x != y).sum()), float((x - y).abs().max())
        finite = largest < float("inf")  # false for NaN too
        size = f"by at most {largest:.3g}" if finite else "and some are not finite"
        detail = f"tensor {name}: {values} of {x.numel()} values differ, {size}"
        return {"tensor": name, "largest": largest if finite else None, "detail": detail}
    more = [name for name in theirs if name not in ours]
    if more:
        return {"tensor": more[0], "detail": f"tensor {more[0]} is new in the second job"}
    return {"detail": "equal tensors in another order, or other metadata"}


def _entries(path: str, blob: BlobRef, content: ContentStore) -> dict[str, TensorEntry]:
    scan = TensorScan(path)
    for _ in scan.through(content.stream(blob)):
        pass
    return scan.entries


def _first_field(before: JsonValue, after: JsonValue, *, at: str) -> str | None:
    """The first field in which two JSON values differ, as a sentence; None if they are equal."""
    if isinstance(before, dict) and isinstance(after, dict):
        pairs: Iterator[tuple[str, JsonValue, JsonValue]] = (
            (str(name), before.get(name), after.get(name)) for name in {**before, **after}
        )
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = ((str(i), x, y) for i, (x, y) in enumerate(zip(before, after, strict=True)))
    elif before == after:
        return None
    else:
        return f"{at or 'the document'} is {_shown(before)}, then {_shown(after)}"
    for name, x, y in pairs:
        found = _first_field(x, y, at=f"{at}.{name}" if at else name)
        if found is not None:
            return found
    return None


def _shown(value: JsonValue) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
