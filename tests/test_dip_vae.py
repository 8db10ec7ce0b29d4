"""DIP-VAE: the covariance of codes, and the loss of their differences from identity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import batch, new_key
from jaxae import nets
from jaxae.core.divergences import DiagonalNormal, kl_normal
from jaxae.variants import dip_vae, vae

rng = np.random.default_rng(0)
MEAN, LOG_SCALE = rng.normal(size=(40, 3)).astype(np.float32), rng.normal(size=(40, 3)).astype(np.float32)


def test_covariance_is_that_of_samples_of_all_posteriors():
    """By Monte Carlo over the mixture of the posteriors, and for means by NumPy."""
    q = DiagonalNormal(jnp.asarray(MEAN), jnp.asarray(LOG_SCALE) / 2)
    z = MEAN + np.exp(LOG_SCALE / 2) * rng.normal(size=(20_000, 40, 3))
    sampled = np.cov(z.reshape(-1, 3).T)
    np.testing.assert_allclose(dip_vae.covariance(q, "samples"), sampled, atol=0.02)
    np.testing.assert_allclose(dip_vae.covariance(q, "means"), np.cov(MEAN.T, bias=True), rtol=1e-5, atol=1e-6)
    assert np.abs(np.diag(sampled) - MEAN.var(0)).min() > 0.5


@pytest.mark.parametrize("of", ["means", "samples"])
def test_loss_is_the_bound_plus_the_weighted_sums_of_squares(of):
    x = rng.random((8, 4)).astype(np.float32)
    model = vae.VAE(nets.MLP((), (4,)), nets.MLP((), (4,)))
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32),
        jax.eval_shape(model.init, new_key(), jnp.asarray(x))["params"],
    )

    @jax.jit
    def both(params):
        variables = {"params": params}
        q = model.apply(variables, jnp.asarray(x), method="posterior")
        loss = dip_vae.loss(model, of, lambda step: 1.0 + step, 5.0, 0.7)
        return (
            loss(variables, batch(x).replace(step=jnp.int32(2)), new_key())[0],
            vae.loss(model)(variables, batch(x), new_key())[0],
            q,
        )

    terms, plain, q = both(params)
    c = np.cov(np.asarray(q.mean, np.float64).T, bias=True)
    if of == "samples":
        c += np.diag(np.mean(np.exp(2 * np.asarray(q.log_scale, np.float64)), axis=0))
    beside, diagonal = 2 * c[0, 1] ** 2, ((np.diag(c) - 1) ** 2).sum()
    np.testing.assert_allclose(terms["off_diagonal"], np.full(8, beside), rtol=1e-4)
    np.testing.assert_allclose(terms["diagonal"], np.full(8, diagonal), rtol=1e-4)
    np.testing.assert_allclose(terms["kl"], kl_normal(q), rtol=1e-5)
    np.testing.assert_allclose(
        terms["loss"], plain["reconstruction"] + 0.7 * plain["kl"] + 3 * beside + 5 * diagonal, rtol=1e-4
    )
