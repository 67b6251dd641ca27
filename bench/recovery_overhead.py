"""The overhead of recovery training over a bare DeepSpeed loop, on the real 134M model.

Three measurements use the same model and sequence length, on one thread, so that Ray's own processes have a
core of their own as they have on a cluster:
- `bare`: deepspeed.initialize, forward, backward, step, and nothing else;
- `stage`: a whole job on a local Ray, with Ray Train, keep guard, certificate and events (the time between
  steps is that between their events);
- `guard`: the time that the guard's own calls take within a step, clocked one by one, and a fiftieth of a
  check of all zeros (certify_every_steps is 50).

Each figure is that of its fastest step, because other load on the machine only adds time. Bare loops run
before and after the stage. The bounds: the stage takes at most 5 % more than the bare loop, the guard at most
3 % of a step. `--quick`: fewer steps. The last line is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from jobs import ROOT, parser_of, run_job
from workers.demo_data import DemoData, prepare_demo

LENGTH, BATCH = 256, 4
STAGE_BOUND, GUARD_BOUND = 0.05, 0.03
CHECKED_EVERY = 50  # the default of certify_every_steps


def main() -> None:
    """Print a table and one line of JSON; exit 1 when a bound does not hold."""
    parser = parser_of(__doc__, quick="6 steps of each instead of 16")
    parser.add_argument("--loop", choices=["bare", "guarded"], help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    data = prepare_demo(arguments.data)
    if arguments.loop is not None:
        print(json.dumps(bare_loop(data, arguments.steps, guarded=arguments.loop == "guarded")))
        return
    steps = 6 if arguments.quick else 16
    before = in_process("bare", steps)
    stage = stage_seconds(data, steps)
    after = in_process("bare", steps)
    guarded = in_process("guarded", steps)
    bare = min(before["step_s"], after["step_s"])
    figures = {
        "bare_s": round(bare, 3),
        "bare_spread": round(abs(before["step_s"] - after["step_s"]) / bare, 4),
        "stage_s": round(stage, 3),
        "stage_overhead": round(stage / bare - 1, 4),
        "guard_share": round(guarded["guard_s"] / guarded["step_s"], 4),
        "steps": steps,
    }
    for name, value in figures.items():
        print(f"{name:>16}  {value}")
    print(json.dumps(figures))
    held = figures["stage_overhead"] <= STAGE_BOUND and figures["guard_share"] <= GUARD_BOUND
    sys.exit(0 if held else 1)


def in_process(loop: str, steps: int) -> dict[str, float]:
    """Run a loop in a process of its own, with the environment of a worker."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
    }
    command = [sys.executable, str(Path(__file__)), "--loop", loop, "--steps", str(steps)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, env={**environment, "PYTHONPATH": str(ROOT)}, check=True, cwd=ROOT
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def bare_loop(data: DemoData, steps: int, *, guarded: bool) -> dict[str, float]:
    """The seconds of the fastest step, and with `guarded` those that the guard's calls take in a step."""
    import deepspeed
    import torch
    from transformers import AutoModelForCausalLM

    from workers.training.engine import Engine, prepare_process
    from workers.training.guard import Guard

    torch.set_num_threads(1)
    prepare_process(cuda=False)
    model = AutoModelForCausalLM.from_pretrained(data.model, dtype=torch.float32).train()
    keeps = {
        name: torch.rand(parameter.shape) > 0.5
        for name, parameter in model.named_parameters()
        if name.endswith("_proj.weight")
    }
    for name, parameter in model.named_parameters():
        if name in keeps:
            parameter.data.masked_fill_(~keeps[name], 0)
    config = {
        "train_micro_batch_size_per_gpu": BATCH,
        "gradient_accumulation_steps": 1,
        "train_batch_size": BATCH,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": 1},
        "steps_per_print": 10**9,
    }
    spent = 0.0

    def clocked(call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            nonlocal spent
            started = time.perf_counter()
            answer = call(*args, **kwargs)
            spent += time.perf_counter() - started
            return answer

        return timed

    adam = {"lr": 1e-4, "betas": (0.9, 0.95), "eps": 1e-8, "fused": True}
    guard: Guard | None = None
    if guarded:
        hook = Guard._hook
        Guard._hook = lambda self, name: clocked(hook(self, name))  # type: ignore[method-assign]
        ours = Engine(model, config, adam)
        guard = Guard(ours, keeps.items())
        engine = ours._engine
    else:
        optimizer = torch.optim.AdamW(model.parameters(), **adam)  # type: ignore[arg-type]
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    generator = torch.Generator().manual_seed(0)
    seconds, guards, checking = [], [], 0.0
    for _ in range(steps):
        tokens = torch.randint(0, 40_000, (BATCH, LENGTH), generator=generator)
        started, spent = time.perf_counter(), 0.0
        engine.backward(engine(input_ids=tokens, labels=tokens, use_cache=False).loss)
        engine.step()
        seconds.append(time.perf_counter() - started)
        guards.append(spent)
    if guard is not None:
        started = time.perf_counter()
        guard.check(steps)
        checking = time.perf_counter() - started
    return {"step_s": min(seconds[1:]), "guard_s": min(guards[1:]) + checking / CHECKED_EVERY}


def stage_seconds(data: DemoData, steps: int) -> float:
    """The fewest seconds from one step's event to the next, in a job that prunes and trains."""
    with tempfile.TemporaryDirectory(prefix="secateur-bench-") as name:
        directory = Path(name)
        request = {
            "spec": {
                "model": {"source": f"file:{data.model}"},
                "prune": {
                    "method": {"kind": "magnitude"},
                    "pattern": {"kind": "unstructured", "sparsity": 0.5},
                },
                "recovery": {
                    "text": {
                        "source": f"file:{data.wiki}",
                        "sequence_length": LENGTH,
                        "validation_sequences": 0,
                    },
                    "steps": steps,
                    "global_batch_size": BATCH,
                    "learning_rate": {"warmup_steps": 2},
                },
            },
            "resources": {
                "workers": 1,
                "cpus_per_worker": 1,
                "memory_per_worker": "8GiB",
                "recovery": {"micro_batch_size": BATCH},
            },
        }
        times = [
            event.at
            for event in run_job("train", request, directory).events
            if event.body.type == "training.step"
        ]
    return min((later - earlier).total_seconds() for earlier, later in pairwise(times[1:]))


if __name__ == "__main__":
    main()
