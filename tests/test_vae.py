from dataclasses import replace
from functools import partial
from typing import no_type_check

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from jax.test_util import check_grads
from scipy import stats

from conftest import apply, batch, equal, evaluated, new_key, trained
from jaxae import nets
from jaxae.core import divergences, kl_term
from jaxae.core.batch import Batch
from jaxae.core.divergences import DiagonalNormal
from jaxae.core.experiment import Experiment
from jaxae.core.step import Transition, descend
from jaxae.core.types import State
from jaxae.likelihoods import Normal
from jaxae.variants import vae

SIGMA = 0.5
W = np.array([[1.0, 0.5], [-1.0, 1.0], [0.5, 3.0], [2.0, -0.5]]) * np.array([0.9, 0.4])  # orthogonal columns
OFFSET = np.array([0.3, -0.2, 0.0, 1.0])


def linear_gaussian():
    """x = W z + b + 0.5 noise, with known marginal likelihood and posterior (Bishop 2006, section 12.2)."""
    model = vae.VAE(encoder=nets.MLP((), (4,)), decoder=nets.MLP((), (4,)), likelihood=Normal(SIGMA))
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


def wrong_encoder():
    """The linear-Gaussian model with a perturbed encoder."""
    model, params, x, exact = linear_gaussian()
    dense = params["encoder"]["Dense_0"]
    dense["bias"] = dense["bias"] + jnp.array([0.2, -0.1, 0.3, 0.2])
    return model, params, x, exact


def closed_form(params, x):
    """E_q[log p(x|z)] and KL(q || p) of the linear-Gaussian model, per example, in float64."""
    dense = jax.tree.map(lambda v: np.asarray(v, np.float64), params["encoder"]["Dense_0"])
    mean, log_scale = np.split(x @ dense["kernel"] + dense["bias"][None], 2, axis=1)
    variance = np.exp(2 * log_scale)
    square = ((x - mean @ W.T - OFFSET) ** 2).sum(1) + variance @ (W**2).sum(0)
    likelihood = -0.5 * square / SIGMA**2 - 4 * np.log(SIGMA) - 2 * np.log(2 * np.pi)
    return likelihood, 0.5 * (mean**2 + variance - 1 - 2 * log_scale).sum(1)


