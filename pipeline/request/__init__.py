"""The body of `POST /jobs`: the prune spec, sweeps, resources and tracking, and checks across its fields.
The parts of a spec that need no knowledge of the others live in `spec/`.
Nothing here opens a source: what a checkpoint or a text holds is checked in `resolve/`."""
