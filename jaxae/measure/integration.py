"""Integration of batches: whether codes separate the types of cells but not their batches."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from jaxae.core.experiment import ConditionedData, MeasuredData, TrainedModel
from jaxae.data.covariates import categories
from jaxae.data.dataset import spread

NEIGHBOURS = 15
LIMIT = 5_000  # examples, since the silhouette compares all pairs


def measure(trained: TrainedModel, data: MeasuredData, latent: int) -> dict[str, float]:
    """`scores` of the codes of the test split, in their first `latent` dimensions, for its classes and its batches."""
    places = spread(len(data.test.x), LIMIT)
    codes = np.asarray(trained.encode(data.test))[places][:, :latent]
    batch = batches(data.test.context, data.covariates if isinstance(data, ConditionedData) else ())
    labels = {"type": data.test.y if len(data.classes) > 1 else None, "batch": batch}
    return {
        name: value
        for label, numbers in labels.items()
        if numbers is not None
        for name, value in scores(codes, numbers[places], label).items()
    }


def batches(context: Float[np.ndarray, "N C"] | None, covariates: Sequence[str]) -> Int[np.ndarray, " N"] | None:
    """The batch of every example: the category of the first covariate that has categories; None without one."""
    for name, words in categories(covariates).items():
        if words is not None and context is not None:
            first = [*covariates].index(f"{name}={words[0]}")
            return np.asarray(context)[:, first : first + len(words)].argmax(1)
    return None


def scores(codes: Float[np.ndarray, "N Z"], labels: Int[np.ndarray, " N"], name: str) -> dict[str, float]:
    """`silhouette_NAME` and `knn_NAME` of codes; labels: -1 for an example without one, which is left out.

    The silhouette (Rousseeuw 1987) is the mean over examples of (b - a) / max(a, b), a being the mean distance to the
    others of the same label, and b to those of the nearest other label: 1 if labels are separated, about 0 if they are
    mixed. knn: the fraction of examples whose label is the most frequent one among their 15 nearest neighbours; if
    labels are mixed, about the fraction of the most frequent label. Empty for fewer than two labels.
    """
    from sklearn.metrics import silhouette_score
    from sklearn.neighbors import NearestNeighbors

    codes, labels = codes[labels >= 0].astype(np.float64), labels[labels >= 0]
    known, labels = np.unique(labels, return_inverse=True)
    if not 2 <= len(known) < len(codes):
        return {}
    count = min(NEIGHBOURS, len(codes) - 1)
    nearest = NearestNeighbors(n_neighbors=count).fit(codes).kneighbors(return_distance=False)  # without itself
    votes = (labels[nearest][..., None] == np.arange(len(known))).sum(1)
    return {
        f"silhouette_{name}": float(silhouette_score(codes, labels)),
        f"knn_{name}": float(np.mean(votes.argmax(1) == labels)),
    }
