"""The base of all stages."""

from typing import ClassVar

from pipeline.canonical import Frozen


class BaseStage(Frozen):
    """A kind of work. `version` is raised when numbers change; the golden tests notice when someone forgets.
    `outputs`: names of the artifacts that the stage makes. `unit`: the unit of its progress. `reusable`: True
    if a stored result serves other jobs. `names_sources`: True if the fields also name the sources of the
    pinned files."""

    version: ClassVar[int] = 1
    reusable: ClassVar[bool] = True
    names_sources: ClassVar[bool] = False
    outputs: ClassVar[tuple[str, ...]]
    unit: ClassVar[str] = "step"
