"""The front of sparse autoencoders: explained variance against the number of active latents."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxae.report.figures.base import COLOURS, canvas
from jaxae.training import records

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURE = "dictionary"  # in result.json
COLUMNS = ("l0", "explained_variance", "fvu", "dead", "mcc", "uniqueness", "f1")  # the last three: known dictionary


def measured(results: Sequence[Mapping[str, Any] | None]) -> list[dict[str, Any]]:
    """The metrics of `COLUMNS` that each of these results has; empty for a run without them."""
    found = [(result or {}).get(MEASURE, {}) for result in results]
    return [{name: part[name] for name in COLUMNS if name in part} for part in found]


def front(curves: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> "Figure":
    """A curve through the runs of each architecture in order of L0, with bars of one standard deviation over seeds.

    curves: label -> metrics of runs (see `measured`).
    """
    figure = canvas(title, 6.4, 4.4)
    axis = figure.subplots()
    for i, (label, runs) in enumerate(curves.items()):
        points = sorted((run for run in runs if run), key=lambda run: records.mean(run["l0"]))
        x, y = ([run[name] for run in points] for name in ("l0", "explained_variance"))
        axis.errorbar(
            [records.mean(value) for value in x],
            [records.mean(value) for value in y],
            [records.std(value) or 0 for value in y],
            [records.std(value) or 0 for value in x],
            color=COLOURS[i % len(COLOURS)],
            marker="o",
            capsize=3,
            label=label,
        )
    axis.set(xlabel="active latents (L0)", ylabel="explained variance")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure
