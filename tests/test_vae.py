import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from scipy import stats

from conftest import batch, equal, new_key
from jaxae import nets, prob
from jaxae.step import descend
from jaxae.types import State
from jaxae.variants import vae

SIGMA = 0.5
W = np.array([[1.0, 0.5], [-1.0, 1.0], [0.5, 3.0], [2.0, -0.5]]) * np.array([0.9, 0.4])  # orthogonal columns
OFFSET = np.array([0.3, -0.2, 0.0, 1.0])


def linear_gaussian():
    """x = W z + b + 0.5 noise: its marginal likelihood and its posterior are known (Bishop 2006, section 12.2)."""
    model = vae.VAE(encoder=nets.MLP((), (4,)), decoder=nets.MLP((), (4,)))
    precision = W.T @ W + SIGMA**2 * np.eye(2)
    assert abs(precision[0, 1]) < 1e-12
    to_mean = W @ np.linalg.inv(precision)
    scale = np.sqrt(SIGMA**2 / np.diag(precision))
    kernel = np.concatenate([to_mean, np.zeros((4, 2))], axis=1)
    bias = np.concatenate([-OFFSET @ to_mean, np.log(scale)])
    params = {
        "encoder": {"Dense_0": {"kernel": kernel, "bias": bias}},
        "decoder": {"Dense_0": {"kernel": W.T, "bias": OFFSET}},
    }
    x = np.random.default_rng(0).multivariate_normal(OFFSET, W @ W.T + SIGMA**2 * np.eye(4), 30)
    exact = stats.multivariate_normal(OFFSET, W @ W.T + SIGMA**2 * np.eye(4)).logpdf(x).mean()
    return model, jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), params), x.astype(np.float32), exact


def gaussian(mean, x):
    return prob.normal(prob.Normal(mean, jnp.full(mean.shape, np.log(SIGMA))), x)