@no_type_check
@struct.dataclass
class Quadrature(Batch):
    """A batch with four noise points, whose mean of a quadratic equals that over N(0, I_2)."""

    def noise(self, key, shape):
        points = jnp.sqrt(2.0) * jnp.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
        return jnp.tile(points, (len(self.x) // 4, 1)).reshape(-1, *shape)


def quadrature(x):
    """Each example once with each of the four points."""
    rows = jnp.repeat(jnp.asarray(x), 4, axis=0)
    return Quadrature(rows, jnp.arange(len(rows)), jnp.ones(len(rows)), jnp.int32(0))


def mean_terms(loss, params, examples, key=None):
    """Mean of every term over the batch."""
    terms, updates = loss({"params": params}, examples, new_key() if key is None else key)
    assert updates == {}
    return jax.tree.map(jnp.mean, terms)


means = jax.jit(mean_terms, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def expected_bound(model, params, x):
    """The exact expectation of the bound: log p(x|z) is a quadratic in the noise."""
    return -means(vae.loss(model), params, quadrature(x))["loss"]


def test_elbo_is_the_log_marginal_likelihood_at_the_optimum():
    model, params, x, exact = linear_gaussian()
    np.testing.assert_allclose(expected_bound(model, params, x), exact, rtol=1e-5)
    slope = jax.jit(jax.grad(lambda p: expected_bound(model, p, x)))(params)["encoder"]
    assert max(jax.tree.leaves(jax.tree.map(lambda g: float(np.abs(g).max()), slope))) < 1e-4


def test_elbo_is_never_above_the_log_marginal_likelihood():
    model, params, x, exact = linear_gaussian()
    for i in range(50):
        leaves, tree = jax.tree.flatten(params["encoder"])
        keys = jax.random.split(jax.random.fold_in(new_key(), i), len(leaves))
        size = 10 ** (-3 + i / 15)
        moved = [leaf + size * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
        bound = expected_bound(model, {**params, "encoder": jax.tree.unflatten(tree, moved)}, x)
        assert bound < exact + 1e-5
        assert size < 0.05 or bound < exact - 1e-3


def test_single_sample_elbo_is_unbiased():
    model, params, x, _ = linear_gaussian()
    params["encoder"]["Dense_0"]["bias"] += 0.3
    expected = float(expected_bound(model, params, x))
    loss = jax.jit(lambda key: means(vae.loss(model), params, batch(x), key)["loss"])
    draws = np.array([-loss(jax.random.fold_in(new_key(), i)) for i in range(2000)], np.float64)
    assert abs(draws.mean() - expected) < 4 * draws.std() / np.sqrt(2000) < 0.05


def test_terms_in_expectation_are_the_closed_form_with_a_kl_weight():
    model, params, x, _ = wrong_encoder()
    likelihood, kl = (values.mean() for values in closed_form(params, x))
    found = means(vae.loss(model, kl_term.weighted(0.3)), params, quadrature(x))
    np.testing.assert_allclose(found["loss"], -likelihood + 0.3 * kl, rtol=1e-5)
    np.testing.assert_allclose(found["reconstruction"], -likelihood, rtol=1e-5)
    np.testing.assert_allclose(found["kl"], kl, rtol=1e-5)


def test_training_reaches_the_log_marginal_likelihood():
    """From a perturbed encoder, gradient descent on the bound converges to the exact posterior."""
    model, params, x, exact = linear_gaussian()
    params["encoder"] = jax.tree.map(jnp.zeros_like, params["encoder"])
    transition = descend(vae.loss(model), optax.adam(0.02), wrt=("encoder",))
    state = State(jnp.int32(0), params, transition.init(params), {})
    data = quadrature(x)
    state = jax.lax.fori_loop(0, 3000, lambda i, s: transition.step(s, data, new_key())[0], state)
    np.testing.assert_allclose(expected_bound(model, state.params, x), exact, atol=1e-3)
    assert equal(state.params["decoder"], params["decoder"])


def small():
    model = vae.VAE(
        encoder=nets.MLP((6,), (4,), axes=3, activation=jnp.tanh),
        decoder=nets.MLP((6,), (3, 3, 1), activation=jnp.tanh),
    )
    x = jax.random.uniform(new_key(), (5, 3, 3, 1))
    return model, jax.jit(model.init)(new_key(), x)["params"], x


def test_gradient_against_finite_differences():
    model, params, x = small()
    check_grads(
        jax.jit(lambda p: means(vae.loss(model, kl_term.weighted(0.3)), p, batch(x))["loss"]),
        (params,),
        order=1,
        modes=["rev"],
        eps=1e-2,
    )


def test_loss_against_numpy():
    model, params, x = small()
    found = means(vae.loss(model), params, batch(x))
    q = jax.tree.map(np.asarray, apply(model, {"params": params}, x, method="posterior"))
    eps = np.asarray(batch(x).noise(new_key(), (2,)))
    z = q.mean + np.exp(q.log_scale) * eps
    pixels = np.asarray(apply(model, {"params": params}, z, method="decode"), np.float64)
    target = np.asarray(x, np.float64)
    cross = -(target * np.log(pixels) + (1 - target) * np.log(1 - pixels)).sum((1, 2, 3))
    kl = 0.5 * (q.mean**2 + np.exp(2 * q.log_scale) - 1 - 2 * q.log_scale).sum(1)
    np.testing.assert_allclose(found["loss"], (cross + kl).mean(), rtol=1e-5)
    np.testing.assert_allclose(found["reconstruction"], cross.mean(), rtol=1e-5)
    np.testing.assert_allclose(found["kl"], kl.mean(), rtol=1e-5)
    np.testing.assert_allclose(found["bce"], cross.mean() / 9, rtol=1e-5)
    np.testing.assert_allclose(found["mse"], ((pixels - target) ** 2).mean(), rtol=1e-5)


def test_terms_are_one_number_per_example_that_depends_on_no_other():
    model, params, x = small()
    loss = vae.loss(model)
    terms, _ = evaluated(loss, {"params": params}, batch(x))
    last = batch(x[3:]).replace(index=jnp.arange(3, 5))
    alone, _ = evaluated(loss, {"params": params}, last)
    assert {values.shape for values in terms.values()} == {(5,)}
    for name, values in terms.items():
        np.testing.assert_allclose(alone[name], values[3:], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("axes", [1, 3])
def test_missing_pixels_are_excluded_from_the_reconstruction(axes):
    """Whole rows with a mask [B, T], any pixels with a mask of the shape of x."""
    model, params, x = small()
    mask = np.random.default_rng(0).integers(0, 2, x.shape[: axes + 1]).astype(np.float32)
    found, _ = evaluated(vae.loss(model), {"params": params}, batch(x, mask=jnp.asarray(mask)))
    q, z = jax.jit(vae.sample_posterior, static_argnums=0)(model, {"params": params}, batch(x), new_key())
    pixels = np.asarray(apply(model, {"params": params}, z, method="decode"), np.float64)
    cross = -(np.asarray(x) * np.log(pixels) + (1 - np.asarray(x)) * np.log(1 - pixels))
    expected = (cross * mask.reshape(*mask.shape, *[1] * (3 - axes))).sum((1, 2, 3))
    np.testing.assert_allclose(found["reconstruction"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["loss"], expected + np.asarray(jax.jit(divergences.kl_normal)(q)), rtol=1e-5)


def test_reparameterization_has_the_right_moments_and_gradient():
    q = DiagonalNormal(jnp.array([[1.0, -2.0]]), jnp.log(jnp.array([[0.5, 3.0]])))
    eps = jax.random.normal(new_key(), (100_000, 2))
    z = vae.reparameterize(DiagonalNormal(*(jnp.broadcast_to(v, eps.shape) for v in q)), eps)
    np.testing.assert_allclose(z.mean(0), [1, -2], atol=4 * 3 / np.sqrt(len(eps)))
    np.testing.assert_allclose(z.std(0), [0.5, 3], rtol=0.02)
    slope = jax.grad(lambda q: jnp.sum(vae.reparameterize(q, eps[:1])))(q)
    np.testing.assert_allclose(slope.mean, [[1, 1]])
    np.testing.assert_allclose(slope.log_scale, jnp.exp(q.log_scale) * eps[:1], rtol=1e-6)


def test_encode_is_the_posterior_mean_and_decode_is_in_the_unit_interval():
    model, params, x = small()
    of = partial(apply, model, {"params": params})
    z = np.asarray(of(x, method="encode"))
    assert equal(z, of(x, method="encode"))
    assert equal(z, of(x, method="posterior").mean)
    far = of(1e3 * z, method="decode")
    assert 0 <= far.min() < far.max() <= 1


def test_noisy_samples_have_the_covariance_of_the_marginal_likelihood():
    """That of 20,000 samples; without noise it is W W^T. Both seeds have the same noise."""
    model, params, *_ = linear_gaussian()
    experiment = Experiment(model, Transition(dict, dict), vae.loss(model), vae.prior(2))
    one = replace(trained(experiment, params, {}, (4,)), real=True)
    two = replace(one, state=jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), one.state), seeds=range(2))
    for noise, covariance in ((False, W @ W.T), (True, W @ W.T + SIGMA**2 * np.eye(4))):
        x = one.sample(new_key(), 20_000, noise=noise)
        np.testing.assert_allclose(np.cov(x, rowvar=False), covariance, atol=0.15)
        np.testing.assert_allclose(x.mean(0), OFFSET, atol=0.06)
        for each in two.sample(new_key(), 20_000, noise=noise):
            np.testing.assert_allclose(each, x, rtol=1e-4, atol=1e-4)
    z = jnp.array([[0.3, -0.4]] * 3)
    again = one.decode(z[1:], noise=jax.random.split(new_key(), 3)[1:])
    np.testing.assert_array_equal(one.decode(z, noise=jax.random.split(new_key(), 3))[1:], again)
    assert len(np.unique(again)) == again.size


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_prior_is_normal_with_this_standard_deviation(scale):
    z = np.asarray(vae.prior(3, scale)({}, new_key(), 50_000))
    assert z.shape == (50_000, 3)
    np.testing.assert_allclose(z.mean(0), 0, atol=4 * scale / np.sqrt(len(z)))
    np.testing.assert_allclose(np.cov(z.T), scale**2 * np.eye(3), atol=0.03 * scale**2)
