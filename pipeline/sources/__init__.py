"""The sources of models and texts: parsed, pinned, and read against their pins.
Each scheme (`file:`, `s3:`, `hub:`) is one file behind the interface in `access.py`. What the bytes mean is
decided in `checkpoint/` and `text/`."""

from pipeline.sources.access import Source, SourceAccess, open_source

__all__ = ["Source", "SourceAccess", "open_source"]
