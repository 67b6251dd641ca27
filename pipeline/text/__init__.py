"""Text sources become documents, documents become tokens: samples, training sequences, windows of a
perplexity. Everything streams in bounded memory, and equal bytes give equal results. The location of files is
the concern of `sources/`, the requests of a spec that of `spec/`."""
