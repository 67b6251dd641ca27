"""The plan of the entrant that did best on held-out samples."""

from pipeline.allocations.tournament import Entry, Score, TournamentTable
from pipeline.artifacts.refs import FileRef, TournamentRef
from pipeline.canonical import canonical_json
from pipeline.dag.stages import ChoosePlan
from pipeline.spec.sparsity_plan import SparsityPlan
from workers.stages.base import Made, StageContext, Steps


def run(stage: ChoosePlan, context: StageContext) -> Steps:
    """The lowest perplexity wins, at equal ones the first."""
    entries = []
    tokens = 0
    for i, allocation in enumerate(stage.tournament.entrants):
        score = Score.model_validate_json(context.read(f"score:{i}", "score.json"))
        plan = SparsityPlan.model_validate_json(context.read(f"plan:{i}", "plan.json"))
        entries.append(Entry(allocation=allocation, perplexity=score.perplexity, sparsity=plan.sparsity))
        tokens = score.tokens
    winner = min(range(len(entries)), key=lambda i: entries[i].perplexity)
    table = TournamentTable(entries=tuple(entries), winner=winner, tokens=tokens)
    blob = context.content.put_bytes(canonical_json(table))
    files = (FileRef(path="tournament.json", blob=blob),)
    yield Made({"plan": context.inputs[f"plan:{winner}"], "tournament": TournamentRef(files=files)})
