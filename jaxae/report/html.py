"""`report.html`: a self-contained file that needs no network."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxae.core.experiment import reached
from jaxae.data import Dataset, words
from jaxae.data.activations import Activations
from jaxae.report.features import features
from jaxae.report.figures.base import COLOURS, data_url
from jaxae.report.figures.metrics import metric_names, series, unit_of
from jaxae.report.wall import wall
from jaxae.training import records
from jaxae.training.layers import layers
from jaxae.training.trained import Trained

PAGE = Path(__file__).parent / "page"
BUDGET = 1_400_000  # bytes for the pictures, of a report of at most 3 MB
# Captions of the figures, in the order of the report; others come last.
ALT = {
    "reconstructions": "Test examples and their reconstructions",
    "pairs": "Pair plot of columns: test rows and their reconstructions",
    "columns": "Reconstruction error of each column of the table",
    "worst": "Test rows with the largest reconstruction errors, and the columns that cause them",
    "imputed": "Observed and imputed entries of test examples",
    "scores": "Test rows with the highest anomaly scores, with p-values, and the columns with the largest errors",
    "spectrograms": "Spectrograms of test recordings and their reconstructions",
    "extremes": "Test examples with the smallest and the largest reconstruction errors",
    "codes": "Latent codes as images",
    "manifold": "Decoded grid of the 2-D latent space",
    "samples": "Samples from the prior",
    "mixture": "Samples from a Gaussian mixture fitted to the latent codes",
    "latent": "Latent codes of test examples in two dimensions, coloured by class",
    "tsne": "t-SNE of the latent codes of test examples, coloured by class",
    "integration": "Latent codes of test examples in two dimensions, coloured by class and by batch",
    "counterfactuals": "Codes of test examples decoded under other conditions",
    "interpolation": "Latent interpolation between pairs of test examples",
    "traversal": "Latent traversal, one dimension per row",
    "activity": "Distribution of latent values, and standard deviation of each latent dimension",
    "training": "Reconstructions during training",
    "firing": "Firing frequency of the latents",
    "active": "Number of latents that fire in an example",
    "loss": "Metrics over epochs",
}


def write(
    file: Path,
    title: str,
    model: Trained,
    data: Dataset,
    *,
    saved: dict[str, Any],
    lines: list[records.Record],
    result: dict[str, Any],
    pictures: Sequence[Path],
    sounds: Sequence[Path] = (),
    text: Activations | None = None,
) -> None:
    """Write the HTML report of a run.

    saved, lines, result: config.json, metrics.jsonl and result.json. pictures: PNG files. sounds: WAV files, see
    `sound.write`. text: the language model activations from which the data were read.
    """
    shape = "x".join(map(str, saved["data"]["shape"]))
    about = (
        f"{saved['experiment']}, {saved['config']['epochs']} epochs, {result['wall_seconds']:,.0f} s on "
        f"{saved['device']['count']} x {saved['device']['kind']}; {saved['data']['train']:,} training and "
        f"{saved['data']['test']:,} test {words(data.kind).examples} of {shape}"
    )
    if saved["config"]["seeds"] > 1:
        about += f"; {saved['config']['seeds']} seeds, of which the pictures show the first"
    found = {path.stem: path for path in pictures}
    names = [*(name for name in ALT if name in found), *(name for name in found if name not in ALT)]
    latents = features(model, data, text)
    page = render(
        "report.html",
        title=title,
        about=about,
        example=words(data.kind).example,
        cards=_cards(result, model.experiment.unit, data.kind),
        result=flat(
            {name.replace("images_per", f"{words(data.kind).examples}_per"): value for name, value in result.items()}
        ),
        command=saved["command"],
        run=flat({**saved, "command": ""}),
        pictures=[
            (ALT.get(name, name), picture)
            for name, picture in zip(names, _embedded([found[n] for n in names]), strict=True)
        ],
        sounds=[(path.stem, _base64("audio/wav", path.read_bytes())) for path in sounds],
        features=latents,
        layers=layers(model.experiment.model, model.shape, model.condition),
        data={
            "charts": charts({"": (lines, model.experiment.unit)}, data.kind),
            "wall": None if latents else wall(model, data),  # two dimensions of sparse codes show nothing
            "colours": COLOURS,
        },
    )
    records.write(file, page)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested values into one table: `config.lr` -> "0.001". Empty values are omitted."""
    rows: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            rows |= flat(value, f"{prefix}{name}.")
        elif value not in ("", None, []):
            items = value if isinstance(value, list) else [value]
            rows[prefix + name] = ", ".join(f"{x:.6g}" if isinstance(x, float) else str(x) for x in items)
    return rows


def render(template: str, **values: Any) -> str:
    """Render a template.

    All text is escaped; the content security policy allows only the styles and scripts of `page/`, by hash.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    style = (PAGE / "style.css").read_text()
    script = "".join((PAGE / f"{name}.js").read_text() for name in ("charts", "wall", "main"))
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    ours = {"policy": policy, "style": Markup(style), "script": Markup(script)}  # noqa: S704 (files of this package)
    return environment.get_template(template).render(**ours, **values)


def charts(runs: dict[str, tuple[list[records.Record], str]], kind: str) -> list[dict[str, Any]]:
    """Curves of every metric, as JSON values. runs: label -> lines and the unit of the loss. kind: kind of the data.

    A single run has a colour for each split; several runs have a colour each, with dashed training curves.
    """
    found = []
    for name in metric_names([line for lines, _ in runs.values() for line in lines]):
        curves = []
        for number, (label, (lines, _)) in enumerate(runs.items()):
            for k, split in enumerate(records.SPLITS):
                epochs, mean, std = series(lines, name, split)
                if epochs:
                    curves.append(
                        {
                            "label": f"{label} {split}".strip(),
                            "colour": number if len(runs) > 1 else k,
                            "dashed": split == "train",
                            "epochs": epochs,
                            "mean": mean,
                            "std": std,
                        }
                    )
        unit = " or ".join(dict.fromkeys(unit_of(name, loss, kind) for _, loss in runs.values()))
        found.append({"title": name, "unit": unit, "series": curves})
    return found


def figure(value: Any) -> str:
    """A metric as text, with its standard deviation over several seeds."""
    std = records.std(value)
    return f"{records.mean(value):.4g}" + ("" if std is None else f" ± {std:.2g}")


def bound(value: float | list[float]) -> str:
    """An expected result as text: an upper bound or a range."""
    return f"{value[0]:g} to {value[1]:g}" if isinstance(value, list | tuple) else f"≤ {value:g}"


def _cards(result: dict[str, Any], unit: str, kind: str) -> list[dict[str, Any]]:
    return [
        {
            "name": f"test {name}",
            "value": figure(result["metrics"][name]),
            "unit": unit_of(name, unit, kind),
            "expected": bound(result["expected"][name]) if name in result["expected"] else "",
            "reached": name in result["expected"]
            and reached(records.mean(result["metrics"][name]), result["expected"][name]),
        }
        for name in metric_names([result["metrics"]])
    ]


def _embedded(paths: list[Path]) -> list[str]:
    """Pictures as data URLs, in 128 colours (a third of the bytes), scaled down to fit `BUDGET`."""
    from PIL import Image

    for width in (2000, 900, 600, 400):
        pictures = []
        for path in paths:
            with Image.open(path) as image:
                image.thumbnail((width, 4 * width))
                pictures.append(data_url(image.convert("RGB").quantize(128)))
        if sum(map(len, pictures)) < BUDGET:
            break
    return pictures


def _base64(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
