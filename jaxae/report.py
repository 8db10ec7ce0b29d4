"""`report.html`: one file that opens from disk and asks nothing of the network."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from jaxae import log
from jaxae.data import Dataset
from jaxae.experiment import Model, layers
from jaxae.figures.base import COLOURS, address
from jaxae.figures.metrics import order, units
from jaxae.wall import wall

PAGE = Path(__file__).parent / "page"
# The order of the pictures on the page; others come last.
FIRST = ("reconstructions", "extremes", "codes", "manifold", "samples", "latent", "tsne", "interpolation", "traversal")


def write(workdir: Path, title: str, model: Model, data: Dataset, result: dict[str, Any]) -> None:
    """Write `report.html` from what a run directory holds, its model and its data."""
    saved = json.loads((workdir / "config.json").read_text())
    lines = log.read(workdir / "metrics.jsonl")
    shape = "x".join(map(str, saved["data"]["shape"]))
    about = (
        f"{saved['experiment']}, {saved['config']['epochs']} epochs, {result['wall_seconds']:,.0f} s on "
        f"{saved['device']['count']} x {saved['device']['kind']}; {saved['data']['train']:,} training and "
        f"{saved['data']['test']:,} test examples of {shape}"
    )
    if saved["config"]["seeds"] > 1:
        about += f"; {saved['config']['seeds']} seeds, of which the pictures show the first"
    found = {path.stem: path for path in sorted((workdir / "figures").glob("*.png"))}
    names = [*(name for name in FIRST if name in found), *(name for name in found if name not in FIRST)]
    page = render(
        "report.html",
        title=title,
        about=about,
        cards=_cards(result, model.experiment.unit),
        result=result,
        run=saved,
        pictures=[(name, _embedded(found[name])) for name in names],
        layers=layers(model.experiment.model, model.shape),
        data={"charts": charts({"": (lines, model.experiment.unit)}), "wall": wall(model, data), "colours": COLOURS},
    )
    partial = workdir / "report.html.tmp"
    partial.write_text(page, encoding="utf-8")
    partial.replace(workdir / "report.html")


def render(template: str, **values: Any) -> str:
    """A page. All text is escaped; only the styles and scripts of `page/` may run: its policy holds their hashes."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["json"] = json.dumps
    style = (PAGE / "style.css").read_text()
    script = "".join((PAGE / f"{name}.js").read_text() for name in ("charts", "wall", "main"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    ours = {"policy": policy, "style": Markup(style), "script": Markup(script)}
    return environment.get_template(template).render(**ours, **values)


def charts(runs: dict[str, tuple[list[log.Record], str]]) -> list[dict[str, Any]]:
    """Curves of every metric, as JSON values. runs: label -> lines and the unit of the loss.

    One run has a curve for each split; several have a colour each, and their training is dashed.
    """
    found = []
    for name in order([line for lines, _ in runs.values() for line in lines]):
        series = []
        for number, (label, (lines, _)) in enumerate(runs.items()):
            for k, split in enumerate(("train", "test")):
                part = [line for line in lines if line["split"] == split and name in line]
                if part:
                    std = [line[f"{name}_std"] for line in part] if f"{name}_std" in part[0] else None
                    series.append(
                        {
                            "label": f"{label} {split}".strip(),
                            "colour": number if len(runs) > 1 else k,
                            "dashed": split == "train",
                            "epochs": [line["epoch"] for line in part],
                            "mean": [log.scalar(line, name) for line in part],
                            "std": std,
                        }
                    )
        unit = " or ".join(dict.fromkeys(units(loss).get(name, "nats per image") for _, loss in runs.values()))
        found.append({"title": name, "unit": unit, "series": series})
    return found


def figure(metrics: dict[str, Any], name: str) -> str:
    """A metric with four digits, and its deviation over seeds where there are several."""
    spread = f" ± {metrics[f'{name}_std']:.2g}" if f"{name}_std" in metrics else ""
    return f"{log.scalar(metrics, name):.4g}{spread}"


def bound(value: float | list[float]) -> str:
    """An expected figure: at most, or a range."""
    return f"{value[0]:g} to {value[1]:g}" if isinstance(value, list | tuple) else f"≤ {value:g}"


def _cards(result: dict[str, Any], unit: str) -> list[dict[str, str]]:
    of = units(unit)
    return [
        {
            "name": f"test {name}",
            "value": figure(result["metrics"], name),
            "unit": of.get(name, "nats per image"),
            "expected": bound(result["expected"][name]) if name in result["expected"] else "",
        }
        for name in order([result["metrics"]])
    ]


def _embedded(path: Path) -> str:
    """A picture as a data address, in at most 128 colours: a third of the bytes."""
    from PIL import Image

    with Image.open(path) as image:
        return address(image.convert("RGB").quantize(128))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
