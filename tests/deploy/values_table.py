"""`python -m tests.deploy.values_table` writes the table of values in deploy/helm/README.md."""

import json
from collections.abc import Iterator
from typing import Any

import yaml

from tests.deploy.charts import CHART, Object, schema

README = CHART / "README.md"
BEGIN, END = "<!-- values: python -m tests.deploy.values_table -->\n", "<!-- /values -->"


def table() -> str:
    """A row for every value: where it is, what it is when nothing is said, what it means."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    rows = [f"| `{path}` | {_shown(default)} | {said} |\n" for path, default, said in _rows(values, schema())]
    return "| value | default | meaning |\n|---|---|---|\n" + "".join(rows)


def with_table(readme: str) -> str:
    """The README with the table that belongs there."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    assert after, "README.md has lost the marks of its table"
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def _rows(values: Object, node: Object, path: str = "") -> Iterator[tuple[str, Any, str]]:
    """The schema describes what is one value; what it does not describe is only a place."""
    for name, value in values.items():
        below = node.get("properties", {}).get(name) or next(iter(node["patternProperties"].values()))
        if "description" in below:
            yield (
                path + name,
                {} if "patternProperties" in below else value,
                below["description"].replace("|", "\\|"),
            )
        if "description" not in below or "patternProperties" in below:
            yield from _rows(value, _resolved(below), f"{path}{name}.")


def _resolved(node: Object) -> Object:
    if "$ref" not in node:
        return node
    found: Object = schema()["definitions"][node["$ref"].removeprefix("#/definitions/")]
    return found


def _shown(default: Any) -> str:
    return f"`{json.dumps(default)}`" if default not in ("", [], {}) else ""


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
