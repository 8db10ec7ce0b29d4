"""Imputation: the distribution of missing entries given the observed ones, by importance sampling."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Batch
from jaxae.core.types import Variables
from jaxae.data import Split, cells
from jaxae.data.arrays import array
from jaxae.training.examples import (
    Given,
    Model,
    Part,
    chunk_of,
    condition_of,
    conditioned,
    in_users_units,
    parts,
    shaped,
)
from jaxae.training.start import IMPUTE, folded
from jaxae.training.start import keys as start_keys
from jaxae.variants import iwae, miwae, not_miwae, vae

EXAMPLES = 20  # imputed at once (fewer are padded); for each of them, `chunk_of` / 20 codes are decoded at once


class Imputed(NamedTuple):
    """Examples whose missing entries are filled in, in the user's units.

    x: the examples, each missing entry by its expectation given the observed ones; observed entries are unchanged, bit
    for bit. A data frame gives a data frame, whose missing strings are the most probable category.
    standard_error: that of the expectation, from the importance weights (an underestimate for an effective sample size
    near 1). deviation: the standard deviation of the entry given the observed ones. Both are 0 where an entry is
    observed; in a column of strings they refer to the probability of the category.
    ess: effective sample size (sum w)^2 / sum w^2 of each example (Kong 1992); infinite for a complete one.
    draws: the examples with missing entries sampled from their joint distribution, for multiple imputation.
    """

    x: Any  # [*S N *D], or a data frame
    standard_error: Float[np.ndarray, "*S_N_D"]
    deviation: Float[np.ndarray, "*S_N_D"]
    ess: Float[np.ndarray, "*S N"]
    draws: Any  # [*S M N *D], or a list of M data frames


class Moments(NamedTuple):
    """Moments of the missing entries of examples, in model units."""

    mean: Any  # [*S n *D]
    standard_error: Any
    deviation: Any
    ess: Any  # [*S n]
    draws: Any  # [*S n M *D]


def impute(model: Model, x: Any, samples: int, draws: int, seed: int, mixture: bool, given: Given) -> Imputed:
    """See `Trained.impute`."""
    if isinstance(x, cells.Frame):
        if len(model.seeds) > 1 and not mixture:
            raise ValueError("a data frame has no axis of seeds; pass mixture=True, or impute with model[i]")
        before = cells.of_frame(x, model.features)
        found = impute(model, before, samples, draws, seed, mixture, given)
        frames = [cells.filled_frame(x, model.features, before, filled) for filled in (found.x, *found.draws)]
        return found._replace(x=frames[0], draws=frames[1:])
    _require(model, samples, draws)
    values, shape = _values(model, x)
    rows = np.flatnonzero(np.isnan(values).reshape(len(values), -1).any(1))
    conditions = conditioned(model, len(values), given._replace(split=x if isinstance(x, Split) else None))
    each: list[Moments] = []
    chosen: Any = x.take(rows) if isinstance(x, Split) else values[rows]
    for part in parts(model, chosen) if len(rows) else ():
        at = rows[part.first : part.first + len(part.x)]
        y, context = (None if column is None else column[at] for column in conditions)
        each += _of_part(model, part._replace(y=y, context=context), at, samples, draws, seed)
    lead = (len(model.seeds),) if len(model.seeds) > 1 else ()
    one = model.shape
    none = Moments(*(np.zeros((*lead, 0, *tail), np.float32) for tail in (one, one, one, (), (draws, *one))))
    joined = Moments(*(np.concatenate(field, axis=len(lead)) for field in zip(none, *each, strict=True)))
    if lead and mixture:
        joined, lead = _mixed(joined), ()
    return _in_place(model, values, rows, joined, (*lead, *shape))


def obstacle(model: Model) -> str:
    """Why a model cannot impute; empty if it can."""
    net = model.experiment.model
    if not (isinstance(net, vae.VAE) and model.experiment.missing):
        return f"{type(net).__name__} has no likelihood to impute with; train a variational experiment, such as miwae"
    if model.experiment.counts:
        return "counts with missing entries have an unknown size factor and cannot be imputed; train with kind=table"
    return ""


def _require(model: Model, samples: int, draws: int) -> None:
    """Raise ValueError for a model that cannot impute, and for a number of samples that is not positive."""
    if why := obstacle(model):
        raise ValueError(why)
    if samples < 1 or draws < 0:
        raise ValueError(f"samples={samples} must be at least 1, and draws={draws} at least 0")


def _values(model: Model, x: Any) -> tuple[np.ndarray, tuple[int, ...]]:
    """The examples in the user's units, NaN where an entry is missing; and the shape in which they were passed."""
    if not isinstance(x, Split):
        given = array(x, "examples")
        return np.asarray(shaped(model, given)), given.shape
    part = x.x / np.float32(255) if x.x.dtype == np.uint8 else np.asarray(x.x)
    values = np.array(in_users_units(model, jnp.asarray(part)))
    if x.observed is not None:
        values[np.asarray(x.observed) == 0] = np.nan
    return values, values.shape


