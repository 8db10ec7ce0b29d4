"""A prior that is fitted afterwards: a mixture of normals over the codes of a trained model, to sample from."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Num

from jaxae.errors import InputError

Sampler: TypeAlias = Callable[[Key[Array, ""], int], Float[Array, "N *code"]]


def fit(codes: Num[np.ndarray | Array, "N *code"], components: int = 10, seed: int = 0) -> Sampler:
    """Codes drawn from the mixture sum_k w_k N(m_k, C_k), fitted by expectation maximization with scikit-learn.

    So that plain autoencoders can be sampled from too (Ghosh et al. 2020, section 4). InputError for fewer codes than
    components.
    """
    from sklearn.mixture import GaussianMixture

    codes = np.asarray(codes, np.float64)
    flat = codes.reshape(len(codes), -1)
    if len(flat) < components:
        raise InputError(f"{len(flat)} codes are too few for a mixture of {components} normals")
    floor = 1e-6 * max(float(flat.var(0).mean()), 1e-12)  # added to the variances: units may be dead
    fitted = GaussianMixture(components, reg_covar=floor, random_state=seed, max_iter=200).fit(flat)
    means = jnp.asarray(fitted.means_, jnp.float32)
    factors = jnp.asarray(np.linalg.cholesky(fitted.covariances_), jnp.float32)
    weights = jnp.log(jnp.asarray(fitted.weights_, jnp.float32))

    def sample(key: Key[Array, ""], n: int) -> Float[Array, "N *code"]:
        which, where = jax.random.split(key)
        chosen = jax.random.categorical(which, weights, shape=(n,))
        moved = jnp.einsum("nij,nj->ni", factors[chosen], jax.random.normal(where, (n, flat.shape[1])))
        return (means[chosen] + moved).reshape(n, *codes.shape[1:])

    return sample
