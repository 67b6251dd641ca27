"""Figures of evaluated checkpoints: what they depend on, and when two may stand side by side.
It also reads the task files that users bring for lm-eval, without running a line of them.
The fields of a spec live in `spec/`, running lm-eval in `workers/harness/`."""
