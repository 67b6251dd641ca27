"""The stages of a job: `plan.py` makes the DAG of a spec, and `stages/` defines the inputs and outputs of
each kind of work. The code here also computes stage keys and finds the nodes that may start next. It does no
work itself: stages run in `workers/stages/`."""
