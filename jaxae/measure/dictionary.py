"""Metrics of dictionary learning: reconstruction and sparsity, and recovery of a known dictionary.

Shapes: codes [N, n] and decoder [n, D]; where the truth is known, dictionary [F, D] and firing [N, F]. A latent fires
where its code is not 0. All sums run over the complete split, in double precision, so that no metric depends on the
evaluation batch size.
"""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxae.core.experiment import MeasuredData, SparseData, TrainedModel
from jaxae.core.types import Variables

SIZE = 1000  # examples per call of the model
DENSE = 0.1  # firing frequency above which a latent is dense (Sun et al. 2025, section 3)


class Totals(NamedTuple):
    """Sums over all examples."""

    examples: int
    squared_error: float  # |x - x^|^2
    squares: float  # |x - mean|^2
    active: int  # latents that fire
    absolute: float  # |code| times the norm of its decoder row
    ratio: float  # |x^| / |x| of the examples other than 0
    nonzero: int  # examples other than 0
    fired: Int[np.ndarray, " n"]  # examples in which each latent fires
    features: int = 0  # true features that fire; 0 if they are unknown
    matched: Int[np.ndarray, " n"] | None = None  # examples in which the true feature of each latent fires
    hits: Int[np.ndarray, " n"] | None = None  # examples in which both fire


def measure(trained: TrainedModel, data: MeasuredData, size: int = SIZE) -> dict[str, float]:
    """All metrics on the test split, in model units.

    trained: a model of examples [D] with codes [n] and a parameter `decoder`, an array [n, D].
    size: examples evaluated at once.

    `explained_variance` 1 - fvu, `fvu` sum |x - x^|^2 / sum |x - mean|^2 (NaN for a constant split);
    `l0` the mean number of latents that fire, `l1` the mean sum of |code| times the norm of its decoder row;
    `shrinkage` the mean of |x^| / |x| over examples other than 0; `dead`, `dense` the fraction of latents that never
    fire, and that fire in more than a tenth of the examples; `coherence`, `mean_coherence` see `coherence`.
    With a known dictionary: `mcc`, `uniqueness`, `precision`, `recall`, `f1` (see the functions of these
    names), and `true_l0` the mean number of true features that fire.

    ValueError for a model without a parameter `decoder`, or without one code per example.
    """
    decoder = trained.variables["params"].get("decoder")
    if getattr(decoder, "ndim", 0) != 2:
        raise ValueError("metrics of a dictionary need a parameter named decoder, an array [n, D]")
    decoder = np.asarray(decoder, np.float64)
    known = isinstance(data, SparseData) and data.dictionary is not None and data.test.firing is not None
    truth = np.asarray(data.dictionary, np.float64) if known else None  # type: ignore[attr-defined]
    of = None if truth is None else best(decoder, truth)
    sums = totals(trained.experiment.model, trained.variables, data.test, of, size)
    found = {**reconstruction(sums), **coherence(decoder)}
    if truth is not None:
        found |= {"mcc": mcc(decoder, truth), "uniqueness": uniqueness(decoder, truth), **classification(sums)}
        found["true_l0"] = sums.features / sums.examples
    return found


def totals(
    model: nn.Module, variables: Variables, split: Any, of: Int[np.ndarray, " n"] | None = None, size: int = SIZE
) -> Totals:
    """Sums over a split. of: the true feature of each latent, for a split with known `firing`.

    ValueError for an empty split, and for codes that do not have one entry per decoder row.
    """
    count = len(split.x)
    if count < 1 or size < 1:
        raise ValueError(f"{count} examples in batches of size={size}; both must be at least 1")
    norms = jnp.linalg.norm(variables["params"]["decoder"], axis=1)
    origin = _flat(split.x[:1])[0]  # differences from an example keep the digits of a variance around a distant mean
    moment, square, features = np.zeros(origin.shape), 0.0, 0
    of_examples, of_latents = np.zeros(5), np.zeros((3, len(norms)), np.int64)
    for first in range(0, count, size):
        x, firing = np.asarray(split.x[first : first + size]), None
        if of is not None:
            fires = np.asarray(split.firing[first : first + size])
            features += int(np.count_nonzero(fires))
            firing = fires[:, of]
        examples, latents = _part(model, variables, x, norms, firing)
        of_examples += np.asarray(examples, np.float64).sum(1)
        of_latents += np.asarray(latents)
        moved = _flat(x) - origin
        moment, square = moment + moved.sum(0), square + float(np.sum(moved**2))
    error, active, absolute, ratio, nonzero = of_examples.tolist()
    fired, matched, hits = of_latents
    squares = max(0.0, square - float(moment @ moment) / count)
    found = Totals(count, error, squares, int(active), absolute, ratio, int(nonzero), fired)
    return found if of is None else found._replace(features=features, matched=matched, hits=hits)


