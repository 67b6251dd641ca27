"""What a job does: `plan.py` makes the DAG of a spec, `stages/` says what each kind of work takes and
makes. Stage keys are computed here, and which nodes may start next. Nothing here does the work: stages run
in `workers/stages/`."""
