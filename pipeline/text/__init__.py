"""Text sources become documents, documents become tokens: samples, training sequences, windows of a
perplexity. Everything streams in bounded memory and is the same for the same bytes. Where files lie is the
business of `sources/`, what a spec asks for that of `spec/`."""
