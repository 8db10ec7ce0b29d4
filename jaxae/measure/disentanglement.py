"""Disentanglement metrics for data with known factors of variation.

codes [N, Z] are real, factors [N, F] integers; `categorical` lists the columns of unordered factors. Every score is at
most 1; an uninformative code scores 0 (1 / F, chance level, in `factor_score`). All raise InputError for non-finite
codes and for a factor with a single value. `active` and `factor_score` depend on the scale of the codes: their unit is
the standard deviation of the prior, 1 for N(0, I).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxae.errors import InputError

BINS = 20  # of equal width, from minimum to maximum of a code (Locatello et al. 2019)
TREES = 40  # per forest
ACTIVE = 0.05  # least standard deviation of an active latent dimension (disentanglement_lib, Locatello et al. 2019)


class DCI(NamedTuple):
    """DCI scores (Eastwood & Williams 2018), each in [0, 1]."""

    disentanglement: float  # each latent dimension predicts one factor
    completeness: float  # each factor is predicted by one latent dimension
    informativeness: float  # relative reduction of the prediction error over a constant predictor


def measure(
    codes: Float[np.ndarray, "N Z"], factors: Int[np.ndarray, "N F"], seed: int = 0, categorical: tuple[int, ...] = (0,)
) -> dict[str, float]:
    """All scores, and `active_dimensions`, the number of latent dimensions in `factor_vae_score`.

    Takes 5 to 10 s for 10,000 examples, 10 latent dimensions and 5 factors, 30 s for 100 dimensions.
    """
    parts = dci(codes, factors, seed, categorical)
    return {
        "mig": mig(codes, factors),
        "sap": sap(codes, factors, categorical),
        "factor_vae_score": factor_score(codes, factors, seed),
        "active_dimensions": float(active(codes).sum()),
        **{f"dci_{name}": value for name, value in parts._asdict().items()},
    }


def mig(codes: Float[np.ndarray, "N Z"], factors: Int[np.ndarray, "N F"]) -> float:
    """Mutual information gap (Chen, Li, Grosse & Duvenaud 2018, equation 6): the mean over factors v of

        (I(z_1; v) - I(z_2; v)) / H(v),

    z_1 and z_2 the latent dimensions with the largest mutual information with v. Codes are discretized into `BINS`
    bins, so I(z; v) <= log(BINS) nats, and the maximum is below 1 for a factor with more values (sprites: about 0.9).
    """
    from sklearn.metrics import mutual_info_score

    codes, factors = _checked(codes, factors)
    low, high = codes.min(0), codes.max(0)
    places = (codes - low[None]) / np.where(high > low, high - low, 1)[None]
    binned = np.minimum(places * BINS, BINS - 1).astype(int)
    information = np.array([[mutual_info_score(v, z) for v in factors.T] for z in binned.T])
    entropy = np.array([mutual_info_score(v, v) for v in factors.T])
    return _gap(information / entropy[None])


def sap(codes: Float[np.ndarray, "N Z"], factors: Int[np.ndarray, "N F"], categorical: tuple[int, ...] = (0,)) -> float:
    """Separated attribute predictability (Kumar, Sattigeri & Balakrishnan 2018, section 3): the mean over factors of

        S_1 - S_2,

    the largest two of the scores of the latent dimensions, each used alone: R^2 of linear regression (the squared
    correlation) or, for a categorical factor with K values, the largest balanced accuracy of K - 1 thresholds, fitted
    to the same examples.
    The chance level of the latter is 1 / K, so the gap is at most 1 - 1 / K.
    """
    codes, factors = _checked(codes, factors)
    correlation = _standardized(codes).T @ _standardized(factors) / len(codes)
    score = correlation**2
    for j in categorical:
        score[:, j] = [_by_thresholds(z, factors[:, j]) for z in codes.T]
    return _gap(score)


def dci(
    codes: Float[np.ndarray, "N Z"], factors: Int[np.ndarray, "N F"], seed: int = 0, categorical: tuple[int, ...] = (0,)
) -> DCI:
    """Disentanglement, completeness and informativeness (Eastwood & Williams 2018, section 2).

    The importance R[i, j] of latent dimension i for factor j is its impurity decrease in a random forest (Breiman 2001)
    that predicts factor j from the code. Completeness is disentanglement(R^T). Informativeness is the mean over factors
    of 1 - error / error of a constant predictor, clipped at 0, where the error is the mean squared error or, for
    categorical factors, the error rate. Forests are fitted on one half of the examples, chosen by the seed, and errors
    are measured on the other.
    """
    codes, factors = _checked(codes, factors)
    learn, test = np.array_split(np.random.default_rng(seed).permutation(len(codes)), 2)
    importance, informativeness = np.zeros((codes.shape[1], factors.shape[1])), np.zeros(factors.shape[1])
    for j, factor in enumerate(factors.T):
        forest, guess, error = _predictors(j in categorical, seed)
        for predictor in (forest, guess):
            predictor.fit(codes[learn], factor[learn])
        wrong, guessed = (error(factor[test], predictor.predict(codes[test])) for predictor in (forest, guess))
        importance[:, j] = forest.feature_importances_
        informativeness[j] = max(0.0, 1 - wrong / guessed) if guessed and importance[:, j].any() else 0.0
    return DCI(disentanglement(importance), disentanglement(importance.T), float(informativeness.mean()))


def disentanglement(importance: Float[np.ndarray, "Z F"]) -> float:
    """sum_i rho_i (1 - H_F(P_i)) (Eastwood & Williams 2018, section 2).

    P_i = R_i / sum_j R_ij is the distribution of the importance R of latent dimension i over the factors, H_F its
    entropy to base F, rho_i the fraction of the total importance that dimension i has. 0 if all importance is 0.
    """
    from scipy.special import entr

    total = importance.sum(1)
    probability = importance / np.where(total > 0, total, 1)[:, None]
    entropy = entr(probability).sum(1) / np.log(max(importance.shape[1], 2))
    return max(0.0, float(total @ (1 - entropy) / (total.sum() or 1)))


def active(codes: Float[np.ndarray, "N Z"]) -> Bool[np.ndarray, " Z"]:
    """Latent dimensions that have not collapsed to the prior: those with a standard deviation of at least 0.05."""
    return codes.astype(np.float64).std(0) >= ACTIVE


def factor_score(
    codes: Float[np.ndarray, "N Z"],
    factors: Int[np.ndarray, "N F"],
    seed: int = 0,
    *,
    train_votes: int = 10_000,
    test_votes: int = 5_000,
    batch: int = 64,
) -> float:
    """The FactorVAE score (Kim & Mnih 2018, section 4; numbers of votes of Locatello et al. 2019).

    Each vote samples `batch` examples, with replacement, that have the same value of one factor, and selects the latent
    dimension with the smallest variance, relative to its variance over all examples. A majority-vote classifier from
    selected dimension to factor is fitted on `train_votes`; the score is its accuracy on `test_votes` others. Every
    factor has the same number of votes; the expected score is that of random factors, with less variance.
    Dimensions that have collapsed to the prior are excluded (see `active`); if all have collapsed, the score is 1 / F.
    """
    codes, factors = _checked(codes, factors)
    used, count = active(codes), factors.shape[1]
    if not used.any():
        return 1 / count
    z = codes[:, used] / codes[:, used].std(0)[None]
    rng = np.random.default_rng(seed)
    train, test = np.zeros((2, z.shape[1], count), int)
    for j, factor in enumerate(factors.T):
        order = np.argsort(factor, kind="stable")
        for votes, number in ((train, train_votes), (test, test_votes)):
            value = rng.choice(factor, (len(range(j, number, count)), 1))
            first, end = (np.searchsorted(factor[order], value, side) for side in ("left", "right"))
            shared = order[rng.integers(first, end, (len(value), batch))]
            votes[:, j] = np.bincount(z[shared].var(1).argmin(1), minlength=len(votes))
    return float(test[np.arange(len(test)), train.argmax(1)].sum() / test.sum())


def _checked(
    codes: Float[np.ndarray, "N Z"], factors: Int[np.ndarray, "N F"]
) -> tuple[Float[np.ndarray, "N _"], Int[np.ndarray, "N F"]]:
    """Codes in double precision, 0 in constant dimensions; a single dimension is padded with a constant one."""
    if not np.isfinite(codes).all():
        raise InputError("codes are NaN or infinite: metrics need finite ones")
    if (factors == factors[:1]).all(0).any():
        raise InputError("a factor has the same value in all examples; use more examples, or omit it")
    codes = codes.astype(np.float64) - codes[:1]
    return np.pad(codes, ((0, 0), (0, max(0, 2 - codes.shape[1])))), factors


def _gap(score: Float[np.ndarray, "Z F"]) -> float:
    """Mean over factors of the gap between the two largest scores."""
    second, best = np.sort(score, axis=0)[-2:]
    return float(np.mean(best - second))


def _standardized(values: np.ndarray) -> Float[np.ndarray, "N _"]:
    """Columns of mean 0 and variance 1; zeros for a constant column."""
    centred = values - values.mean(0)[None]
    spread = centred.std(0)
    return centred / np.where(spread > 0, spread, 1)[None]


def _by_thresholds(z: Float[np.ndarray, " N"], factor: Int[np.ndarray, " N"]) -> float:
    """Largest balanced accuracy of K - 1 thresholds, between which one of the K classes is predicted.

    Dynamic programming over the number of intervals: best[i] is the maximum for the i smallest distinct values of z.
    """
    values, rank = np.unique(z, return_inverse=True)
    classes, label, size = np.unique(factor, return_inverse=True, return_counts=True)
    below = np.zeros((len(classes), len(values) + 1), int)  # examples of each class among the i smallest values
    np.add.at(below, (label, rank + 1), 1)
    correct = below.cumsum(1) / (len(classes) * size[:, None])  # balanced accuracy of predicting one class for them
    best = np.zeros(len(values) + 1)
    for _ in classes:  # one more interval
        best = (correct + np.maximum.accumulate(best[None] - correct, axis=1)).max(0)
    return float(best[-1])


def _predictors(categorical: bool, seed: int) -> tuple[Any, Any, Callable[[np.ndarray, np.ndarray], float]]:
    """A forest, a constant predictor, and the error of either: (factor, prediction) -> number."""
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.metrics import mean_squared_error, zero_one_loss

    if categorical:
        forest = RandomForestClassifier(TREES, max_features=None, random_state=seed)
        return forest, DummyClassifier(strategy="most_frequent"), zero_one_loss
    return RandomForestRegressor(TREES, max_features=None, random_state=seed), DummyRegressor(), mean_squared_error
