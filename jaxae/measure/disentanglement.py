"""How far each unit of a code stands for one factor of the data, where the factors of every example are known.

codes [N, Z] are any real numbers, factors [N, F] whole ones; `categorical` are the columns of factors whose values have
no order. A representation that says nothing gets 0 (from `factor_score` 1 / F, which is chance), and nothing gets more
than 1. All raise InputError for codes that are not finite and for a factor of which the examples show only one value.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxae.errors import InputError

BINS = 20  # of equal width, from the least value of a code to the largest (Locatello et al. 2019)
TREES = 40  # of a forest
NEGLIGIBLE = 0.01  # a unit that varies less, in standard deviations of the one that varies most, is not in use


class DCI(NamedTuple):
    """What Eastwood & Williams 2018 measure, each from 0 to 1."""

    disentanglement: float  # each unit serves one factor
    completeness: float  # each factor is served by one unit
    informativeness: float  # how much less a prediction of the factors errs than a guess does


def measure(
    codes: Float[np.ndarray, "N Z"], factors: Int[np.ndarray, "N F"], seed: int = 0, categorical: tuple[int, ...] = (0,)
) -> dict[str, float]:
    """All of them. 5 to 10 seconds for 10,000 examples, 10 units and 5 factors; with 100 units half a minute."""
    parts = dci(codes, factors, seed, categorical)
    return {
        "mig": mig(codes, factors),
        "sap": sap(codes, factors, categorical),
        "factor_vae_score": factor_score(codes, factors, seed),
        **{f"dci_{name}": value for name, value in parts._asdict().items()},
    }


def mig(codes: Float[np.ndarray, "N Z"], factors: Int[np.ndarray, "N F"]) -> float:
    """Mutual information gap (Chen, Li, Grosse & Duvenaud 2018, equation 6): the mean over factors v of

        (I(z_1; v) - I(z_2; v)) / H(v),

    z_1 and z_2 the units that tell most of v. Codes are put into `BINS` bins: of a factor with more values than that
    one unit tells at most log(BINS) nats, so that the best is below 1 (sprites: about 0.9).
    """
    from sklearn.metrics import mutual_info_score

    codes, factors = _checked(codes, factors)
    low, high = codes.min(0), codes.max(0)
    places = (codes - low[None]) / np.where(high > low, high - low, 1)[None]
    binned = np.minimum(places * BINS, BINS - 1).astype(int)
    told = np.array([[mutual_info_score(v, z) for v in factors.T] for z in binned.T])
    entropy = np.array([mutual_info_score(v, v) for v in factors.T])
    return _gap(told / entropy[None])


def sap(codes: Float[np.ndarray, "N Z"], factors: Int[np.ndarray, "N F"], categorical: tuple[int, ...] = (0,)) -> float:
    """Separated attribute predictability (Kumar, Sattigeri & Balakrishnan 2018, section 3): the mean over factors of

        S_1 - S_2,

    the scores of the two units that predict the factor best, each alone: R^2 of linear regression, which is the squared
    correlation; for categorical ones the balanced accuracy of thresholds, one fewer than there are values. There
    chance is already right in one of K cases, so that the gap is at most 1 - 1 / K.
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

    The importance R[i, j] of unit i for factor j is how much it lowers the impurity in a random forest (Breiman 2001)
    that predicts the factor from all units. disentanglement(R), and completeness, which is disentanglement(R^T), as
    stated there. Informativeness: the mean over factors of 1 - error / error of a constant guess, at least 0, where the
    error is the mean square or, for categorical factors, the share of mistakes. Forests learn from one half of the
    examples, chosen by the seed; errors are those on the other.
    """
    codes, factors = _checked(codes, factors)
    learn, test = np.array_split(np.random.default_rng(seed).permutation(len(codes)), 2)
    importance, told = np.zeros((codes.shape[1], factors.shape[1])), np.zeros(factors.shape[1])
    for j, factor in enumerate(factors.T):
        forest, guess, error = _predictors(j in categorical, seed)
        for predictor in (forest, guess):
            predictor.fit(codes[learn], factor[learn])
        wrong, guessed = (error(factor[test], predictor.predict(codes[test])) for predictor in (forest, guess))
        importance[:, j] = forest.feature_importances_
        told[j] = max(0.0, 1 - wrong / guessed) if guessed and importance[:, j].any() else 0.0
    return DCI(disentanglement(importance), disentanglement(importance.T), float(told.mean()))


def disentanglement(importance: Float[np.ndarray, "Z F"]) -> float:
    """sum_i rho_i (1 - H_F(P_i)) (Eastwood & Williams 2018, section 2).

    P_i = R_i / sum_j R_ij, how unit i's importance R is shared among the factors; H_F its entropy with logarithms to
    the base F; rho_i the unit's share of all importance. 0 where nothing is important.
    """
    from scipy.special import entr

    total = importance.sum(1)
    share = importance / np.where(total > 0, total, 1)[:, None]
    entropy = entr(share).sum(1) / np.log(max(importance.shape[1], 2))
    return max(0.0, float(total @ (1 - entropy) / (total.sum() or 1)))


def factor_score(
    codes: Float[np.ndarray, "N Z"], factors: Int[np.ndarray, "N F"], seed: int = 0, votes: int = 800, batch: int = 64
) -> float:
    """The FactorVAE score (Kim & Mnih 2018, section 4).

    A vote: of `batch` examples that share the value of one factor, drawn from those at hand with replacement, the unit
    whose variance is least compared with that over all examples. The majority of `votes` votes, evenly over the
    factors, says which factor a unit stands for; the score is how often it is right about as many others. Units that
    are not in use have no part; where all are such, it is right about one factor.
    """
    codes, factors = _checked(codes, factors)
    spread, count = codes.std(0), factors.shape[1]
    used = spread > NEGLIGIBLE * spread.max()
    if not used.any():
        return 1 / count
    z = codes[:, used] / spread[used][None]
    rng = np.random.default_rng(seed)
    seen = np.zeros((2, z.shape[1], count), int)  # votes that decide, votes that are scored
    for j, factor in enumerate(factors.T):
        order = np.argsort(factor, kind="stable")
        for half in seen:
            value = rng.choice(factor, (max(votes // count, 1), 1))
            first, end = (np.searchsorted(factor[order], value, side) for side in ("left", "right"))
            shared = order[rng.integers(first, end, (len(value), batch))]
            half[:, j] = np.bincount(z[shared].var(1).argmin(1), minlength=len(half))
    decided, scored = seen
    return float(scored[np.arange(len(scored)), decided.argmax(1)].sum() / scored.sum())


def _checked(
    codes: Float[np.ndarray, "N Z"], factors: Int[np.ndarray, "N F"]
) -> tuple[Float[np.ndarray, "N _"], Int[np.ndarray, "N F"]]:
    """Codes in double precision, 0 where a unit never changes; beside a single unit a second one that says nothing."""
    if not np.isfinite(codes).all():
        raise InputError("codes that are NaN or infinite have no measures")
    if (factors == factors[:1]).all(0).any():
        raise InputError("a factor has the same value in all examples: take more of them, or leave it out")
    codes = codes.astype(np.float64) - codes[:1]
    return np.pad(codes, ((0, 0), (0, max(0, 2 - codes.shape[1])))), factors


def _gap(score: Float[np.ndarray, "Z F"]) -> float:
    """Mean over the factors of how far the best unit is ahead of the second."""
    second, best = np.sort(score, axis=0)[-2:]
    return float(np.mean(best - second))


def _standardized(values: np.ndarray) -> Float[np.ndarray, "N _"]:
    """Columns of mean 0 and variance 1; of zeros where a column never changes."""
    centred = values - values.mean(0)[None]
    spread = centred.std(0)
    return centred / np.where(spread > 0, spread, 1)[None]


def _by_thresholds(z: Float[np.ndarray, " N"], factor: Int[np.ndarray, " N"]) -> float:
    """Balanced accuracy of a tree with a leaf for each value."""
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_leaf_nodes=len(np.unique(factor)), class_weight="balanced", random_state=0)
    return float(balanced_accuracy_score(factor, tree.fit(z[:, None], factor).predict(z[:, None])))


def _predictors(categorical: bool, seed: int) -> tuple[Any, Any, Callable[[np.ndarray, np.ndarray], float]]:
    """A forest, a constant guess, and the error of either: (factor, prediction) -> number."""
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.metrics import mean_squared_error, zero_one_loss

    if categorical:
        forest = RandomForestClassifier(TREES, max_features=None, random_state=seed)
        return forest, DummyClassifier(strategy="most_frequent"), zero_one_loss
    return RandomForestRegressor(TREES, max_features=None, random_state=seed), DummyRegressor(), mean_squared_error
