"""Log-likelihood of a variational model by importance sampling; rate, distortion and active latent dimensions."""

from functools import partial
from math import log, prod
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Num, UInt8

from jaxae.core.batch import Batch
from jaxae.core.conditions import condition
from jaxae.core.experiment import Measure, MeasuredData, TrainedModel
from jaxae.core.types import Variables
from jaxae.data.rows import chunks
from jaxae.variants import iwae, vae

ROWS = 1000  # codes decoded at once; they fit into the cache of a core
ACTIVE = 0.01  # least variance of the posterior mean of an active latent dimension


def measures(model: vae.VAE, samples: int, binarize: str) -> dict[str, Measure]:
    """The `measures` of an experiment: `likelihood`, estimated by this many samples per example (0: none).

    binarize: how pixels are binarized, or none. ValueError for one sample, and for grey pixels under a Bernoulli
    likelihood.
    """
    if not samples:
        return {}
    if model.likelihood.data == "binary" and binarize == "none":
        raise ValueError(
            f"log_likelihood_samples={samples}: grey pixels have no density under a Bernoulli; train with "
            "binarize=static"
        )
    if samples == 1:
        raise ValueError("log_likelihood_samples=1: one sample gives the ELBO, without an error; use at least 2")
    return {"likelihood": partial(measure, iwae.densities(model), samples)}


def measure(of: iwae.DensitiesOf, samples: int, trained: TrainedModel, data: MeasuredData) -> dict[str, float]:
    """`estimate` and `active_units` of a trained model on the test split, with the key of seed 0."""
    key = jax.random.key(0)
    test = data.test
    conditional = trained.experiment.conditional
    classes = 0 if conditional and trained.experiment.classes == "unused" else len(data.classes)
    y, context = (None if part is None else jnp.asarray(part) for part in (test.y, test.context))
    c = np.asarray(condition(y, context, classes)) if conditional else None
    found = estimate(of, trained.experiment.model, trained.variables, test.x, key, samples, test.observed, c)
    return {**found, "active_units": float(active_units(np.asarray(trained.encode(test))))}


def active_units(means: Float[np.ndarray, "N Z"]) -> int:
    """Latent dimensions whose posterior mean has a variance above 0.01 over the examples (Burda et al. 2016, 5.1)."""
    return int(np.sum(means.var(0, dtype=np.float64) > ACTIVE))


def estimate(
    of: iwae.DensitiesOf,
    model: nn.Module,
    variables: Variables,
    x: Num[Any, "N *D"],
    key: Key[Array, ""],
    samples: int,
    observed: UInt8[Any, "N *D"] | None = None,
    c: Float[np.ndarray, "N K"] | None = None,
) -> dict[str, float]:
    """`log_likelihood`: mean over the examples of log (1 / K) sum_k w_k over K = `samples` posterior samples, in nats.

    Burda et al. 2016, section 5: a lower bound in expectation, tighter for larger K; for a conditional model, whose
    examples have the conditions c, it bounds log p(x|c). Also `standard_error` of that mean over examples;
    `monte_carlo_error`, its standard deviation over posterior samples for the same examples (delta method: variance
    1 / ess - 1 / K per example; an underestimate for ess near 1); `ess`, mean effective sample size (sum w)^2 / sum w^2
    (Kong 1992); `bits_per_dim` = -log_likelihood / (D log 2), for D observed dimensions; `rate` and `distortion`, means
    of log q(z|x) - log p(z) and -log p(x|z) under q, whose sum is minus the evidence lower bound `elbo` (Alemi et al.
    2018, section 2), in nats per example. The likelihood is a probability mass for binary pixels, 256 levels and
    counts, and otherwise a density in model units; values of different kinds are not comparable.
    """
    size = 20
    per = max(1, min(samples, ROWS // size))
    sums: list[np.ndarray] = []
    for i in range(0, len(x), size):
        places = np.minimum(np.arange(i, i + size), len(x) - 1)
        part: iwae.Data = (x[places], None if observed is None else observed[places].astype(np.float32))
        part += () if c is None else (c[places],)
        sums.append(np.asarray(_sums(of, model, per, samples, variables, part, i, key))[: len(x) - i])
    log_w, log_w2, rate, distortion = np.concatenate(sums).astype(np.float64).T
    log_p, ess = log_w - log(samples), np.exp(2 * log_w - log_w2)
    n = len(x)
    dimensions = prod(x.shape[1:]) if observed is None else sum(float(part.sum()) for part in chunks(observed)) / n
    return {
        "log_likelihood": float(log_p.mean()),
        "standard_error": float(log_p.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0,
        "monte_carlo_error": float(np.sqrt(np.sum(np.maximum(1 / ess - 1 / samples, 0))) / n),
        "ess": float(ess.mean()),
        "bits_per_dim": float(-log_p.mean() / (dimensions * log(2))),
        "elbo": float(-(rate + distortion).mean()),
        "rate": float(rate.mean()),
        "distortion": float(distortion.mean()),
    }


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _sums(
    of: iwae.DensitiesOf,
    model: nn.Module,
    per: int,
    samples: int,
    variables: Variables,
    data: iwae.Data,
    first: jax.Array,
    key: Key[Array, ""],
) -> Float[Array, "B 4"]:
    """log sum w, log sum w^2, and the means of rate and distortion of every example, `per` samples at a time."""
    x, observed, *c = data
    x = x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x
    number = first + jnp.arange(len(x))
    batch = Batch(x, number, jnp.ones(len(x)), jnp.int32(0))
    q: Any = model.apply(variables, x, *c, method="posterior")

    def body(i: jax.Array, totals: jax.Array) -> jax.Array:
        z = q.samples(batch.noise(jax.random.fold_in(key, i), (per, q.size)))
        terms = of(variables, (x, observed, *c), q, z)
        counts = (i * per + jnp.arange(per) < samples)[None]  # the last chunk may exceed `samples`
        log_w = jnp.where(counts, terms.log_weights(), -jnp.inf)
        new = (jax.nn.logsumexp(log_w, axis=1), jax.nn.logsumexp(2 * log_w, axis=1))
        means = (
            jnp.where(counts, values, 0).sum(1) / samples
            for values in (terms.posterior - terms.prior, -terms.likelihood)
        )
        logs = [jnp.logaddexp(totals[:, j], values) for j, values in enumerate(new)]
        return jnp.stack([*logs, *(totals[:, 2 + j] + values for j, values in enumerate(means))], axis=1)

    start = jnp.concatenate([jnp.full((len(x), 2), -jnp.inf), jnp.zeros((len(x), 2))], axis=1)
    return jax.lax.fori_loop(0, -(-samples // per), body, start)
