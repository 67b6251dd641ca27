"""An HTTP server that answers as OpenAI's API does, with one model in one process, for trying it out."""
