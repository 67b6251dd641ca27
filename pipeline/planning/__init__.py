"""The model of time and memory: what a job will take, estimated from its spec, its resources and the sizes of
its model. Everything here is a pure function; nothing is loaded or measured."""
