"""Experiment trackers of a team, to which training curves are sent in addition to the events.

Credentials come from the workers' environment (MLFLOW_TRACKING_TOKEN, WANDB_API_KEY), never from a request.
"""

from typing import Literal

from pydantic import Field

from pipeline.canonical import Frozen


class Mlflow(Frozen):
    """An MLflow server, or a store of the driver's own: `sqlite:////absolute/path.db`, `file:///absolute/path`."""

    tracking_uri: str = Field(min_length=1)
    experiment: str = Field(default="secateur", min_length=1)


class WeightsAndBiases(Frozen):
    """A project of Weights & Biases. `offline` writes runs to the worker's disk for a later `wandb sync`."""

    project: str = Field(default="secateur", min_length=1)
    entity: str | None = None
    mode: Literal["online", "offline"] = "online"


class Tracking(Frozen):
    """Optional experiment trackers. Without them, curves are events, metrics and part of the report."""

    mlflow: Mlflow | None = None
    wandb: WeightsAndBiases | None = None
