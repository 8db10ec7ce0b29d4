"""A Gaussian mixture fitted to the codes of a trained model, as a prior to sample from."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Num

from jaxae.core.types import Sampler
from jaxae.errors import InputError

WIDEST = 64  # maximum latent dimensions for full covariances; above it, they are diagonal


def fit(codes: Num[np.ndarray | Array, "N *code"], components: int = 10, seed: int = 0) -> Sampler:
    """A sampler of the mixture sum_k w_k N(m_k, C_k), fitted by expectation maximization with scikit-learn.

    It serves as the prior of plain autoencoders (Ghosh et al. 2020, section 4). C_k is diagonal for codes of more than
    64 latent dimensions. InputError unless components is from 1 to the number of codes.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    codes = np.asarray(codes, np.float64)
    flat = codes.reshape(len(codes), -1)
    if not 1 <= components <= len(flat):
        raise InputError(
            f"components={components} must be from 1 to the number of codes, {len(flat)}; "
            "with several seeds pass the codes of one, codes[0]"
        )
    floor = 1e-6 * max(float(flat.var(0).mean()), 1e-12)  # added to the variances: latent dimensions may be constant
    kind = "full" if flat.shape[1] <= WIDEST else "diag"
    fitted = GaussianMixture(components, covariance_type=kind, reg_covar=floor, random_state=seed, max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # raised for duplicate codes, and before full convergence
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
