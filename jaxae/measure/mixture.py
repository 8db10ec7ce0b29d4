"""A prior that is fitted afterwards: a mixture of normals over the codes of a trained model, to sample from."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Num

from jaxae.core.types import Sampler
from jaxae.errors import InputError

WIDEST = 64  # units of a code that have covariances; of more, so few codes tell none


def fit(codes: Num[np.ndarray | Array, "N *code"], components: int = 10, seed: int = 0) -> Sampler:
    """Codes drawn from the mixture sum_k w_k N(m_k, C_k), fitted by expectation maximization with scikit-learn.

    So that plain autoencoders can be sampled from too (Ghosh et al. 2020, section 4). C_k is diagonal for codes of more
    than 64 units. InputError for fewer codes than components.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    codes = np.asarray(codes, np.float64)
    flat = codes.reshape(len(codes), -1)
    if not 1 <= components <= len(flat):
        raise InputError(f"{len(flat)} codes are too few for a mixture of {components} normals, or it is of none")
    floor = 1e-6 * max(float(flat.var(0).mean()), 1e-12)  # added to the variances: units may be dead
    kind = "full" if flat.shape[1] <= WIDEST else "diag"
    fitted = GaussianMixture(components, covariance_type=kind, reg_covar=floor, random_state=seed, max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # so of codes that are alike, or are still moving a little
        fitted.fit(flat)
    spread = np.linalg.cholesky(fitted.covariances_) if kind == "full" else np.sqrt(fitted.covariances_)
    means, spreads = (jnp.asarray(a, jnp.float32) for a in (fitted.means_, spread))
    weights = jnp.log(jnp.asarray(fitted.weights_, jnp.float32))

    def sample(key: Key[Array, ""], n: int) -> Float[Array, "N *code"]:
        which, where = jax.random.split(key)
        chosen = jax.random.categorical(which, weights, shape=(n,))
        noise, scale = jax.random.normal(where, (n, flat.shape[1])), spreads[chosen]
        moved = jnp.einsum("nij,nj->ni", scale, noise) if kind == "full" else scale * noise
        return (means[chosen] + moved).reshape(n, *codes.shape[1:])

    return sample
