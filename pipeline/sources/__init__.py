"""The sources of models and texts: parsed, pinned, and read against their pins."""

from pipeline.sources.access import Source, SourceAccess, open_source

__all__ = ["Source", "SourceAccess", "open_source"]
