"""Dockerfiles as data: instructions by stage, and which files of the checkout a build may see."""

import json
import re
import shlex
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from string import Template

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "deploy" / "docker"
PACKAGES = ("api", "pipeline", "secateur", "workers")


@dataclass(frozen=True)
class Instruction:
    """`flags` are what stands as --flag=value before the rest."""

    name: str
    text: str
    flags: dict[str, str] = field(default_factory=dict)

    @property
    def words(self) -> list[str]:
        """The exec form as it is, anything else as a shell would split it."""
        return json.loads(self.text) if self.text.startswith("[") else shlex.split(self.text)

    @property
    def pairs(self) -> dict[str, str]:
        """Of ENV, LABEL and ARG."""
        return dict(word.partition("=")[::2] for word in self.words)


@dataclass(frozen=True)
class Stage:
    """What stands between two FROMs."""

    base: str
    name: str
    instructions: tuple[Instruction, ...]

    def last(self, name: str) -> Instruction | None:
        """The instruction that counts where only one does."""
        return next((one for one in reversed(self.instructions) if one.name == name), None)

    def merged(self, name: str) -> dict[str, str]:
        """All pairs of all instructions of that name."""
        return {k: v for one in self.instructions if one.name == name for k, v in one.pairs.items()}


def read(path: Path) -> list[Stage]:
    """The stages of a Dockerfile, build arguments of the bases filled in."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines():
        if not line.strip():
            continue
        one = _instruction(line)
        if one.name == "FROM":
            base, _, name = one.text.partition(" AS ")
            stages.append(Stage(Template(base).substitute(arguments), name, ()))
        elif not stages:
            arguments |= one.pairs
        else:
            known = stages[-1]
            stages[-1] = Stage(known.base, known.name, (*known.instructions, one))
    return stages


def _instruction(line: str) -> Instruction:
    name, _, rest = line.partition(" ")
    flags: dict[str, str] = {}
    while match := re.match(r"--([a-z-]+)=(\S+)\s+", rest := rest.strip()):
        flags[match[1]] = match[2]
        rest = rest[match.end() :]
    return Instruction(name, rest, flags)


def context_files() -> set[Path]:
    """Files of the checkout that .dockerignore lets through, relative to it.

    Understands what our file uses: `*`, `!name` at the top, and `**/name` anywhere.
    """
    lines = [line.strip() for line in (ROOT / ".dockerignore").read_text().splitlines()]
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*", "first leave everything out"
    wanted = [rule[1:] for rule in rules if rule.startswith("!")]
    unwanted = [rule.removeprefix("**/") for rule in rules if rule.startswith("**/")]
    assert len(rules) == 1 + len(wanted) + len(unwanted), f"a rule that is not understood in {rules}"
    files = [path for name in wanted for path in [ROOT / name, *(ROOT / name).rglob("*")] if path.is_file()]
    relative = {path.relative_to(ROOT) for path in files}
    return {
        path
        for path in relative
        if not any(fnmatch(part, pattern) for part in path.parts for pattern in unwanted)
    }
