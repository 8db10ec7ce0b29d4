"""Autoencoders with flows on linear-Gaussian models whose likelihood and posterior are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from conftest import batch, new_key
from jaxae import nets
from jaxae.core.types import Info
from jaxae.experiments import flow_vae as experiment
from jaxae.likelihoods import Normal
from jaxae.measure import likelihood
from jaxae.variants import flow_vae, flows, iwae
from test_flows import moved
from test_vae import OFFSET, SIGMA, closed_form, means, quadrature, wrong_encoder

W = np.array([[1.0, 0.5], [-1.0, 0.5], [0.5, 2.0], [2.0, 2.0]])  # columns that are not orthogonal
PRECISION = W.T @ W / SIGMA**2 + np.eye(2)  # of z given x


def model_of(posterior=None, prior=None, context=0, hidden=(8,), size=0.0):
    """x = W z + b + 0.5 noise, with an encoder of 0, and flows of two dimensions with random parameters."""
    named = [
        None if name is None else flows.named(name, 1, 2, hidden, given)
        for name, given in ((posterior, context), (prior, 0))
    ]
    model = flow_vae.FlowVAE(
        nets.MLP((), (4 + context,)),
        nets.MLP((), (4,)),
        Normal(SIGMA),
        latent=2,
        posterior_flow=named[0],
        prior_flow=named[1],
    )
    params = moved(jax.jit(model.init)(new_key(), jnp.zeros((1, 4)))["params"], size)
    params["decoder"] = {"Dense_0": {"kernel": jnp.asarray(W.T, jnp.float32), "bias": jnp.asarray(OFFSET, jnp.float32)}}
    return model, params


def encoder(to_mean, offset, scale):
    """The parameters of an encoder whose mean is x @ to_mean + offset."""
    kernel = np.concatenate([to_mean, np.zeros((4, 2))], axis=1)
    bias = np.concatenate([offset, np.log(scale)])
    return {"Dense_0": {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}}


def data(mean, covariance, count=20):
    """Examples of the model with the prior N(mean, covariance), and their mean log density."""
    of = stats.multivariate_normal(W @ mean + OFFSET, W @ covariance @ W.T + SIGMA**2 * np.eye(4))
    x = of.rvs(count, random_state=0)
    return x.astype(np.float32), of.logpdf(x).mean()


def estimated(model, params, x, samples):
    return likelihood.estimate(iwae.densities(model), model, {"params": params}, x, new_key(), samples)


def test_flow_posterior_reaches_the_likelihood_that_a_diagonal_one_cannot():
    """The exact posterior N(m, L L^T) is z_2 = z0_2 + a z0_1 of a diagonal one.

    The best diagonal posterior has the scales (P_ii)^-1/2, P being the precision, and the bound is lower by
    (sum_i log P_ii - log det P) / 2.
    """
    x, exact = data(np.zeros(2), np.eye(2))
    covariance = np.linalg.inv(PRECISION)
    a = covariance[0, 1] / covariance[0, 0]
    shear = np.array([[1, 0], [a, 1]])
    to_mean = W @ covariance / SIGMA**2
    scale = np.sqrt([covariance[0, 0], 1 / PRECISION[1, 1]])
    np.testing.assert_allclose(shear @ np.diag(scale**2) @ shear.T, covariance, rtol=1e-6)
    model, params = model_of("iaf", hidden=())
    net = params["posterior_flow"]["flows_0"]["net"]
    net["kernel_0"] = net["kernel_0"].at[0, 3].set(a)  # the shift of dimension 2
    to_base = to_mean @ np.linalg.inv(shear).T
    params["encoder"] = encoder(to_base, -OFFSET @ to_base, scale)
    found = means(jax.jit(flow_vae.loss(model)), params, batch(x))
    assert -found["loss"] == pytest.approx(exact, rel=1e-5)  # for any noise
    diagonal, params = model_of()
    params["encoder"] = encoder(to_mean, -OFFSET @ to_mean, np.diag(PRECISION) ** -0.5)
    gap = (np.log(np.diag(PRECISION)).sum() - np.linalg.slogdet(PRECISION)[1]) / 2
    assert gap > 0.05
    found = means(jax.jit(flow_vae.loss(diagonal)), params, quadrature(x))
    assert -found["loss"] == pytest.approx(exact - gap, rel=1e-5)


def test_flows_that_are_the_identity_give_the_bound_of_the_diagonal_model():
    """With the KL weight 0.3; exact in expectation, since log p(x, z) and log q(z|x) are quadratic in the noise."""
    plain, params, x, _ = wrong_encoder()
    model = flow_vae.FlowVAE(
        plain.encoder,
        plain.decoder,
        plain.likelihood,
        latent=2,
        posterior_flow=flows.named("spline", 2, 2, (8,)),
        prior_flow=flows.named("maf", 2, 2, (8,)),
    )
    initial = jax.jit(model.init)(new_key(), jnp.asarray(x))["params"]
    log_p, kl = (values.mean() for values in closed_form(params, x))
    examples = quadrature(x).replace(step=jnp.int32(10))
    found = means(jax.jit(flow_vae.loss(model, lambda step: 0.03 * step)), {**initial, **params}, examples)
    np.testing.assert_allclose(found["loss"], -log_p + 0.3 * kl, rtol=1e-5)
    np.testing.assert_allclose(found["reconstruction"], -log_p, rtol=1e-5)
    np.testing.assert_allclose(found["kl"], kl, rtol=1e-4)


def test_importance_sampling_with_a_flow_posterior_agrees_with_the_exact_likelihood():
    """A random planar flow, which depends on the example: the bound is below, and the estimate is right."""
    x, exact = data(np.zeros(2), np.eye(2))
    model, params = model_of("planar", context=3, size=0.2)
    to_mean = W @ np.linalg.inv(PRECISION) / SIGMA**2
    kernel = params["encoder"]["Dense_0"]["kernel"].at[:, :4].set(0).at[:, :2].set(to_mean)
    bias = jnp.concatenate(
        [jnp.asarray(-OFFSET @ to_mean), jnp.full(2, -0.3), params["encoder"]["Dense_0"]["bias"][4:]]
    )
    params["encoder"] = {"Dense_0": {"kernel": kernel, "bias": bias.astype(jnp.float32)}}
    found = estimated(model, params, x, 20_000)
    assert found["log_likelihood"] == pytest.approx(exact, abs=4 * found["monte_carlo_error"] + 1e-3)
    assert found["monte_carlo_error"] < 0.03
    assert found["elbo"] < exact - 0.1


def linear(net, log_scale, a, shift):
    """Make the autoregressive flow of this net linear, and return its matrix; the shift is the other part."""
    net["bias_0"] = jnp.asarray(np.stack([5 * np.arctanh(log_scale / 5), shift], axis=1).ravel(), jnp.float32)
    net["kernel_0"] = net["kernel_0"].at[0, 3].set(a)
    return np.diag(np.exp(log_scale)) + np.array([[0, 0], [a, 0]])


def linear_prior(posterior=None):
    """The parameters of a flow u = e^s z + t whose t is linear, and mean and covariance of z."""
    model, params = model_of(posterior, "maf", hidden=())
    shift = np.array([0.5, -0.4])
    net = params["prior_flow"]["flow"]["flows_0"]["net"]
    inverse = np.linalg.inv(linear(net, np.array([0.3, -0.2]), 0.8, shift))
    return model, params, -inverse @ shift, inverse @ inverse.T


def test_likelihood_with_a_flow_prior_is_exact_in_a_linear_gaussian_model():
    """With the exact posterior mean, and half the exact variances; also log p(z) and samples of it."""
    model, params, mean, covariance = linear_prior()
    x, exact = data(mean, covariance)
    precision = W.T @ W / SIGMA**2 + np.linalg.inv(covariance)
    to_mean = W @ np.linalg.inv(precision) / SIGMA**2
    offset = mean - (W @ mean + OFFSET) @ to_mean
    params["encoder"] = encoder(to_mean, offset, np.diag(precision) ** -0.5)
    gap = (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1]) / 2
    found = estimated(model, params, x, 3000)
    assert found["log_likelihood"] == pytest.approx(exact, abs=4 * found["monte_carlo_error"] + 1e-3)
    assert found["elbo"] == pytest.approx(exact - gap, abs=0.02)
    z = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    log_p = model.apply({"params": params}, jnp.asarray(z), method="log_prior")
    np.testing.assert_allclose(log_p, stats.multivariate_normal(mean, covariance).logpdf(z), rtol=1e-4)
    draws = np.asarray(flow_vae.prior(model)({"params": params}, new_key(), 50_000, jnp.zeros((50_000, 1))), np.float64)
    np.testing.assert_allclose(draws.mean(0), mean, atol=4 * np.sqrt(covariance.max() / len(draws)))
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.03 * covariance.max())


def test_loss_with_linear_flows_against_scipy():
    """p(x|z), p(z) and q(z|x) are normal; the terms of each example, with the KL weight 0.7."""
    model, params, mean, covariance = linear_prior("iaf")
    shift, scale = np.array([0.2, -0.3]), np.array([0.4, 0.6])
    matrix = linear(params["posterior_flow"]["flows_0"]["net"], np.array([-0.5, 0.2]), -0.6, shift)
    to_mean, offset = 0.2 * W, np.array([0.1, -0.1])
    params["encoder"] = encoder(to_mean, offset, scale)
    x, _ = data(mean, covariance)
    examples = batch(x)
    terms, _ = jax.jit(flow_vae.loss(model, 0.7))({"params": params}, examples, new_key())
    eps = np.asarray(examples.noise(new_key(), (2,)), np.float64)
    centre = x @ to_mean + offset
    z = (centre + scale * eps) @ matrix.T + shift
    apart = z - (centre @ matrix.T + shift)
    log_q = stats.multivariate_normal(np.zeros(2), matrix @ np.diag(scale**2) @ matrix.T).logpdf(apart)
    kl = log_q - stats.multivariate_normal(mean, covariance).logpdf(z)
    error = -stats.norm.logpdf(x, z @ W.T + OFFSET, SIGMA).sum(1)
    np.testing.assert_allclose(terms["reconstruction"], error, rtol=1e-4)
    np.testing.assert_allclose(terms["kl"], kl, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(terms["loss"], error + 0.7 * kl, rtol=1e-4)


def test_flow_has_no_kl_in_closed_form():
    model, params = model_of()
    q = model.apply({"params": params}, jnp.zeros((1, 4)), method="posterior")
    with pytest.raises(NotImplementedError, match=r"use flow_vae\.loss or iwae\.loss"):
        model.apply({"params": params}, q, method="kl")


def test_code_is_the_flow_of_the_posterior_mean():
    model, params = model_of("iaf", context=3, size=0.3)
    x = jnp.asarray(data(np.zeros(2), np.eye(2))[0])

    @jax.jit
    def found(x):
        q, z, encoded = (model.apply({"params": params}, x, method=name) for name in ("posterior", "encode", "encoded"))
        flow = {"params": params["posterior_flow"]}
        return q.mean, z, model.posterior_flow.apply(flow, q.mean, encoded[:, 4:], method="forward")[0]

    mean, z, expected = found(x)
    np.testing.assert_allclose(z, expected, rtol=1e-5)
    assert np.abs(z - mean).max() > 0.1


def test_experiment_has_the_flows_of_its_fields():
    info = Info((4, 4, 1), 100)
    fields = {"hidden": (5,), "latent": 3, "flow_hidden": (7,), "flow_context": 6, "flow_steps": 1, "flow_bins": 4}

    def shapes(**more):
        model = experiment.build(experiment.Config(**{**fields, **more}), info).model
        params = jax.eval_shape(model.init, new_key(), jnp.zeros((1, 4, 4, 1)))["params"]
        flat = jax.tree_util.tree_flatten_with_path(params)[0]
        return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in flat}

    both = shapes(posterior_flow="iaf", prior_flow="spline")
    assert both["encoder/Dense_1/kernel"] == (5, 2 * 3 + 6)
    assert both["posterior_flow/flows_0/net/kernel_context"] == (6, 7)
    assert both["prior_flow/flows_0/last/kernel"] == (7, 2 * (3 * 4 - 1))
    none = shapes(posterior_flow="none", prior_flow="none")
    assert {name.split("/")[0] for name in none} == {"encoder", "decoder"}
    assert none["encoder/Dense_1/kernel"] == (5, 2 * 3)
    with pytest.raises(ValueError, match="prior_flow=planar has no inverse in closed form; use radial"):
        shapes(prior_flow="planar")
