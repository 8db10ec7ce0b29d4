"""Anomaly scores of examples: terms of the loss and general scores. Larger scores are more anomalous."""

from functools import partial
from math import log
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxae.core.divergences import mean_over_observed
from jaxae.core.experiment import Experiment
from jaxae.core.types import Variables
from jaxae.training import apply
from jaxae.training.examples import Model, Part, condition_of
from jaxae.training.start import TEST
from jaxae.training.start import keys as start_keys
from jaxae.variants import iwae, vae

ERROR, ELBO, LIKELIHOOD, DISTANCE = (
    "reconstruction_error",
    "negative_elbo",
    "negative_log_likelihood",
    "latent_distance",
)


def general(experiment: Experiment) -> tuple[str, ...]:
    """Names of the scores of a model in addition to the terms of its loss."""
    # The bound of a model that infers classes sums over them.
    bounded = isinstance(experiment.model, vae.VAE) and experiment.classes != "inferred"
    return (ERROR, DISTANCE, *((ELBO, LIKELIHOOD) if bounded else ()))


def of_part(model: Model, part: Part, by: str, samples: int) -> Float[np.ndarray, "*S n"]:
    """The score `by` of a part, with `samples` noise samples; see `Trained.score`. ValueError for another name."""
    condition, several = condition_of(model, part.y, part.context), len(model.seeds) > 1
    net, variables = model.experiment.model, model.variables
    if by == ERROR:
        if model.experiment.classes == "inferred":
            decoded = apply.method(net, "reconstruct", several, False, variables, part.x, *condition)
        else:
            steps = () if part.steps is None else (part.steps,)
            z = apply.method(net, "encode", several, False, variables, part.x, *steps, *condition)
            decoded = apply.method(net, "decode", several, several, variables, z, *condition)
        return np.asarray(reconstruction_error(several, decoded, part.x, part.mask))
    if by in general(model.experiment):
        data = (part.x, part.mask, *condition)
        return np.asarray(bounds(net, samples, several, variables, data, start_keys(model.seeds, TEST))[by])
    draws = [apply.terms_of(model, part, draw) for draw in range(samples)]
    if by not in draws[0]:
        able = ", ".join(sorted({*draws[0], *general(model.experiment)}))
        raise ValueError(f"by={by} is not a score of this model; use one of {able}")
    return np.asarray(np.mean([found[by] for found in draws], axis=0, dtype=np.float64), np.float32)


@partial(jax.jit, static_argnums=0)
def reconstruction_error(
    several: bool,
    decoded: Float[Array, "*S_B_D"],
    x: Float[Array, "B *D"],
    observed: Float[Array, "B *O"] | None,
) -> Float[Array, "*S B"]:
    """Mean squared error of the observed entries, in squared model units. several: decoded has an axis of seeds."""

    def error(decoded: Float[Array, "B *D"]) -> Float[Array, " B"]:
        return mean_over_observed((decoded - x) ** 2, observed)

    return (jax.vmap(error) if several else error)(decoded)


@partial(jax.jit, static_argnums=(0, 1, 2))
def bounds(
    model: Any, samples: int, several: bool, variables: Variables, data: iwae.Data, keys: Key[Array, "*S"]
) -> dict[str, Float[Array, "*S B"]]:
    """`negative_elbo`, -1 / K sum_k log w_k, and `negative_log_likelihood`, -log 1 / K sum_k w_k, in nats.

    K = `samples` posterior samples, with the same noise for every example; w_k = p(x, z_k) / q(z_k|x). In expectation
    they are upper bounds on -log p(x), and the second is tighter for larger K (Burda et al. 2016, equation 8 and
    theorem 1). x are the observed entries, without the mask: a model of missingness (`not_miwae`) does not enter.
    model: a `vae.VAE`. data: examples, their mask or None, and their condition, if there is one.
    """
    densities = iwae.densities(model)

    def one(variables: Variables, key: Key[Array, ""]) -> dict[str, Float[Array, " B"]]:
        x, _, *c = data
        q: Any = model.apply(variables, x, *c, method="posterior")

        def log_weight(key: Key[Array, ""]) -> Float[Array, " B"]:
            eps = jax.random.normal(key, (1, 1, q.size))
            z = q.samples(jnp.broadcast_to(eps, (len(x), 1, q.size)))
            return densities(variables, data, q, z).log_weights()[:, 0]

        log_w = jax.lax.map(log_weight, jax.random.split(key, samples))
        return {ELBO: -log_w.mean(0), LIKELIHOOD: log(samples) - jax.nn.logsumexp(log_w, axis=0)}

    return (jax.vmap(one, in_axes=(0, 0)) if several else one)(variables, keys)


def mahalanobis(codes: Float[np.ndarray, "N Z"], reference: Float[np.ndarray, "M Z"]) -> Float[np.ndarray, " N"]:
    """Squared distance (z - m)^T C^-1 (z - m) (Mahalanobis 1936), with mean m and covariance C of the reference.

    Directions in which the reference does not vary are left out (pseudo-inverse). ValueError for fewer than two
    reference codes.
    """
    if len(reference) < 2:
        raise ValueError(f"reference has {len(reference)} examples: a covariance needs at least 2")
    codes, reference = codes.astype(np.float64), reference.astype(np.float64)
    covariance = np.atleast_2d(np.cov(reference, rowvar=False))
    centred = codes - reference.mean(0)[None]
    return np.asarray(np.einsum("ni,ij,nj->n", centred, np.linalg.pinv(covariance, hermitian=True), centred))


def latent_distance(
    several: bool, codes: Float[np.ndarray, "*S_N_code"], reference: Float[np.ndarray, "*S_M_code"]
) -> Float[np.ndarray, "*S N"]:
    """`mahalanobis` of the flat codes of every seed. several: both arguments have an axis of seeds."""
    sets = (codes, reference) if several else (codes[None], reference[None])
    flat = (part.reshape(*part.shape[:2], -1) for part in sets)
    found = np.stack([mahalanobis(*pair) for pair in zip(*flat, strict=True)]).astype(np.float32)
    return found if several else found[0]
