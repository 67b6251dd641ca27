"""What all kinds of work have in common."""

from typing import ClassVar

from pipeline.canonical import Frozen


class BaseStage(Frozen):
    """`version` is raised when numbers change; the golden tests notice when someone forgets. `outputs`: names
    of the artifacts that the stage makes. `unit`: what its progress counts. `reusable`: whether a stored
    result serves other jobs. `names_sources`: whether the fields also say where the pinned files lie."""

    version: ClassVar[int] = 1
    reusable: ClassVar[bool] = True
    names_sources: ClassVar[bool] = False
    outputs: ClassVar[tuple[str, ...]]
    unit: ClassVar[str] = "step"
