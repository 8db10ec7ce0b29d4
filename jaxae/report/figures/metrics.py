"""Metrics over epochs."""

from typing import TYPE_CHECKING

import numpy as np

from jaxae.data import worded
from jaxae.report.figures.base import COLOURS, canvas
from jaxae.training import records

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNITS = {
    "mse": "per {value}",
    "rmse": "per {value}",
    "bce": "nats per {value}",
    "code": "mean |z| over dimensions",
    "reconstruction": "nats per {example}",
    "kl": "nats per {example}",
}


def unit_of(name: str, loss: str, kind: str) -> str:
    """Unit of a metric for this kind of data; empty if unknown. loss: unit of the loss and its penalty."""
    return worded({**UNITS, "loss": loss, "penalty": loss}.get(name, ""), kind)


def metric_names(lines: list[records.Record]) -> list[str]:
    """Names of all metrics in these records, the loss first."""
    return sorted({name for line in lines for name in records.names(line)}, key=lambda name: (name != "loss", name))


def series(lines: list[records.Record], name: str, split: str) -> tuple[list[int], list[float], list[float] | None]:
    """Epochs, values of a metric of this split (means over seeds), and standard deviations for several seeds."""
    part = [line for line in lines if line["split"] == split and name in line]
    deviations = [std for line in part if (std := records.std(line[name])) is not None]
    return [line["epoch"] for line in part], [records.mean(line[name]) for line in part], deviations or None


def spans_decades(values: list[float]) -> bool:
    """Whether all values are positive and the largest is more than 1,000 times the smallest."""
    return bool(values and min(values) > 0 and max(values) > 1000 * min(values))


def loss(lines: list[records.Record], unit: str, title: str, kind: str) -> "Figure":
    """Every metric over epochs, for every split; with several seeds the mean and a band of one standard deviation.

    unit: unit of the loss and its penalty. kind: kind of the data.
    """
    names = metric_names(lines)
    columns, rows = min(len(names), 3), -(-len(names) // 3)
    figure = canvas(f"{title}: metrics over epochs", 3.6 * columns, 0.4 + 2.8 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    for axis, name in zip(axes, names, strict=False):
        for colour, split in zip(COLOURS, records.SPLITS, strict=False):
            epochs, values, std = series(lines, name, split)
            if not epochs:
                continue  # measured in training only
            axis.plot(epochs, values, color=colour, label=split, marker="." if len(epochs) < 20 else None)
            if std:
                mean, band = np.array(values), np.array(std)
                axis.fill_between(epochs, mean - band, mean + band, color=colour, alpha=0.25, linewidth=0)
        axis.set(title=name, xlabel="epoch", ylabel=unit_of(name, unit, kind))
        if spans_decades([value for line in axis.lines for value in line.get_ydata()]):
            axis.set_yscale("log")  # a loss that grew large for some epochs hides the others on a linear axis
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].legend()
    return figure
