"""`python -m api.docs`: write what docs/ says of settings, spec and API. A test fails when it is stale."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import gettempdir

from pydantic.fields import FieldInfo

from api.app import create_app
from api.settings import PREFIX, ClientSettings, Settings
from pipeline.request.schema import request_schema

DOCS = Path(__file__).resolve().parent.parent / "docs"


def pages() -> dict[str, str]:
    """File name → content."""
    return {
        "settings.md": settings_page(),
        "prune-spec.schema.json": _pretty(request_schema()),
        "openapi.json": _pretty(create_app(_nowhere(), dispatch=False).openapi()),
    }


def settings_page() -> str:
    """A table of every setting."""
    return (
        "# Settings\n\nEnvironment variables of the API, from `api/settings.py` by `python -m api.docs`.\n"
        "Drivers on a cluster get the ones about storage and sources from the API, but for keys and tokens:\n"
        "these come from the cluster's own environment.\n\n"
        f"{_table(Settings.model_fields)}\n"
        f"The CLI reads these:\n\n{_table(ClientSettings.model_fields)}"
    )


def _table(fields: Mapping[str, FieldInfo]) -> str:
    rows = [_row(name, info) for name, info in sorted(fields.items())]
    return "| variable | default | meaning |\n|---|---|---|\n" + "".join(rows)


def _row(name: str, info: FieldInfo) -> str:
    default = info.get_default()
    shown = (
        ""
        if default in (None, "", ())
        else f"`{str(default).lower() if default in (True, False) else default}`"
    )
    return f"| `{PREFIX}{name.upper()}` | {shown} | {info.description} |\n"


def _pretty(value: object) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _nowhere() -> Settings:
    """Settings of an API that is described and not run."""
    return Settings(state_dir=Path(gettempdir()) / "secateur-docs", ray_address="http://ray")


def main() -> None:
    """Write the pages; with `--check` only tell which are not what they would be, by exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m api.docs", description="Write docs/ from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where docs/ is stale")
    check = parser.parse_args().check
    DOCS.mkdir(exist_ok=True)
    stale = []
    for name, content in pages().items():
        path = DOCS / name
        if path.is_file() and path.read_text() == content:
            continue
        stale.append(name)
        if not check:
            path.write_text(content)
    if check and stale:
        sys.exit(f"stale in docs/: {', '.join(stale)}; run `make docs`")


if __name__ == "__main__":
    main()
