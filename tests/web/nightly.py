"""A schedule as the scheduler leaves it after some nights."""

from datetime import UTC, datetime, timedelta
from typing import Any

from api.db.models import Alias, Firing, Sighting
from pipeline.report.gates import Verdict
from tests.api.conftest import RunningApi
from tests.web.scenes import KEY, Play, spec


def nightly(api: RunningApi, watched: str, promoted: Play) -> str:
    """A schedule with candidates, three firings and an alias; its name."""
    template = {"spec": spec().model_dump(mode="json", exclude={"model"}), "labels": {"team": "serving"}}
    body = {
        "name": "nightly",
        "cron": {"expression": "30 4 * * *", "timezone": "America/New_York"},  # no clock is changed then
        "on_new_checkpoint": {"source": watched},
        "template": template,
        "gates": ["perplexity <= 3 * dense", "arc_easy >= dense - 0.02"],
        "alias": "nightly",
    }
    answer = api.client.post("/schedules", json=body)
    assert answer.status_code == 201, answer.text
    schedule = answer.json()["id"]
    now = datetime.now(UTC)
    passed = Verdict(
        gate="perplexity <= 3 * dense",
        metric="perplexity.wiki.txt",
        pruned=43.16,
        dense=19.53,
        bound=58.59,
        passed=True,
        reason="perplexity.wiki.txt 43.16 is <= 58.59 = 3 * dense",
    )
    missed = Verdict(
        gate="arc_easy >= dense - 0.02",
        metric="arc_easy.acc_norm",
        pruned=0.431,
        dense=0.6124,
        bound=0.5924,
        passed=False,
        reason="arc_easy.acc_norm 0.431 is not >= 0.5924 = dense - 0.02",
    )
    good = missed.model_copy(update={"pruned": 0.6, "passed": True})
    firings: list[dict[str, Any]] = [
        {"outcome": "promoted", "gates": (passed, good), "job": promoted.id, "cause": "checkpoint"},
        {"outcome": "held", "gates": (passed, missed), "cause": "checkpoint", "reason": missed.reason},
        {"outcome": "missed", "cause": "cron", "reason": "no service ran at this moment"},
    ]
    with api.services.database.write() as session:
        for i, firing in enumerate(firings):
            gates = firing.pop("gates", ())
            stored = "[" + ",".join(one.model_dump_json() for one in gates) + "]" if gates else None
            at = now - timedelta(days=3 - i)
            source = f"{watched}/step-{1000 * (i + 1)}" if firing["cause"] == "checkpoint" else None
            session.add(
                Firing(schedule=schedule, at=at, source=source, gates=stored, decided_at=at, **firing)
            )
        for step, state, reason in (
            (4000, "settling", "complete; taken when it is still the same after 60 s"),
            (5000, "incomplete", "model-00002-of-00002.safetensors is missing"),
        ):
            session.add(
                Sighting(
                    schedule=schedule,
                    source=f"{watched}/step-{step}",
                    since=now - timedelta(minutes=3),
                    listing=KEY,
                    seen_at=now,
                    state=state,
                    reason=reason,
                )
            )
        session.add(
            Alias(
                name="nightly",
                job=promoted.id,
                prefix="published/SmolLM2-135M-0123456789ab/",
                manifest=KEY,
                moved_at=now - timedelta(days=3),
                moved_by="nightly",
            )
        )
    return "nightly"
