"""The conditional variational autoencoder against the linear-Gaussian model in closed form, and other formulas."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from conftest import apply, batch, evaluated, new_key
from jaxae import data, nets
from jaxae.core import divergences
from jaxae.core.batch import Layout
from jaxae.core.conditions import condition
from jaxae.core.divergences import DiagonalNormal
from jaxae.core.types import Examples, State
from jaxae.experiments import cvae as conditional_experiment
from jaxae.experiments import vae as plain_experiment
from jaxae.likelihoods import Normal
from jaxae.measure import likelihood
from jaxae.training import epoch
from jaxae.training.iterate import iterate
from jaxae.training.start import start
from jaxae.variants import cvae, iwae, vae

rng = np.random.default_rng(0)

# x = W z + V c + b + SIGMA * noise, z = A c + a + SCALE * noise, c of 2 classes and 2 covariates.
SIGMA = 0.7
W = np.linalg.qr(rng.normal(size=(5, 2)))[0] * [1.5, 0.6]  # orthogonal columns: the posterior is diagonal
V, OFFSET = rng.normal(size=(5, 4)), rng.normal(size=5)
A, SHIFT, SCALE = rng.normal(size=(2, 4)), rng.normal(size=2), np.array([0.5, 1.8])
COVARIANCE = W @ np.diag(SCALE**2) @ W.T + SIGMA**2 * np.eye(5)
POSTERIOR = 1 / (1 / SCALE**2 + (W**2).sum(0) / SIGMA**2)  # variances

Y = np.array([0, 1, 1, 0, -1, 1], np.int32)
CONTEXT = rng.normal(size=(6, 2)).astype(np.float32)
C = np.concatenate([np.array([[1, 0], [0, 1], [0, 1], [1, 0], [0, 0], [0, 1]]), CONTEXT], axis=1)
MEAN = C @ (W @ A + V).T + W @ SHIFT + OFFSET
X = (MEAN + rng.multivariate_normal(np.zeros(5), COVARIANCE, 6)).astype(np.float32)
LOG_P = np.array([stats.multivariate_normal(mean, COVARIANCE).logpdf(x) for mean, x in zip(MEAN, X, strict=True)])

MODEL = cvae.CVAE(nets.MLP((), (4,)), nets.MLP((), (5,)), Normal(SIGMA), classes=2, prior=nets.MLP((), (4,)))


def dense(kernel, bias):
    return {"Dense_0": {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}}


def variables(wrong=0.0):
    """Parameters; the encoder is the exact posterior, with `wrong` added to its mean and its log scale."""
    of_x = POSTERIOR[:, None] * W.T / SIGMA**2
    of_c = POSTERIOR[:, None] / SCALE[:, None] ** 2 * A - of_x @ V
    bias = POSTERIOR / SCALE**2 * SHIFT - of_x @ OFFSET
    encoder = np.concatenate([np.concatenate([of_x, of_c], axis=1).T, np.zeros((9, 2))], axis=1)
    params = {
        "encoder": dense(encoder, [*bias + wrong, *0.5 * np.log(POSTERIOR) + wrong]),
        "decoder": dense(np.concatenate([W, V], axis=1).T, OFFSET),
        "prior": dense(np.concatenate([A.T, np.zeros((4, 2))], axis=1), [*SHIFT, *np.log(SCALE)]),
    }
    return {"params": params}


def examples(places=slice(None)):
    return batch(X[places]).replace(y=jnp.asarray(Y[places]), context=jnp.asarray(CONTEXT[places]))


def test_condition_is_the_one_hot_class_followed_by_the_covariates():
    np.testing.assert_allclose(condition(jnp.asarray(Y), jnp.asarray(CONTEXT), 2), C, rtol=1e-6)
    np.testing.assert_array_equal(condition(jnp.asarray(Y), None, 2), C[:, :2])
    np.testing.assert_array_equal(condition(None, jnp.asarray(CONTEXT), 0), CONTEXT)


def test_weights_at_the_exact_posterior_are_the_conditional_likelihood():
    """log p(x, z|c) - log q(z|x, c) = log p(x|c) for every z."""

    @jax.jit
    def log_weights(variables, given, key):
        (c,) = vae.condition_of(MODEL, given)
        q = MODEL.apply(variables, given.x, c, method="posterior")
        z = q.samples(jax.random.normal(key, (6, 7, 2)))
        return iwae.densities(MODEL)(variables, (given.x, None, c), q, z).log_weights()

    found = log_weights(variables(), examples(), new_key())
    np.testing.assert_allclose(found, np.tile(LOG_P[:, None], 7), rtol=1e-4)


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_elbo_is_the_conditional_likelihood_minus_the_error_of_the_posterior(weight):
    """-E[reconstruction] - KL(q || p(z|c)) = log p(x|c) - KL(q || p(z|x, c)), times the KL weight."""
    wrong, draws = 0.4, 4000
    many = examples(np.repeat(np.arange(6), draws))
    terms, _ = jax.jit(vae.loss(MODEL, lambda kl, _: weight * divergences.per_example(kl)))(
        variables(wrong), many, new_key()
    )
    loss, reconstruction, kl = (
        np.asarray(terms[name], np.float64).reshape(6, draws) for name in ("loss", "reconstruction", "kl")
    )
    np.testing.assert_allclose(loss, reconstruction + weight * kl, rtol=1e-5)
    ratio = np.exp(2 * wrong)
    error = 0.5 * np.sum(wrong**2 / POSTERIOR + ratio - 1 - 2 * wrong)
    found, spread = -(reconstruction + kl).mean(1), reconstruction.std(1) / np.sqrt(draws)
    assert np.all(np.abs(found - (LOG_P - error)) < 5 * spread)
    assert error > 10 * spread.max()


def test_importance_sampling_estimates_the_conditional_likelihood():
    of, c = iwae.densities(MODEL), np.asarray(vae.condition_of(MODEL, examples())[0])
    estimate = partial(likelihood.estimate, of, MODEL)
    exact = estimate(variables(), X, new_key(), 10, c=c)
    assert exact["log_likelihood"] == pytest.approx(LOG_P.mean(), rel=1e-5)
    assert exact["ess"] == pytest.approx(10, rel=1e-3)
    found = estimate(variables(0.3), X, new_key(), 20_000, c=c)
    assert abs(found["log_likelihood"] - LOG_P.mean()) < 5 * found["monte_carlo_error"] < 0.05
    other = estimate(variables(0.3), X, new_key(), 20_000, c=c[::-1])
    assert abs(other["log_likelihood"] - LOG_P.mean()) > 0.5


def test_samples_have_the_moments_of_the_conditional_prior():
    c = jnp.asarray(np.tile(C[:1], (100_000, 1)), jnp.float32)
    z = np.asarray(cvae.prior(MODEL, 2)(variables(), new_key(), 100_000, c), np.float64)
    np.testing.assert_allclose(z.mean(0), A @ C[0] + SHIFT, atol=5 * SCALE.max() / np.sqrt(1e5))
    np.testing.assert_allclose(z.std(0), SCALE, rtol=0.02)


def test_kl_of_two_normals_against_the_formula_in_float64():
    mean_q, mean_p, s, t = rng.normal(size=(4, 7, 3)).astype(np.float32)
    s[0], t[0] = s[0] * 1e-4, t[0] * 1e-4  # nearly equal scales, whose difference would cancel
    q, p = DiagonalNormal(mean_q, s), DiagonalNormal(mean_p, t)
    mean_q, mean_p, s, t = (part.astype(np.float64) for part in (mean_q, mean_p, s, t))
    expected = t - s + (np.exp(2 * s) + (mean_q - mean_p) ** 2) / (2 * np.exp(2 * t)) - 0.5
    kl = jax.jit(divergences.kl_normals_terms)
    np.testing.assert_allclose(kl(q, p), expected, rtol=1e-5)
    standard = jax.jit(divergences.standard_normal)(q.mean)
    np.testing.assert_allclose(kl(q, standard), jax.jit(divergences.kl_normal_terms)(q), rtol=1e-6)


def test_kl_of_two_normals_is_finite_at_the_limits_with_its_gradient():
    def total(s):
        q = DiagonalNormal(jnp.full((1, 1), 1e9), s[None, :1])
        return jnp.sum(divergences.kl_normals_terms(q, DiagonalNormal(jnp.zeros((1, 1)), s[None, 1:])))

    descent = jax.jit(jax.value_and_grad(total))
    for scales in ([-30.0, 30.0], [30.0, -8.0], [0.0, 0.0]):
        value, slope = descent(np.float32(scales))
        assert np.isfinite(value)
        assert np.isfinite(slope).all()


def test_standard_prior_ignores_the_condition():
    model = cvae.CVAE(nets.MLP((), (4,)), nets.MLP((), (5,)), Normal(SIGMA), classes=2)
    params = {name: part for name, part in variables()["params"].items() if name != "prior"}
    z = jax.random.normal(new_key(), (6, 2))
    found = model.apply({"params": params}, z, jnp.asarray(C, jnp.float32), method="log_prior")
    np.testing.assert_allclose(found, stats.norm.logpdf(np.asarray(z)).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(
        cvae.prior(model, 2)({"params": params}, new_key(), 6, jnp.asarray(C, jnp.float32)), z
    )


def small(experiment, found, **fields):
    config = experiment.Config(hidden=(7,), latent=2, batch_size=10, optimizer="adam", lr=1e-2, **fields)
    return experiment.build(config, found.info)


@pytest.mark.slow
def test_constant_condition_changes_nothing():
    """A constant covariate is 0 in model units: training from the same parameters gives the same losses and parameters.

    Its weights, the last rows of the first kernels, stay as they were.
    """
    x = rng.normal(size=(40, 3))
    plain_data, constant = data.from_arrays(x), data.from_arrays(x, context={"age": np.full(40, 31.0)})
    plain, model = small(plain_experiment, plain_data), small(conditional_experiment, constant, prior="standard")
    params = start(plain, plain_data.info, 10, range(1))[0].params
    wide = start(model, constant.info, 10, range(1))[0].params

    def widened(params):
        return jax.tree.map(lambda leaf, like: jnp.concatenate([leaf, like[len(leaf) :]]), params, wide)

    *_, without = iterate(plain, plain_data, epochs=3, batch_size=10, initial=(params, {}))
    *_, given = iterate(model, constant, epochs=3, batch_size=10, initial=(widened(params), {}))
    moved = without.state.params["encoder"]["Dense_0"]["kernel"] - params["encoder"]["Dense_0"]["kernel"]
    assert float(jnp.abs(moved).max()) > 0.01
    for split in ("train", "test"):
        np.testing.assert_allclose(getattr(given, split)["loss"], getattr(without, split)["loss"], rtol=1e-5)
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, given.state.params, widened(without.state.params))


@pytest.mark.parametrize("prior", ["learned", "standard"])
def test_fields_set_the_prior_and_the_kl_term_of_the_training_loss(prior):
    """In the middle of a warm-up of 20 steps to the KL weight 3; the test loss is the negative ELBO."""
    x, y, context = rng.normal(size=(10, 3)).astype(np.float32), np.arange(10) % 2, rng.normal(size=(10, 1))
    info = data.Info((3,), 100, real=True, classes=2, context=1)
    config = conditional_experiment.Config(
        hidden=(5,), latent=2, batch_size=10, prior=prior, prior_hidden=4, kl_weight=3.0, kl_warmup=2.0
    )
    built = conditional_experiment.build(config, info)
    params = jax.jit(built.model.init)(new_key(), jnp.zeros((1, 3)), jnp.zeros((1, 3)))["params"]
    assert ("prior" in params) == (prior == "learned")
    found = Examples(x, y, context=jnp.asarray(context, jnp.float32))
    one = jax.jit(epoch.step(built.train, (3,), 10, lambda a: a, Layout()))
    state = State(jnp.int32(10), params, jax.jit(built.train.init)(params), {})
    metrics = jax.tree.map(np.asarray, one(state, found, jnp.arange(10), new_key(), jnp.int32(0))[1])
    np.testing.assert_allclose(metrics["loss"], metrics["reconstruction"] + 1.5 * metrics["kl"], rtol=1e-5)
    many = batch(x).replace(y=jnp.asarray(y), context=found.context, training=False)
    terms, _ = evaluated(built.evaluate, {"params": params}, many)
    np.testing.assert_allclose(terms["loss"], terms["reconstruction"] + terms["kl"], rtol=1e-5)
    q = apply(built.model, {"params": params}, x, vae.condition_of(built.model, many)[0], method="posterior")
    standard = np.asarray(jax.jit(divergences.kl_normal)(q))
    assert np.allclose(terms["kl"], standard, rtol=1e-4) == (prior == "standard")