@partial(jax.jit, static_argnums=0)
def _part(
    model: nn.Module,
    variables: Variables,
    x: Shaped[Array, "B *D"],
    norms: Float[Array, " n"],
    firing: Bool[Array, "B n"] | None,
) -> tuple[Float[Array, "5 B"], Int[Array, "3 n"]]:
    """Terms of `Totals` per example, and counts per latent."""
    x = x.astype(jnp.float32) / (255 if x.dtype == jnp.uint8 else 1)
    codes: Any = model.apply(variables, x, method="encode")
    if codes.shape != (len(x), len(norms)):
        raise ValueError(f"codes have shape {codes.shape}, not [N, {len(norms)}]; return one code per decoder row")
    decoded: Any = model.apply(variables, codes, method="decode")
    x, decoded = x.reshape(len(x), -1), decoded.reshape(len(x), -1)
    fired = codes != 0
    truth = jnp.zeros_like(fired) if firing is None else firing
    size, decoded_size = jnp.linalg.norm(x, axis=1), jnp.linalg.norm(decoded, axis=1)
    examples = (
        jnp.sum((x - decoded) ** 2, axis=1),
        jnp.sum(fired, axis=1, dtype=jnp.float32),
        jnp.abs(codes) @ norms,
        jnp.where(size > 0, decoded_size / jnp.where(size > 0, size, 1), 0),
        (size > 0).astype(jnp.float32),
    )
    return jnp.stack(examples), jnp.stack([jnp.sum(part, axis=0) for part in (fired, truth, fired & truth)])


def _flat(x: Any) -> Float[np.ndarray, "B D"]:
    """Examples in model units, in double precision."""
    x = np.asarray(x)
    return x.reshape(len(x), -1).astype(np.float64) / (255 if x.dtype == np.uint8 else 1)


def reconstruction(sums: Totals) -> dict[str, float]:
    """Metrics that need no known dictionary: see `measure`."""
    fvu = float(np.float64(sums.squared_error) / np.float64(sums.squares)) if sums.squares else float("nan")
    rate = frequencies(sums)
    return {
        "explained_variance": 1 - fvu,
        "fvu": fvu,
        "l0": sums.active / sums.examples,
        "l1": sums.absolute / sums.examples,
        "shrinkage": sums.ratio / max(sums.nonzero, 1),
        "dead": float(np.mean(rate == 0)),
        "dense": float(np.mean(rate > DENSE)),
    }


def frequencies(sums: Totals) -> Float[np.ndarray, " n"]:
    """Fraction of the examples in which each latent fires."""
    return sums.fired / sums.examples


def classification(sums: Totals) -> dict[str, float]:
    """`precision`, `recall` and `f1` of each latent as a detector of its feature: means over latents.

    With t examples in which both fire: t / fired, t / feature fired, and their harmonic mean; 0 where undefined.
    ValueError for sums without the true feature of each latent.
    """
    if sums.matched is None or sums.hits is None:
        raise ValueError("precision and recall need the true feature of each latent; pass `of` to totals")
    wanted = {
        "precision": _ratio(sums.hits, sums.fired),
        "recall": _ratio(sums.hits, sums.matched),
        "f1": _ratio(2 * sums.hits, sums.fired + sums.matched),
    }
    return {name: float(of_latents.mean()) for name, of_latents in wanted.items()}


def _ratio(part: np.ndarray, whole: np.ndarray) -> Float[np.ndarray, " n"]:
    return part / np.maximum(whole, 1)  # part is 0 where whole is


def cosines(a: Float[Any, "n D"], b: Float[Any, "m D"]) -> Float[np.ndarray, "n m"]:
    """|cos| of the angles between rows; 0 for a row of zeros."""
    unit = [np.asarray(rows, np.float64) / np.where(size > 0, size, 1) for rows in (a, b) for size in [_sizes(rows)]]
    return np.abs(unit[0] @ unit[1].T)


def _sizes(rows: Any) -> Float[np.ndarray, "n 1"]:
    return np.linalg.norm(np.asarray(rows, np.float64), axis=1, keepdims=True)


def best(decoder: Float[Any, "n D"], dictionary: Float[Any, "F D"]) -> Int[np.ndarray, " n"]:
    """The true feature of each latent: that with the largest |cos|; ties go to the first."""
    return cosines(decoder, dictionary).argmax(1)


def uniqueness(decoder: Float[Any, "n D"], dictionary: Float[Any, "F D"]) -> float:
    """Number of distinct true features of the latents (see `best`), divided by the number of latents."""
    return len(np.unique(best(decoder, dictionary))) / len(decoder)


def mcc(decoder: Float[Any, "n D"], dictionary: Float[Any, "F D"]) -> float:
    """Mean |cos| of the one-to-one matching between latents and true features that maximizes it (Kuhn 1955).

    The mean is over the matched pairs, min(n, F) of them (Hyvarinen & Morioka 2016, for correlations of codes).
    """
    from scipy.optimize import linear_sum_assignment

    similarity = cosines(decoder, dictionary)
    return float(similarity[linear_sum_assignment(similarity, maximize=True)].mean())


def coherence(decoder: Float[Any, "n D"]) -> dict[str, float]:
    """The largest |cos| between different rows (`coherence`; Donoho & Elad 2003, mutual coherence).

    `mean_coherence` is the mean over rows of their largest |cos| to another. Both are 0 for a single row.
    """
    largest = np.zeros(len(decoder))
    for first in range(0, len(decoder), SIZE):
        similarity = cosines(decoder[first : first + SIZE], decoder)
        rows = np.arange(len(similarity))
        similarity[rows, first + rows] = 0
        largest[first + rows] = similarity.max(1)
    return {"coherence": float(largest.max()), "mean_coherence": float(largest.mean())}
