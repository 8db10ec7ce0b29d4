"""Anomaly scores: p-values, ensembles of seeds, scores of the points of a stream, and the recall of events.

Larger scores are more anomalous.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Shaped

How = Literal["mean", "median"]
Scores = Float[np.ndarray, "*S N"]


def p_values(scores: Scores, reference: Float[np.ndarray, "*S M"]) -> Float[np.ndarray, "*S N"]:
    """Conformal p-values (1 + #{reference scores >= s}) / (M + 1), float64 (Vovk, Gammerman & Shafer 2005; Bates et
    al. 2023), one row per seed.

    For scores of held-out examples as reference, P(p <= a) <= a holds for a new example from their distribution. Scores
    of the training examples, which the model has fitted, make p-values too small. ValueError for an empty reference.
    """
    count = reference.shape[-1]
    if not count:
        raise ValueError("reference has no scores; pass those of at least one held-out example per seed")
    rows, known = scores.reshape(-1, scores.shape[-1]), np.sort(reference.reshape(-1, count), axis=-1)
    above = [count - np.searchsorted(there, row, side="left") for row, there in zip(rows, known, strict=True)]
    return (1 + np.stack(above).reshape(scores.shape)) / (count + 1)


def ensemble(
    scores: Float[np.ndarray, "S N"], reference: Float[np.ndarray, "S M"] | None = None, how: How = "mean"
) -> Float[np.ndarray, " N"]:
    """One score for all seeds: the mean or median of standardized scores, float64.

    The scores of each seed are standardized by mean and standard deviation of its reference scores (default: the scores
    themselves); the median is that of Chen, Sathe, Aggarwal & Turaga 2017, section 3.3. If the reference scores of a
    seed are all equal, its scores are only centred.
    """
    known = (scores if reference is None else reference).astype(np.float64)
    scale = known.std(axis=1, keepdims=True)
    standard = (scores - known.mean(axis=1, keepdims=True)) / np.where(scale > 0, scale, 1)
    return np.asarray(standard.mean(axis=0) if how == "mean" else np.median(standard, axis=0))


def point_scores(
    scores: Float[np.ndarray, " W"], starts: Int[np.ndarray, " W"], length: int, steps: int
) -> Float[np.ndarray, " T"]:
    """The score of every point of a stream of T = `steps` points: the mean over the windows that hold it.

    starts: first point of each window of `length` points. ValueError for a point in no window.
    """
    places = starts[:, None] + np.arange(length)[None]
    count = np.bincount(places.ravel(), minlength=steps)
    if len(count) > steps or not count.all():
        raise ValueError(f"windows of {length} points do not cover exactly the {steps} points of the stream")
    return np.asarray(np.bincount(places.ravel(), np.repeat(scores, length).astype(np.float64)) / count)


def window_starts(steps: int, length: int, hop: int = 1) -> Int[np.ndarray, " W"]:
    """First points of windows of a stream: every `hop` points; the last window ends with the stream.

    ValueError for a stream shorter than a window.
    """
    if steps < length:
        raise ValueError(f"a stream of {steps} points has no window of {length}; use windows of at most {steps}")
    last = steps - length
    return np.unique(np.append(np.arange(0, last + 1, hop), last))


def event_recall(
    scores: Float[np.ndarray, " T"],
    anomalous: Shaped[np.ndarray, " T"],
    false_alarms: float = 1e-3,
) -> float:
    """Fraction of events with at least one alarm, at `false_alarms` alarms per normal point.

    An event is a run of anomalous points; an alarm is a score above the smallest threshold with at most that many
    alarms at normal points. ValueError without an event or without a normal point.
    """
    inside = np.asarray(anomalous, bool)
    if inside.all() or not inside.any():
        raise ValueError("anomalous marks no point, or every point; pass a mask of events and normal points")
    normal = np.sort(scores[~inside])[::-1]
    threshold = normal[min(int(false_alarms * len(normal)), len(normal) - 1)]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], inside.astype(int), [0]])))
    return float(np.mean([(scores[first:end] > threshold).any() for first, end in edges.reshape(-1, 2)]))
