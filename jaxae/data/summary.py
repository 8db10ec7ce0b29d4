"""One-line description of a data set."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from jaxae.data.covariates import categories
from jaxae.data.dataset import Dataset
from jaxae.data.draws import Draws
from jaxae.data.rows import chunks


class Words(NamedTuple):
    """The nouns for data of a kind."""

    example: str
    examples: str
    value: str  # one number of an example


def words(kind: str) -> Words:
    """The nouns for data of this kind; those of a table for a kind without its own."""
    nouns = {"image": Words("image", "images", "pixel"), "series": Words("series", "series", "value")}
    return nouns.get(kind, Words("row", "rows", "value"))


def worded(text: str, kind: str) -> str:
    """A text in which {example}, {examples} and {value} are replaced by the nouns for data of this kind."""
    for name, noun in words(kind)._asdict().items():
        text = text.replace(f"{{{name}}}", noun)
    return text


def summary(data: Dataset) -> str:
    """Counts of the splits, shape, classes, scaling, missing entries, and what was changed or left out."""
    size = "x".join(map(str, data.shape))
    different = data.splits[data.test is data.train :]
    what = f"{words(data.kind).examples} of {'up to ' * (data.train.lengths is not None)}{size}"
    if len(data.shape) == 1:
        what += " counts" if data.kind == "counts" else " columns"
    counts = [f"{len(data.train.x):,} training", f"{len(data.test.x):,} test"]
    if data.valid is not None:
        counts.insert(1, f"{len(data.valid.x):,} validation")
    splits = f"{', '.join(counts[:-1])} and {counts[-1]} {what}"
    count = len(data.classes)
    parts = [splits]
    if count:
        without = sum(int(np.sum(split.y < 0)) for split in different)
        examples = f" ({without:,} examples without a class)" if without else ""
        parts.append(f"{count} class{'es' * (count > 1)}{examples}")
    if data.covariates:
        names = categories(data.covariates)
        parts.append(f"{len(names)} covariate{'s' * (len(names) > 1)}")
    if data.train.x.dtype == np.uint8 and not isinstance(data.train.x, Draws):
        extremes = [(part.min(), part.max()) for part in chunks(data.shown.train.x)]
        parts.append(f"bytes from {min(low for low, _ in extremes)} to {max(high for _, high in extremes)}")
    elif data.scale is not None:
        parts.append("standardized" if data.real else "scaled to [0, 1]")
    if data.total is not None:
        parts.append(f"mean total {data.total:,.4g}")
    if data.train.observed is not None:
        masks = [split.observed for split in different if split.observed is not None]
        missing = sum(missing_cells(part == 0, data.features) for mask in masks for part in chunks(mask))
        parts.append(f"{missing:,} missing entr{'y' if missing == 1 else 'ies'}")
    return ", ".join([*parts, *data.notes])


def missing_cells(missing: Bool[np.ndarray, "N *D"], features: Sequence[str]) -> int:
    """Number of missing entries; the indicators of a column of strings, such as `colour=red`, count as one.

    features: names of the columns of a table; empty for other data.
    """
    firsts: dict[tuple[str, ...], int] = {}
    for place, name in enumerate(features):
        firsts.setdefault(name.partition("=")[:2], place)
    return int((missing[:, [*firsts.values()]] if features else missing).sum())
