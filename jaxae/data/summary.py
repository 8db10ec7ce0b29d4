"""What was read, in one line."""

import numpy as np

from jaxae.data.dataset import Dataset


def summary(data: Dataset) -> str:
    """Counts of the splits, shape, classes, scaling, missing entries, and what was changed or left out."""
    size = "x".join(map(str, data.shape))
    what = {
        "image": f"images of {size}",
        "table": f"rows of {size} columns",
        "counts": f"rows of {size} counts",
        "series": f"series of {'up to ' * (data.train.lengths is not None)}{size}",
    }[data.kind]
    counts = [f"{len(data.train.x):,} training", f"{len(data.test.x):,} test"]
    if data.valid is not None:
        counts.insert(1, f"{len(data.valid.x):,} validation")
    splits = f"{', '.join(counts[:-1])} and {counts[-1]} {what}"
    count = len(data.classes)
    parts = [splits, f"{count} class{'es' * (count > 1)}"] if count else [splits]
    if data.train.x.dtype == np.uint8:
        parts.append(f"bytes from {data.train.x.min()} to {data.train.x.max()}")
    elif data.scale is not None:
        parts.append("standardized" if data.real else "scaled to [0, 1]")
    if data.total is not None:
        parts.append(f"mean total {data.total:,.4g}")
    if data.train.observed is not None:
        missing = sum(int(np.sum(split.observed == 0)) for split in data.splits if split.observed is not None)
        parts.append(f"{missing:,} missing entr{'y' if missing == 1 else 'ies'}")
    return ", ".join([*parts, *data.notes])
