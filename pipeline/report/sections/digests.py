"""The section with the content hashes of sources, checkpoints and published files."""

from collections.abc import Iterable, Mapping
from typing import Self

from pipeline.artifacts.refs import ManifestRef
from pipeline.report.inputs import MODELS, Inputs
from pipeline.report.section import ModelSection
from pipeline.spec.source_fields import source_fields


class DigestsSection(ModelSection):
    """The digests of a job. Fills `checkpoints` and the fields of the manifest."""

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """Take the digests of the artifacts themselves."""
        manifest = inputs.refs["manifest"]
        assert isinstance(manifest, ManifestRef), "publishing makes a manifest"
        checkpoints = {which: inputs.refs.get(f"{which}_checkpoint") for which in MODELS}
        return {
            "checkpoints": {which: one.digest for which, one in checkpoints.items() if one is not None},
            "manifest_prefix": manifest.prefix,
            "manifest_digest": manifest.digest,
        }

    @classmethod
    def remarks(cls, report: Self) -> Iterable[str]:
        """What the configs and files of the sources had to lose on the way."""
        for facts in report.pins.models.values():
            yield from facts.notes

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """The pins of all sources, by the fields that name them."""
        return {
            "sources": [
                (field.path.removeprefix("spec.").removesuffix(".source"), report.pins.of(field.path))
                for field in source_fields(report.spec, "spec")
            ]
        }
