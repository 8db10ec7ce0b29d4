"""Sample quality: the feature distribution of generated images compared with that of real ones.

Features are activations of a network (see `classifier.features`); unlike pixels, they do not depend on the alignment of
images. All metrics depend on the number of images; compare only values for the same number.
"""

from typing import Any

import numpy as np
from jaxtyping import Num

from jaxae.errors import InputError

CHUNK = 1000  # rows of the distance matrix in memory at a time


def frechet(a: Num[Any, "N F"], b: Num[Any, "M F"]) -> float:
    """Squared Frechet distance of the normal distributions fitted to two sets of features; 0 for equal moments.

        |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))

    Heusel, Ramsauer, Unterthiner, Nessler & Hochreiter 2017, equation 6; Dowson & Landau 1982. With factors
    C = R' R the trace of the root is the sum of the singular values of R_a R_b'; no matrix square root is needed, and
    singular covariances need no special case. The estimate is biased upwards for small sets.
    InputError for a set of fewer than 2 examples.
    """
    (mean_a, root_a), (mean_b, root_b) = _moments(a), _moments(b)
    shared = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    spread = np.sum(root_a**2) + np.sum(root_b**2) - 2 * shared
    return float(np.sum((mean_a - mean_b) ** 2) + max(spread, 0.0))  # rounding may take it below 0


def precision_recall(real: Num[Any, "N F"], made: Num[Any, "M F"], k: int = 3) -> tuple[float, float]:
    """Precision and recall of generated images: (precision, recall), both 1 for identical sets.

    The manifold of a set is the union of balls around its features, with the distance to the k-th nearest other feature
    as radius; precision is the fraction of generated features in the real manifold, recall that of real features in the
    generated one (Kynkaanniemi, Karras, Laine, Lehtinen & Aila 2019, equations 1 and 2). InputError for a set of k
    examples or fewer.
    """
    from scipy.spatial.distance import cdist

    real, made = np.asarray(real, np.float64), np.asarray(made, np.float64)
    of_real, of_made = _radii(real, k), _radii(made, k)
    precise, recalled = 0, np.zeros(len(real), bool)
    for i in range(0, len(made), CHUNK):
        distances = cdist(made[i : i + CHUNK], real)
        precise += int(np.sum(np.any(distances <= of_real[None], axis=1)))
        recalled |= np.any(distances <= of_made[i : i + CHUNK, None], axis=0)
    return precise / len(made), float(recalled.mean())


def _moments(features: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean [F] and a factor R [min(N, F), F] of the unbiased covariance R' R."""
    features = np.asarray(features, np.float64)
    if len(features) < 2:
        raise InputError(f"{len(features)} example has no covariance; use at least 2")
    mean = features.mean(0)
    factor: Any = np.linalg.qr((features - mean[None]) / np.sqrt(len(features) - 1), mode="r")
    return mean, factor


def _radii(features: np.ndarray, k: int) -> np.ndarray:
    """Distance from each of the features [N, F] to the k-th nearest of the others [N]."""
    from scipy.spatial.distance import cdist

    if len(features) <= k:
        raise InputError(f"{len(features)} examples have no {k} neighbours each; use at least {k + 1}")
    chunks = (features[i : i + CHUNK] for i in range(0, len(features), CHUNK))
    return np.concatenate([np.partition(cdist(chunk, features), k)[:, k] for chunk in chunks])  # 0: the example itself
