"""One addition of each kind that the house promises to take in a few files."""

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

LEARNED = '''"""Masks that are trained as MaskLLM's are, under another name."""

from typing import Literal

from pipeline.methods.learned import LearnedMethod


class Taught(LearnedMethod):
    """Begins closer to its prior."""

    kind: Literal["taught"] = "taught"
'''

ALLOCATION = '''"""More zeros in the last block, fewer in the first."""

from typing import Literal

from pipeline.allocations.base import CandidateAllocation
from pipeline.allocations.levels import unstructured_plan
from pipeline.spec.patterns import NM, Pattern
from pipeline.spec.sparsity_plan import SparsityPlan, Weights


class Tilted(CandidateAllocation):
    """Sparsity grows by `by` from the first block to the last."""

    kind: Literal["tilted"] = "tilted"
    by: float = 0.1

    def plan(self, pattern: Pattern, weights: Weights, *, measured: tuple[float, ...] = ()) -> SparsityPlan:
        """Half of `by` on either side of the pattern's sparsity."""
        if isinstance(pattern, NM):
            return SparsityPlan(asked=pattern.target, blocks=(pattern,) * len(weights))
        last = max(len(weights) - 1, 1)
        wanted = [pattern.sparsity + self.by * (block / last - 0.5) for block in range(len(weights))]
        return unstructured_plan(pattern, wanted, weights)
'''

CONTEST = '''"""A contest without the uniform allocation."""

from typing import Literal

from pipeline.allocations.candidates import Candidate
from pipeline.allocations.contest import ContestAllocation


class Duel(ContestAllocation):
    """The candidates alone."""

    kind: Literal["duel"] = "duel"

    @property
    def entrants(self) -> tuple[Candidate, ...]:
        """The candidates, each once."""
        return tuple(dict.fromkeys(self.candidates))
'''


@dataclass(frozen=True)
class Addition:
    """What a person writes by hand. `new`: path → text of a new file. `edits`: path → lines that stand in an
    existing file, each with the lines that take their place. `files`: how many are promised in all."""

    name: str
    files: int
    new: dict[str, str] = field(default_factory=dict)
    edits: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)

    def carry_out(self, tree: Path) -> None:
        """Write it into a copy of the packages."""
        for path, text in self.new.items():
            assert not (tree / path).exists(), f"{path} is there already"
            (tree / path).write_text(text)
        for path, changes in self.edits.items():
            text = (tree / path).read_text()
            for old, new in changes:
                assert text.count(old) == 1, f"{path} must have {old!r} once"
                text = text.replace(old, new)
            (tree / path).write_text(text)


def documented(name: str) -> str:
    """The example of a class in the documentation."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    blocks = re.findall(r"^```python\n(.*?)^```$", "\n".join(page.read_text() for page in pages), re.S | re.M)
    found = [block for block in blocks if f"class {name}(" in block]
    assert len(found) == 1, f"the documentation has {len(found)} examples of a class {name}; it must have one"
    return found[0]


def additions() -> list[Addition]:
    """All of them; each can be carried out after those before it."""
    return [
        Addition(
            "method",
            files=2,
            new={"pipeline/methods/mine.py": documented("Mine")},
            edits={
                "pipeline/methods/ranking.py": (
                    (
                        "from pipeline.methods.ria import Ria\n",
                        "from pipeline.methods.mine import Mine\nfrom pipeline.methods.ria import Ria\n",
                    ),
                    ("Annotated[Magnitude |", "Annotated[Mine | Magnitude |"),
                )
            },
        ),
        Addition(
            "learned method",
            files=2,
            new={"pipeline/methods/taught.py": LEARNED},
            edits={
                "pipeline/methods/__init__.py": (
                    (
                        "from pipeline.methods.single import Single\n",
                        "from pipeline.methods.single import Single\n"
                        "from pipeline.methods.taught import Taught\n",
                    ),
                    ("Learned = MaskLLM\n", "Learned = MaskLLM | Taught\n"),
                )
            },
        ),
        Addition(
            "allocation",
            files=2,
            new={"pipeline/allocations/tilted.py": ALLOCATION},
            edits={
                "pipeline/allocations/candidates.py": (
                    (
                        "from pipeline.allocations.uniform import Uniform\n",
                        "from pipeline.allocations.tilted import Tilted\n"
                        "from pipeline.allocations.uniform import Uniform\n",
                    ),
                    ("Annotated[Uniform |", "Annotated[Tilted | Uniform |"),
                )
            },
        ),
        Addition(
            "contest",
            files=2,
            new={"pipeline/allocations/duel.py": CONTEST},
            edits={
                "pipeline/allocations/__init__.py": (
                    (
                        "from pipeline.allocations.dlp import Dlp\n",
                        "from pipeline.allocations.dlp import Dlp\n"
                        "from pipeline.allocations.duel import Duel\n",
                    ),
                    ("Contest = Tournament\n", "Contest = Tournament | Duel\n"),
                )
            },
        ),
        Addition(
            "report section",
            files=2,
            new={"pipeline/report/sections/mine.py": documented("DiskSection")},
            edits={
                "pipeline/report/data.py": (
                    (
                        "from pipeline.report.sections.perplexity import",
                        "from pipeline.report.sections.mine import DiskHeadline, DiskSection\n"
                        "from pipeline.report.sections.perplexity import",
                    ),
                    ("    DigestsSection,\n", "    DiskSection,\n    DigestsSection,\n"),
                    ("    StagesHeadline,\n", "    DiskHeadline,\n    StagesHeadline,\n"),
                )
            },
        ),
        Addition(
            "model type",
            files=1,
            edits={
                "pipeline/architecture/llama_like.py": (
                    (
                        '    llama_like("qwen3"),\n',
                        '    llama_like("qwen3"),\n    llama_like("olmo"),\n',
                    ),
                ),
            },
        ),
        Addition(
            "setting",
            files=1,
            edits={
                "api/settings.py": (
                    (
                        "    poll_seconds: float = Field(\n",
                        '    colour: str = Field(default="green", description="Colour of the leaves.")\n'
                        "    poll_seconds: float = Field(\n",
                    ),
                )
            },
        ),
    ]
