"""`python -m api.docs` writes docs/ on settings, spec, API and model types, and the schema of the chart's
values.

A test fails when a page is stale.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from tempfile import gettempdir

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from api.app import create_app
from api.model_types import models_page
from api.settings import ClientSettings, Settings, variables
from pipeline.request.schema import request_schema
from pipeline.storage.settings import PREFIX

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "deploy" / "helm"


def pages() -> dict[str, str]:
    """Maps the path of each page in the repository to its content."""
    return {
        "docs/settings.md": settings_page(),
        "docs/models.md": models_page((ROOT / "docs/models.md").read_text()),
        "docs/prune-spec.schema.json": _pretty(request_schema()),
        "docs/openapi.json": _pretty(create_app(_nowhere(), dispatch=False).openapi()),
        "deploy/helm/values.schema.json": values_schema(),
    }


def settings_page() -> str:
    """A table of every setting."""
    return (
        "# Settings\n\nEnvironment variables of the API, written by `python -m api.docs`.\n"
        "Drivers on a cluster get those of storage and sources from the API, except for keys and tokens,\n"
        "which come from the cluster's own environment.\n\n"
        f"{_table(Settings)}\n"
        f"The CLI reads these:\n\n{_table(ClientSettings)}"
    )


def values_schema() -> str:
    """The schema of the chart's values. Its `settings.extra` allows the settings that no template names.

    Secrets are left out, because they need a template with a reference to a Kubernetes secret.
    """
    schema = json.loads((CHART / "values.schema.json").read_text())
    templates = "".join(path.read_text() for path in (CHART / "templates").glob("*.*"))
    named = set(re.findall(rf"{PREFIX}\w+", templates))
    extra = [
        variable
        for variable, (_, field) in variables(Settings).items()
        if variable not in named and "Secret" not in str(field.annotation)
    ]
    settings = schema["properties"]["settings"]["properties"]
    settings["extra"]["properties"] = {name: {"$ref": "#/definitions/plain"} for name in sorted(extra)}
    return json.dumps(schema, indent=2) + "\n"


def _table(model: type[BaseModel]) -> str:
    rows = [_row(variable, field) for variable, (_, field) in sorted(variables(model).items())]
    return "| variable | default | meaning |\n|---|---|---|\n" + "".join(rows)


def _row(variable: str, info: FieldInfo) -> str:
    default = info.get_default()
    shown = (
        ""
        if default in (None, "", ())
        else f"`{str(default).lower() if default in (True, False) else default}`"
    )
    return f"| `{variable}` | {shown} | {info.description} |\n"


def _pretty(value: object) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _nowhere() -> Settings:
    """The settings of an API that is described and not run."""
    return Settings(state_dir=Path(gettempdir()) / "secateur-docs", ray_address="http://ray")


def main() -> None:
    """Write the pages; with `--check`, write nothing, name the stale ones and exit with 1."""
    parser = argparse.ArgumentParser(prog="python -m api.docs", description="Write docs/ from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where docs/ is stale")
    check = parser.parse_args().check
    stale = []
    for name, content in pages().items():
        path = ROOT / name
        if path.is_file() and path.read_text() == content:
            continue
        stale.append(name)
        if not check:
            path.write_text(content)
    if check and stale:
        sys.exit(f"stale: {', '.join(stale)}; run `make docs`")


if __name__ == "__main__":
    main()
