"""`report.html`: one file that opens from disk and asks nothing of the network."""

import base64
import html
import json
from pathlib import Path
from typing import Any

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #222 }}
img {{ max-width: 100%; height: auto; display: block; margin: 1.5rem auto }}
table {{ border-collapse: collapse; margin: 1rem 0 }}
td, th {{ border-bottom: 1px solid #ddd; padding: .25rem 1rem .25rem 0; text-align: left; vertical-align: top }}
code {{ overflow-wrap: anywhere }}
</style>
</head>
<body>
<h1>{title}</h1>
<h2>Result</h2>
{result}
{figures}
<h2>What was run</h2>
{config}
</body>
</html>
"""


def write(workdir: Path, title: str, result: dict[str, Any], pictures: list[Path]) -> None:
    """Write `report.html` from a run's config.json, its result and its pictures. All text is escaped."""
    figures = "\n".join(f'<img alt="{html.escape(path.stem)}" src="{_embedded(path)}">' for path in pictures)
    config = json.loads((workdir / "config.json").read_text())
    page = PAGE.format(title=html.escape(title), result=_table(result), figures=figures, config=_table(config))
    (workdir / "report.html").write_text(page, encoding="utf-8")


def _embedded(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _table(values: dict[str, Any]) -> str:
    """A table of names and values, nested where the values are."""

    def cell(value: Any) -> str:
        if isinstance(value, dict):
            return _table(value)
        return f"<code>{html.escape(value if isinstance(value, str) else json.dumps(value))}</code>"

    rows = (f"<tr><th>{html.escape(str(name))}</th><td>{cell(value)}</td></tr>" for name, value in values.items())
    return f"<table>{''.join(rows)}</table>"
