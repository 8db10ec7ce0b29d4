"""scVI (Lopez, Regier, Cole, Jordan & Yosef 2018): gene counts of single cells, with batches as covariates.

The mean count of gene g in cell n is l_n rho_ng. l is the library size, the total count of the cell; rho is the share
of each gene, a softmax of the decoder, which depends on the code and the covariates. The logarithm of a latent library
size is the last dimension of the code.
"""

from typing import Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxae import nets
from jaxae.core.divergences import DiagonalNormal, per_example
from jaxae.likelihoods import LOG_INFLATION
from jaxae.nets.layers import dot_general
from jaxae.variants import cvae, vae

Library: TypeAlias = Literal["observed", "latent"]
Dispersion: TypeAlias = Literal["gene", "gene-batch"]
LOG_SCALE = -2.0  # initial logarithm of the standard deviation of q(log l|x)
LEAST_VARIANCE = 1e-4  # of log l in the prior


class SCVI(cvae.CVAE, kw_only=True):
    """A variational autoencoder of counts. Parameter groups: encoder, decoder. The prior has no parameters."""

    library: Library = "observed"

    def prior_of(self, c: vae.Condition, z: Float[Array, "B Z"]) -> DiagonalNormal:
        """p(z), and p(log l|c) of a latent library size, with the shape of the codes z."""
        return super().prior_of(jnp.zeros((len(z), 0)) if c is None else c, z)


class Prior(nn.Module):
    """p(z) = N(0, I), and a normal distribution of log l: [B, K] -> [B, 2 Z], means and log scales.

    moments: two linear functions of (1, condition), [2, 1 + K], mean and variance of log l; see `library_moments`. They
    are variables of the collection `library`, which are not trained.
    """

    latent: int  # without the library size
    moments: tuple[tuple[float, ...], ...]

    @nn.compact
    def __call__(self, c: Float[Array, "B K"]) -> Float[Array, "B Z2"]:
        known: jax.Array = self.variable("library", "moments", lambda: jnp.array(self.moments, jnp.float32)).value
        mean, variance = (jnp.concatenate([jnp.ones((len(c), 1)), c], axis=1) @ known.T).T
        none = jnp.zeros((len(c), self.latent))
        log_scale = 0.5 * jnp.log(jnp.maximum(variance, LEAST_VARIANCE))
        return jnp.concatenate([none, mean[:, None], none, log_scale[:, None]], axis=1)


def library_moments(log_totals: Float[np.ndarray, " N"], c: Float[np.ndarray, "N K"]) -> Float[np.ndarray, "2 K1"]:
    """Mean and variance of the log totals of cells as linear functions of (1, condition), by least squares.

    For a batch as one-hot condition, mean and variance over the cells of each batch (Lopez et al. 2018).
    """
    columns = np.concatenate([np.ones((len(c), 1)), c], axis=1)
    mean = np.linalg.lstsq(columns, log_totals)[0]
    return np.stack([mean, np.linalg.lstsq(columns, (log_totals - columns @ mean) ** 2)[0]])


class Encoder(nn.Module):
    """q(z|x), and of a latent library size q(log l|x): [B, G + K] -> [B, 2 Z].

    The input is log(1 + x), followed by the condition, which is used only with `covariates`. The mean of log l is the
    logarithm of the observed total plus the output of a separate network.
    """

    genes: int
    hidden: tuple[int, ...]
    latent: int  # without the library size
    library: Library = "observed"
    covariates: bool = False
    precision: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B X"]) -> Float[Array, "B Z2"]:
        counts = x[:, : self.genes]
        x = x if self.covariates else counts
        mean, log_scale = jnp.split(self._net(self.latent, "codes")(x), 2, axis=1)
        if self.library == "observed":
            return jnp.concatenate([mean, log_scale], axis=1)
        total = jnp.log(jnp.maximum(per_example(jnp.expm1(counts)), 1.0))[:, None]
        offset, log_scale_l = jnp.split(self._net(1, "library")(x), 2, axis=1)
        return jnp.concatenate([mean, total + offset, log_scale, LOG_SCALE + log_scale_l], axis=1)

    def _net(self, dimensions: int, name: str) -> nets.MLP:
        return nets.MLP(self.hidden, (2 * dimensions,), precision=self.precision, name=name)


class Decoder(nn.Module):
    """Log means, inverse dispersions and, with `inflated`, logits of additional zeros: [N, Z + K] -> [N, P].

    They are the parameters of a `NegativeBinomial` or `ZeroInflatedNegativeBinomial`. dispersion: gene, one parameter
    per gene; gene-batch, a linear function of the condition, that is one parameter per gene and batch.
    """

    log_share: tuple[float, ...]  # initial logarithm of the share of each gene
    hidden: tuple[int, ...]
    latent: int  # without the library size
    library: Library = "observed"
    total: float = 1.0  # sum of the means with an observed library size: see `Poisson.total`
    dispersion: Dispersion = "gene"
    inflated: bool = False
    precision: str = "float32"

    @nn.compact
    def __call__(self, z: Float[Array, "N X"]) -> Float[Array, "N P"]:
        genes = len(self.log_share)
        split = self.latent + (self.library == "latent")
        c = z[:, split:]
        log_total = z[:, self.latent : split] if self.library == "latent" else jnp.log(self.total)
        h = jnp.concatenate([z[:, : self.latent], c], axis=1)
        for place, width in enumerate(self.hidden):
            h = nn.relu(self._dense(width, f"hidden{place}", nn.initializers.zeros)(h))
        h = jnp.concatenate([h, c], axis=1) if self.hidden else h
        share = self._dense(genes, "share", nn.initializers.constant(np.array(self.log_share)))
        parts = [jax.nn.log_softmax(share(h), axis=1) + log_total]
        if self.inflated:
            parts.append(self._dense(genes, "inflation", nn.initializers.constant(LOG_INFLATION))(h))
        if self.dispersion == "gene-batch" and c.shape[1]:
            log_r = nn.Dense(genes, use_bias=False, kernel_init=nn.initializers.zeros, name="log_inverse_dispersion")(c)
        else:
            each = self.param("log_inverse_dispersion", nn.initializers.zeros, (genes,))
            log_r = jnp.broadcast_to(each, (len(z), genes))
        return jnp.concatenate([*parts, log_r], axis=1)

    def _dense(self, width: int, name: str, bias: nn.initializers.Initializer) -> nn.Dense:
        return nn.Dense(width, bias_init=bias, dot_general=dot_general(self.precision), name=name)
