"""Figures of a run, as PNG files."""

from math import prod
from pathlib import Path

import numpy as np

from jaxae.data import Dataset, spread
from jaxae.measure import mixture
from jaxae.report.figures.base import COLOURS as COLOURS
from jaxae.report.figures.base import displayed
from jaxae.report.figures.images import curves, extremes, reconstructions, strip, strip_path, training
from jaxae.report.figures.metrics import loss
from jaxae.report.figures.plane import activity, codes, codes_of, latent, tsne
from jaxae.report.figures.table import column_errors
from jaxae.report.figures.walks import interpolation, manifold, samples, traversal
from jaxae.training import records
from jaxae.training.trained import Trained

__all__ = [
    "activity",
    "codes",
    "codes_of",
    "column_errors",
    "curves",
    "draw",
    "extremes",
    "interpolation",
    "latent",
    "loss",
    "manifold",
    "reconstructions",
    "samples",
    "strip",
    "strip_path",
    "training",
    "traversal",
    "tsne",
]


COMPONENTS = 20  # components of the Gaussian mixture that serves as prior for models without one


def draw(folder: Path, model: Trained, data: Dataset, lines: list[records.Record], title: str) -> list[Path]:
    """Write all figures that apply to the model into `folder`, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    from matplotlib.text import Text

    tables = {"columns": column_errors(model, data, title)} if data.kind in ("table", "counts") else {}
    model, data = displayed(model, data)
    sequences = data.kind == "series"
    figures = {
        "loss": loss(lines, model.experiment.unit, title),
        "reconstructions": (curves if sequences else reconstructions)(model, data, title),
    }
    if len(data.test.x) > 10:
        figures["extremes"] = extremes(model, data, title)
    if strips := sorted((folder / "training").glob("*.png")):
        figures["training"] = training(strips, data, title)
    if len(model.code) == 3:
        figures["codes"] = codes(model, data, title)
    z, y = codes_of(model, data, 10_000)
    figures["activity"] = activity(z, title)
    if np.ptp(z, axis=0).any():
        if prod(model.code) > 1:
            figures["latent"] = latent(z, y, data.classes, title)
        if prod(model.code) > 2 and len(data.test.x) > 100:
            figures["tsne"] = tsne(model, data, title)
    figures["interpolation"] = interpolation(model, data, title)
    figures["traversal"] = traversal(model, data, title)
    if model.experiment.prior:
        figures["samples"] = samples(model, title)
    elif not sequences and len(data.train.x) > 10 * COMPONENTS and np.ptp(z, axis=0).any():
        train_codes = np.asarray(model.encode(data.train.x[spread(len(data.train.x), 10_000)]))
        figures["mixture"] = samples(model, title, mixture.fit(train_codes, COMPONENTS))
    if model.experiment.prior and model.code == (2,):
        figures["manifold"] = manifold(model, title)
    figures |= tables
    paths = [folder / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        for text in figure.findobj(Text):
            text.set_parse_math(False)  # a class may be called $a^$
        figure.savefig(path, dpi=130, metadata={"Software": None})
    return paths
