"""The stage that chooses the plan of the entrant with the lowest perplexity on held-out samples."""

from pipeline.allocations.tournament import Entry, Score, TournamentTable
from pipeline.artifacts.refs import TournamentRef
from pipeline.dag.stages.pruning import ChoosePlan
from pipeline.spec.sparsity_plan import SparsityPlan
from workers.context import Made, StageContext, Steps


def run(stage: ChoosePlan, context: StageContext) -> Steps:
    """Choose the entrant with the lowest perplexity; of equal ones, the first."""
    entries = []
    tokens = 0
    for i, allocation in enumerate(stage.tournament.entrants):
        score = context.load(f"score:{i}", Score)
        plan = context.load(f"plan:{i}", SparsityPlan)
        entries.append(Entry(allocation=allocation, perplexity=score.perplexity, sparsity=plan.sparsity))
        tokens = score.tokens
    winner = min(range(len(entries)), key=lambda i: entries[i].perplexity)
    table = TournamentTable(entries=tuple(entries), winner=winner, tokens=tokens)
    made = TournamentRef.made(context.content, table)
    yield Made({"plan": context.inputs[f"plan:{winner}"], "tournament": made})
