"""The sliced-Wasserstein distance against SciPy and a closed form, and the loss with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from conftest import batch, new_key
from jaxae import nets
from jaxae.variants import autoencoder, swae

rng = np.random.default_rng(0)


def directions(count, latent):
    found = rng.normal(size=(count, latent))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_distance_is_the_mean_cost_of_optimal_assignments_of_projections():
    x, y, along = rng.normal(size=(9, 3)), 1 + 2 * rng.normal(size=(9, 3)), directions(4, 3)
    costs = []
    for direction in along:
        cost = ((x @ direction)[:, None] - (y @ direction)[None]) ** 2
        costs.append(cost[linear_sum_assignment(cost)].mean())
    found = swae.sliced_wasserstein(*(jnp.float32(part) for part in (x, y, along)))
    assert found == pytest.approx(np.mean(costs), rel=1e-5)


def test_distance_of_a_shift_is_the_mean_squared_projection_of_the_shift():
    """On average over directions |shift|^2 / Z."""
    x, shift, along = rng.normal(size=(50, 4)), np.array([[1.0, -2.0, 0.5, 3.0]]), directions(3000, 4)
    found = swae.sliced_wasserstein(*(jnp.float32(part) for part in (x, x + shift, along)))
    assert found == pytest.approx(((along @ shift.T) ** 2).mean(), rel=1e-4)
    assert found == pytest.approx((shift**2).sum() / 4, rel=0.1)


def test_loss_weights_the_distance_of_the_codes_to_samples_of_the_prior():
    """Codes from N(0, I) have a small distance to it, which 2 + 3 z exceeds by the closed form |2|^2 + (3 - 1)^2."""
    model = autoencoder.Autoencoder(nets.MLP((), (2,)), nets.MLP((), (2,)))
    z = rng.normal(size=(4000, 2)).astype(np.float32)
    params = model.init(new_key(), jnp.asarray(z))["params"]

    @jax.jit
    def terms(scale, shift):
        kernels = {"kernel": scale * jnp.eye(2), "bias": jnp.full_like(params["encoder"]["Dense_0"]["bias"], shift)}
        loss = swae.loss(model, lambda step: 5.0 + step, 64)
        variables = {"params": {**params, "encoder": {"Dense_0": kernels}}}
        return loss(variables, batch(z).replace(step=jnp.int32(2)), new_key())[0]

    near, far = terms(1.0, 0.0), terms(3.0, 2.0)
    assert float(near["distance"][0]) < 0.01
    assert float(far["distance"][0]) == pytest.approx(4 + 4, rel=0.1)
    np.testing.assert_array_equal(far["distance"], np.full(4000, far["distance"][0]))
    np.testing.assert_allclose(far["loss"], far["reconstruction"] + 7 * far["distance"], rtol=1e-5)
