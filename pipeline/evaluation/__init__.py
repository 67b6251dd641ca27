"""Figures of evaluated checkpoints: the contracts under which they are measured, and their comparison.
The code here also reads the task files that users bring for lm-eval, without running a line of them.
The fields of a spec live in `spec/`, running lm-eval in `workers/harness/`."""
