"""A fresh process that opens one model in one target, does what standard input asks, and ends.

    python -m workers.targets.child < {"opening": {...}, "generate": [...], "tokenize": [...], "time": {...}}
    python -m workers.targets.child < {"opening": {...}, "score": [...]}

It writes one line of JSON to standard output; what the target itself prints goes to standard error.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from workers.targets.consumer import Opening, ScoringSession, Session

MODULES = {
    "vllm": "vllm",
    "llama.cpp": "llama_cpp",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "secateur_sparse": "secateur_sparse",
}
WARM_UP = 2  # tokens that are generated before the clock starts


def open_session(opening: Opening) -> Session:
    """Open a model in its target, in this process."""
    module = importlib.import_module(f"workers.targets.{MODULES[opening.kind]}")
    opened: Callable[[Opening], Session] = module.open_session
    return opened(opening)


def open_scoring(opening: Opening) -> ScoringSession:
    """Open a model to predict texts, in this process. llama.cpp and secateur_sparse do that."""
    module = importlib.import_module(f"workers.targets.{MODULES[opening.kind]}")
    opened: Callable[[Opening], ScoringSession] = module.open_scoring
    return opened(opening)


def answers(session: Session, asked: dict[str, Any]) -> dict[str, Any]:
    """What a session answers to a request, as JSON."""
    found: dict[str, Any] = {"version": session.version}
    found["generated"] = [
        asdict(session.generate(one["prompt"], one["tokens"])) for one in asked.get("generate", ())
    ]
    found["tokenized"] = [session.tokenize(text) for text in asked.get("tokenize", ())]
    clock = asked.get("time")
    if clock is not None:
        session.timed(clock["prompt"], WARM_UP)
        found["timing"] = asdict(session.timed(clock["prompt"], clock["tokens"]))
        found["peak_memory_bytes"] = peak_memory()
    return found


def losses(session: ScoringSession, asked: dict[str, Any]) -> dict[str, Any]:
    """The losses of the texts in a request, as JSON."""
    found = [session.loss(one["tokens"], one["scored"]) for one in asked["score"]]
    return {"version": session.version, "losses": found}


def peak_memory() -> int:
    """The largest memory of this process so far, in bytes, with mapped files and without that of GPUs."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def main() -> None:
    """Answer one request. An exception ends the process with its traceback on standard error."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # targets print to standard output
    asked = json.load(sys.stdin)
    opening = Opening(**asked["opening"])
    found = (
        losses(open_scoring(opening), asked) if "score" in asked else answers(open_session(opening), asked)
    )
    answer.write(json.dumps(found) + "\n")
    answer.flush()
    os._exit(0)  # servers keep threads that end late


if __name__ == "__main__":
    main()