def _of_part(model: Model, part: Part, at: np.ndarray, samples: int, draws: int, seed: int) -> list[Moments]:
    """Moments of the examples of a part, a few at a time. at: their indices, which key the noise."""
    decoded = chunk_of(model.shape)
    size = min(EXAMPLES, decoded)
    c: Any = condition_of(model, part.y, part.context)
    observed: Any = part.observed
    keys, several = folded(start_keys(model.seeds, IMPUTE), seed), len(model.seeds) > 1
    per = min(samples, decoded // size)
    found = []
    for first in range(0, len(at), size):
        places = np.minimum(np.arange(first, first + size), len(at) - 1)
        data = (part.x[places], observed[places], *(array[places] for array in c))
        moments = _moments(
            model.experiment.model, several, per, draws, model.variables, data, jnp.asarray(at[places]), keys, samples
        )
        used = min(size, len(at) - first)
        found.append(Moments(*(np.asarray(value)[(*[slice(None)] * several, slice(used))] for value in moments)))
    return found


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _moments(
    model: vae.VAE,
    several: bool,
    per: int,
    draws: int,
    variables: Variables,
    data: iwae.Data,
    index: jax.Array,
    key: Any,
    samples: jax.Array,
) -> Moments:
    """Moments estimated from this many samples, `per` at a time."""

    def one(variables: Variables, key: Key[Array, ""]) -> Moments:
        return _by_importance(model, per, draws, variables, data, index, key, samples)

    return (jax.vmap(one) if several else one)(variables, key)


def _by_importance(
    model: vae.VAE,
    per: int,
    draws: int,
    variables: Variables,
    data: iwae.Data,
    index: jax.Array,
    key: Key[Array, ""],
    samples: jax.Array,
) -> Moments:
    """Self-normalized importance sampling (Mattei & Frellsen 2019, section 3.3; Owen 2013, equation 9.9).

    Sums over the samples so far have weights relative to the largest one. A draw is the sample with the largest log
    weight plus Gumbel noise: resampling in proportion to the weights (Gumbel-max).
    """
    draw_samples: Any = not_miwae.draws if isinstance(model, not_miwae.NotMIWAE) else miwae.draws
    x, _, *c = data
    b = len(x)
    q: Any = model.apply(variables, x, *c, method="posterior")
    code: Any = model.apply(variables, x, *c, method="encode")
    outputs: Any = model.apply(variables, code, *c, method="outputs")
    centre = model.likelihood.mean(outputs)  # sums of squares are taken about it, to avoid cancellation
    batch, axes = Batch(x, index, jnp.ones(b), jnp.int32(0)), x.ndim - 1

    def wide(values: jax.Array, axes: int) -> jax.Array:
        return values.reshape(*values.shape, *[1] * axes)

    def added(totals: Any, values: Any, w: jax.Array, old: jax.Array) -> Any:
        return tuple(wide(old, t.ndim - 1) * t + _sum(w, v) for t, v in zip(totals, values, strict=True))

    def body(i: jax.Array, state: Any) -> Any:
        top, first, second, best, drawn = state
        of_codes, of_entries, of_draws = jax.random.split(jax.random.fold_in(key, i), 3)
        z = q.samples(batch.noise(of_codes, (per, q.size)))
        found = draw_samples(model, variables, data, q, z, batch.keys(of_entries))
        log_w = jnp.where((i * per + jnp.arange(per) < samples)[None], found.log_weights, -jnp.inf)
        new = jnp.maximum(top, log_w.max(1))
        w, old = jnp.exp(log_w - new[:, None]), jnp.exp(top - new)
        mean, sample = found.mean - centre[:, None], found.x - centre[:, None]
        first = added(first, (jnp.ones_like(w), mean, sample, sample**2), w, old)
        second = added(second, (jnp.ones_like(w), mean, mean**2), w**2, old**2)
        if draws:
            gumbel = jax.vmap(lambda k: jax.random.gumbel(k, (per, draws)))(batch.keys(of_draws))
            scores = log_w[..., None] + gumbel
            chosen = scores.argmax(1)
            score = scores.max(1)
            values = jnp.take_along_axis(found.x, wide(chosen, axes), axis=1)
            drawn = jnp.where(wide(score > best, axes), values, drawn)
            best = jnp.maximum(best, score)
        return new, first, second, best, drawn

    zero, zeros = jnp.zeros(b), jnp.zeros_like(x)
    start = (
        jnp.full(b, -jnp.inf),
        (zero, zeros, zeros, zeros),
        (zero, zeros, zeros),
        jnp.full((b, draws), -jnp.inf),
        jnp.zeros((b, draws, *x.shape[1:])),
    )
    _, (w, mean, sample, square), (w2, mean2, square2), _, drawn = jax.lax.fori_loop(0, -(-samples // per), body, start)
    m, s, total = mean / wide(w, axes), sample / wide(w, axes), wide(w, axes)
    error = jnp.maximum(square2 - 2 * m * mean2 + m**2 * wide(w2, axes), 0)
    variance = jnp.maximum(square / total - 2 * m * s + m**2, 0)
    return Moments(centre + m, jnp.sqrt(error) / total, jnp.sqrt(variance), w**2 / w2, drawn)


def _sum(w: Float[Array, "B K"], values: Float[Array, "B K *D"]) -> Float[Array, "B *D"]:
    """Weighted sum over the samples."""
    flat = values.reshape(*values.shape[:2], -1)
    return jnp.einsum("bk,bkd->bd", w, flat, precision="highest").reshape(values.shape[0], *values.shape[2:])


def _mixed(found: Moments) -> Moments:
    """Moments of the mixture of all seeds with equal weights; successive draws are from successive seeds."""
    seeds = len(found.mean)
    mean = found.mean.mean(0)
    error = np.sqrt((found.standard_error**2).sum(0)) / seeds
    deviation = np.sqrt((found.deviation**2 + (found.mean - mean[None]) ** 2).mean(0))
    draws = found.draws.shape[2]
    drawn = np.stack([found.draws[i % seeds, :, i] for i in range(draws)], axis=1) if draws else found.draws[0]
    ess = seeds**2 / (1 / found.ess).sum(0)  # that of the mean of independent estimates
    return Moments(mean, error, deviation, ess, drawn)


def _in_place(model: Model, values: np.ndarray, rows: np.ndarray, found: Moments, shape: tuple[int, ...]) -> Imputed:
    """Fill in the missing entries of the rows. shape: that of the result, with an axis of seeds if it has one."""
    axis = found.ess.ndim - 1
    lead, missing = found.ess.shape[:axis], np.isnan(values[rows])
    at: Any = (*[slice(None)] * axis, rows)
    factor = np.float32(1) if model.scale is None else model.scale.factor.astype(np.float32)

    def spread(part: np.ndarray) -> np.ndarray:
        """These numbers at the missing entries, in the user's scale, and 0 at all others."""
        result = np.zeros((*lead, *values.shape), np.float32)
        result[at] = np.where(missing, factor * part, 0)
        return result.reshape(shape)

    def filled(part: np.ndarray) -> np.ndarray:
        """The examples with these values, which are in model units, at their missing entries."""
        result = np.broadcast_to(values, (*lead, *values.shape)).copy()
        result[at] = np.where(missing, np.asarray(in_users_units(model, jnp.asarray(part))), values[rows])
        return result.reshape(shape)

    ess = np.full((*lead, len(values)), np.inf, np.float32)
    ess[at] = found.ess
    draws = [filled(part) for part in np.moveaxis(found.draws, axis + 1, 0)]
    drawn = np.stack(draws, axis=axis) if draws else np.zeros((*lead, 0, *shape[axis:]), values.dtype)
    return Imputed(filled(found.mean), spread(found.standard_error), spread(found.deviation), ess, drawn)