@pytest.fixture
def expected_bound(monkeypatch):
    """The bound in expectation, exactly: a quadratic's mean over N(0, I_2) is its mean over four points."""
    points = jnp.sqrt(2.0) * jnp.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    monkeypatch.setattr(vae, "noise", lambda key, batch, shape: jnp.tile(points, (len(batch.x) // 4, 1)))

    def bound(model, params, x):
        return -vae.loss(model, gaussian)(params, {}, batch(np.repeat(x, 4, axis=0)), new_key())[0]

    return bound


def test_bound_is_the_marginal_likelihood_at_the_optimum(expected_bound):
    model, params, x, exact = linear_gaussian()
    np.testing.assert_allclose(expected_bound(model, params, x), exact, rtol=1e-5)
    slope = jax.grad(lambda p: expected_bound(model, p, x))(params)["encoder"]
    assert max(jax.tree.leaves(jax.tree.map(lambda g: float(jnp.abs(g).max()), slope))) < 1e-4


def test_bound_is_never_above_the_marginal_likelihood(expected_bound):
    model, params, x, exact = linear_gaussian()
    for i in range(50):
        leaves, tree = jax.tree.flatten(params["encoder"])
        keys = jax.random.split(jax.random.fold_in(new_key(), i), len(leaves))
        size = 10 ** (-3 + i / 15)
        moved = [leaf + size * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
        bound = expected_bound(model, {**params, "encoder": jax.tree.unflatten(tree, moved)}, x)
        assert bound < exact + 1e-5
        assert size < 0.05 or bound < exact - 1e-3


def test_single_sample_bound_is_unbiased(expected_bound, monkeypatch):
    model, params, x, _ = linear_gaussian()
    params["encoder"]["Dense_0"]["bias"] += 0.3
    expected = float(expected_bound(model, params, x))
    monkeypatch.undo()
    loss = jax.jit(lambda key: vae.loss(model, gaussian)(params, {}, batch(x), key)[0])
    draws = np.array([-loss(jax.random.fold_in(new_key(), i)) for i in range(2000)], np.float64)
    assert abs(draws.mean() - expected) < 4 * draws.std() / np.sqrt(2000) < 0.05


def test_training_reaches_the_marginal_likelihood(expected_bound):
    """From a wrong encoder, gradient descent on the bound finds the exact posterior."""
    model, params, x, exact = linear_gaussian()
    params["encoder"] = jax.tree.map(jnp.zeros_like, params["encoder"])
    transition = descend(vae.loss(model, gaussian), optax.adam(0.02), wrt=("encoder",))
    state = State(jnp.int32(0), params, transition.init(params), {})
    data = batch(np.repeat(x, 4, axis=0))
    state = jax.lax.fori_loop(0, 3000, lambda i, s: transition.step(s, data, new_key())[0], state)
    np.testing.assert_allclose(expected_bound(model, state.params, x), exact, atol=1e-3)
    assert equal(state.params["decoder"], params["decoder"])


def small():
    model = vae.VAE(
        encoder=nets.MLP((6,), (4,), axes=3, activation=jnp.tanh),
        decoder=nets.MLP((6,), (3, 3, 1), activation=jnp.tanh),
    )
    x = jax.random.uniform(new_key(), (5, 3, 3, 1))
    return model, model.init(new_key(), x)["params"], x


def test_gradient_against_finite_differences():
    model, params, x = small()
    check_grads(lambda p: vae.loss(model)(p, {}, batch(x), new_key())[0], (params,), order=1, modes=["rev"], eps=1e-2)


def test_loss_against_numpy():
    model, params, x = small()
    value, (_, metrics) = vae.loss(model)(params, {}, batch(x), new_key())
    q = model.apply({"params": params}, x, method="posterior")
    eps = vae.noise(new_key(), batch(x), (2,))
    z = np.asarray(q.mean + np.exp(q.log_scale) * eps)
    pixels = np.asarray(model.apply({"params": params}, jnp.asarray(z), method="decode"), np.float64)
    target = np.asarray(x, np.float64)
    cross = -(target * np.log(pixels) + (1 - target) * np.log(1 - pixels)).sum((1, 2, 3))
    kl = 0.5 * (np.asarray(q.mean) ** 2 + np.exp(2 * q.log_scale) - 1 - 2 * q.log_scale).sum(1)
    np.testing.assert_allclose(value, (cross + kl).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["reconstruction"], cross.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["kl"], kl.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["bce"], cross.mean() / 9, rtol=1e-5)
    np.testing.assert_allclose(metrics["mse"], ((pixels - target) ** 2).mean(), rtol=1e-5)


def test_reparameterization_has_the_right_moments_and_gradient():
    q = prob.Normal(jnp.array([[1.0, -2.0]]), jnp.log(jnp.array([[0.5, 3.0]])))
    eps = jax.random.normal(new_key(), (100_000, 2))
    z = vae.reparameterize(prob.Normal(*(jnp.broadcast_to(v, eps.shape) for v in q)), eps)
    np.testing.assert_allclose(z.mean(0), [1, -2], atol=4 * 3 / np.sqrt(len(eps)))
    np.testing.assert_allclose(z.std(0), [0.5, 3], rtol=0.02)
    slope = jax.grad(lambda q: jnp.sum(vae.reparameterize(q, eps[:1])))(q)
    np.testing.assert_allclose(slope.mean, [[1, 1]])
    np.testing.assert_allclose(slope.log_scale, jnp.exp(q.log_scale) * eps[:1], rtol=1e-6)


def test_encode_is_the_posterior_mean_and_decode_is_in_the_unit_interval():
    model, params, x = small()
    z = model.apply({"params": params}, x, method="encode")
    assert equal(z, model.apply({"params": params}, x, method="encode"))
    assert equal(z, model.apply({"params": params}, x, method="posterior").mean)
    far = model.apply({"params": params}, 1e3 * z, method="decode")
    assert 0 <= far.min() < far.max() <= 1


def test_prior_is_standard_normal():
    z = np.asarray(vae.prior(3)({}, new_key(), 50_000))
    assert z.shape == (50_000, 3)
    np.testing.assert_allclose(z.mean(0), 0, atol=4 / np.sqrt(len(z)))
    np.testing.assert_allclose(np.cov(z.T), np.eye(3), atol=0.03)
