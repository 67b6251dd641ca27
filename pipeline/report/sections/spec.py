"""The section with the spec, as a file that `secateur submit` takes."""

from collections.abc import Mapping
from typing import Self

import yaml

from pipeline.report.section import Section
from pipeline.request.prune_spec import PruneSpec


class SpecSection(Section):
    """This section shows `spec`."""

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """The spec as YAML."""
        return {"spec_yaml": spec_yaml(report.spec)}


def spec_yaml(spec: PruneSpec) -> str:
    """Write the spec as a file that `secateur submit` takes."""
    text: str = yaml.safe_dump(
        {"spec": spec.model_dump(mode="json", exclude_none=True)}, sort_keys=False, allow_unicode=True
    )
    return text
