"""The importance weighted bound on a model whose marginal likelihood is known."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from conftest import apply, batch, equal, evaluated, new_key
from jaxae.core import divergences
from jaxae.measure import likelihood
from jaxae.variants import iwae, vae
from test_vae import OFFSET, SIGMA, W, closed_form, linear_gaussian, mean_terms, means, quadrature, small, wrong_encoder

GRADIENTS = ["plain", "dreg"]


def bounds(model, params, x, samples, count, **options):
    """The bound for each of this many keys."""
    loss = iwae.loss(model, samples, **options)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(new_key(), jnp.arange(count))
    found = jax.jit(jax.vmap(lambda key: mean_terms(loss, params, batch(x), key)["loss"]))(keys)
    return -np.asarray(found, np.float64)


@pytest.mark.parametrize("samples", [1, 5])
def test_bound_is_the_marginal_likelihood_of_the_exact_posterior(samples):
    model, params, x, exact = linear_gaussian()
    np.testing.assert_allclose(bounds(model, params, x, samples, 3), exact, rtol=1e-5)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_one_sample_is_the_evidence_lower_bound(gradient):
    """Exact in expectation, since log w is a quadratic in the noise."""
    model, params, x, exact = wrong_encoder()
    one = means(iwae.loss(model, 1, gradient), params, quadrature(x))
    elbo = -means(vae.loss(model), params, quadrature(x))["loss"]
    np.testing.assert_allclose(-one["loss"], elbo, rtol=1e-5)
    np.testing.assert_allclose(one["elbo"], elbo, rtol=1e-5)
    assert elbo < exact - 0.05


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_one_sample_with_a_kl_weight_is_the_closed_form(gradient):
    """The weight applies to the KL term log q - log p of the loss, and not to `elbo`."""
    model, params, x, _ = wrong_encoder()
    log_p, kl = (values.mean() for values in closed_form(params, x))
    found = means(iwae.loss(model, 1, gradient, 0.3), params, quadrature(x))
    np.testing.assert_allclose(found["loss"], -log_p + 0.3 * kl, rtol=1e-5)
    np.testing.assert_allclose(found["elbo"], log_p - kl, rtol=1e-5)


def densities(params, x, z):
    """log p(x|z), log p(z) and log q(z|x) of the linear-Gaussian model, by SciPy, [B, K]."""
    dense = jax.tree.map(lambda v: np.asarray(v, np.float64), params["encoder"]["Dense_0"])
    mean, log_scale = np.split(x @ dense["kernel"] + dense["bias"][None], 2, axis=1)
    return (
        stats.norm.logpdf(x[:, None], z @ W.T + OFFSET, SIGMA).sum(2),
        stats.norm.logpdf(z).sum(2),
        stats.norm.logpdf(z, mean[:, None], np.exp(log_scale)[:, None]).sum(2),
    )


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("kl_weight", [0.3, lambda step: 0.1 * step], ids=["number", "schedule"])
def test_bound_of_five_samples_against_scipy(gradient, kl_weight):
    """log of the mean of p(x|z) (p(z) / q(z|x))^b; `elbo`, the mean of log w, is that of b = 1."""
    model, params, x, _ = wrong_encoder()
    examples = batch(x).replace(step=jnp.int32(6))
    b = kl_weight(6) if callable(kl_weight) else kl_weight
    q = apply(model, {"params": params}, examples.x, method="posterior")
    z = np.asarray(q.samples(examples.noise(new_key(), (5, 2))), np.float64)
    log_p, prior, posterior = densities(params, x, z)
    terms, _ = evaluated(iwae.loss(model, 5, gradient, kl_weight), {"params": params}, examples)
    expected = special.logsumexp(log_p + b * (prior - posterior), axis=1) - np.log(5)
    np.testing.assert_allclose(terms["loss"], -expected, rtol=1e-4)
    np.testing.assert_allclose(terms["elbo"], (log_p + prior - posterior).mean(1), rtol=1e-4)
    found = jax.jit(iwae.densities(model))({"params": params}, (examples.x, None), q, z.astype(np.float32))
    for ours, theirs in zip(found, (log_p, prior, posterior), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_bound_increases_with_the_samples_and_stays_below_the_marginal_likelihood():
    model, params, x, exact = wrong_encoder()
    draws = {k: bounds(model, params, x, k, 400) for k in (1, 2, 5, 20, 100)}
    means = np.array([v.mean() for v in draws.values()])
    errors = np.array([v.std() / 20 for v in draws.values()])
    assert np.all(np.diff(means) > 3 * np.hypot(errors[1:], errors[:-1]))
    assert np.all(means < exact)
    assert means[-1] > exact - 0.01 > means[0]


def test_plain_gradient_is_that_of_a_numpy_reference():
    """sum_k w_k d log w_k through the reparameterized samples (Burda et al. 2016, equation 14)."""
    model, params, x, _ = wrong_encoder()
    one, samples, kl_weight = batch(x[:3]), 6, 0.3
    eps = one.noise(new_key(), (samples, 2))
    of = iwae.densities(model)

    def log_weights(params):
        variables = {"params": params}
        q = model.apply(variables, one.x, method="posterior")
        found = of(variables, (one.x, None), q, q.samples(eps))
        return found.likelihood + kl_weight * (found.prior - found.posterior)

    values, jacobian = jax.jit(lambda params: (log_weights(params), jax.jacobian(log_weights)(params)))(params)
    weights = special.softmax(values, axis=1)
    expected = jax.tree.map(lambda j: -np.einsum("bk,bk...->...", weights, np.asarray(j)) / 3, jacobian)
    loss = iwae.loss(model, samples, kl_weight=kl_weight)
    slope = jax.jit(jax.grad(lambda p: mean_terms(loss, p, one)["loss"]))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), slope, expected)


def slopes(gradient, params, model, x, samples, count, kl_weight=1.0, **options):
    """Gradients of the loss for `count` keys: {"encoder": [count, P], "decoder": [count, P]}."""
    loss = iwae.loss(model, samples, gradient, kl_weight, **options)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(new_key(), jnp.arange(count))
    descent = jax.grad(lambda p, key: mean_terms(loss, p, batch(x), key)["loss"])
    found = jax.jit(jax.vmap(descent, in_axes=(None, 0)))(params, keys)
    rows = {}
    for group in ("encoder", "decoder"):
        leaves = [np.asarray(leaf, np.float64).reshape(count, -1) for leaf in jax.tree.leaves(found[group])]
        rows[group] = np.concatenate(leaves, axis=1)
    return rows


@pytest.mark.parametrize(
    ("kl_weight", "samples"),
    [(0.3, 5), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1.0, 20), (1.7, 3)))],
)
def test_doubly_reparameterized_gradient_has_the_same_expectation(kl_weight, samples):
    """The decoder's gradients agree for every noise sample, not only in expectation."""
    model, params, x, _ = wrong_encoder()
    count = 4000
    plain, dreg = (slopes(kind, params, model, x[:5], samples, count, kl_weight) for kind in GRADIENTS)
    np.testing.assert_allclose(plain["decoder"], dreg["decoder"], rtol=1e-3, atol=1e-4)
    apart = plain["encoder"] - dreg["encoder"]
    errors = apart.std(0) / np.sqrt(count)
    assert np.all(np.abs(apart.mean(0)) < 4.5 * errors)
    assert np.all(np.abs(dreg["encoder"].mean(0)) > 0)
    assert (
        np.abs(dreg["encoder"].mean(0) / errors).max() > 15
    )  # standard error small enough to detect an error of a third


def test_doubly_reparameterized_gradient_has_less_variance():
    model, params, x, _ = wrong_encoder()
    plain, dreg = (slopes(kind, params, model, x[:5], 20, 1000)["encoder"] for kind in GRADIENTS)
    assert np.all(dreg.var(0) < 0.5 * plain.var(0))


def test_at_the_exact_posterior_the_doubly_reparameterized_gradient_is_zero():
    """It is 0 for every sample, since log w does not depend on the samples there; the plain gradient is noise."""
    model, params, x, _ = linear_gaussian()
    plain, dreg = (slopes(kind, params, model, x[:5], 10, 3) for kind in GRADIENTS)
    assert np.abs(dreg["encoder"]).max() < 1e-4 < 1e-2 < np.abs(plain["encoder"]).max()


def test_value_does_not_depend_on_the_gradient_estimator():
    model, params, x = small()
    a, b = (evaluated(iwae.loss(model, 4, kind, 0.3), {"params": params}, batch(x))[0] for kind in GRADIENTS)
    assert a.keys() == b.keys() == {"loss", "elbo"}
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-6)


MODEL = linear_gaussian()[0]
OF = iwae.densities(MODEL)


def estimated(params, x, samples, key):
    return likelihood.estimate(OF, MODEL, {"params": params}, x, key, samples)


def test_log_likelihood_is_exact_with_the_exact_posterior():
    _, params, x, exact = linear_gaussian()
    found = estimated(params, x, 130, new_key())
    np.testing.assert_allclose(found["log_likelihood"], exact, rtol=1e-5)
    np.testing.assert_allclose(found["elbo"], exact, rtol=1e-5)
    np.testing.assert_allclose(found["ess"], 130, rtol=1e-3)
    np.testing.assert_allclose(found["rate"] + found["distortion"], -exact, rtol=1e-5)
    np.testing.assert_allclose(found["bits_per_dim"], -exact / (4 * np.log(2)), rtol=1e-5)
    assert found["monte_carlo_error"] < 1e-4 < found["standard_error"]


def test_log_likelihood_increases_with_the_samples_and_stays_below_the_exact_one():
    _, params, x, exact = wrong_encoder()
    means, errors = [], []
    for samples in (1, 10, 100):
        draws = [estimated(params, x, samples, jax.random.key(i))["log_likelihood"] for i in range(40)]
        means.append(np.mean(draws))
        errors.append(np.std(draws) / np.sqrt(40))
    assert means[0] + 3 * errors[0] < means[1]
    assert means[1] + errors[1] < means[2]
    assert means[2] < exact + 3 * errors[2]
    found = estimated(params, x, 5000, new_key())
    assert abs(found["log_likelihood"] - exact) < 5 * found["monte_carlo_error"] < 0.05
    assert found["elbo"] < exact - 0.05


def test_monte_carlo_error_is_the_standard_deviation_over_repeated_estimates():
    _, params, x, _ = wrong_encoder()
    found = [estimated(params, x, 300, jax.random.key(i)) for i in range(100)]
    spread = np.std([f["log_likelihood"] for f in found], ddof=1)
    assert 0.75 < np.mean([f["monte_carlo_error"] for f in found]) / spread < 1.35


def test_samples_are_counted_when_chunks_do_not_divide_their_number():
    """70 samples in chunks of 50 and 30 examples in chunks of 20 give the NumPy result for the same samples."""
    _, params, x, _ = wrong_encoder()
    found = estimated(params, x, 70, new_key())
    variables, whole = {"params": params}, batch(x)
    q = apply(MODEL, variables, whole.x, method="posterior")
    chunks = [whole.noise(jax.random.fold_in(new_key(), i), (50, 2)) for i in range(2)]
    z = q.samples(jnp.concatenate(chunks, axis=1)[:, :70])
    log_p, prior, posterior = densities(params, x, np.asarray(z, np.float64))
    w = log_p + prior - posterior
    log_x = special.logsumexp(w, axis=1) - np.log(70)
    ess = np.exp(w).sum(1) ** 2 / np.exp(2 * w).sum(1)
    np.testing.assert_allclose(found["log_likelihood"], log_x.mean(), rtol=1e-5)
    np.testing.assert_allclose(found["ess"], ess.mean(), rtol=1e-4)
    np.testing.assert_allclose(found["elbo"], w.mean(), rtol=1e-5)
    np.testing.assert_allclose(found["rate"], (posterior - prior).mean(), rtol=1e-5)
    np.testing.assert_allclose(found["distortion"], -log_p.mean(), rtol=1e-5)
    np.testing.assert_allclose(found["standard_error"], log_x.std(ddof=1) / np.sqrt(30), rtol=1e-4)


def test_latent_dimensions_whose_mean_has_a_variance_above_a_hundredth_are_active():
    """Burda et al. 2016, section 5.1."""
    unit = stats.zscore(np.arange(30.0))[:, None]
    for variance, active in {0.0: 0, 0.005: 0, 0.0099: 0, 0.0101: 1, 0.05: 1, 0.2: 1}.items():
        assert likelihood.active_units(3 + unit * np.sqrt(variance)) == active
    codes = unit * np.sqrt(np.array([[0.05, 0.0099, 7.0, 0.0, 0.0101]]))
    assert likelihood.active_units(codes.astype(np.float32)) == 3


def test_active_latent_dimensions_of_many_codes_are_counted_in_double_precision():
    """The variance is 0.009996; in float32 it is 0.1 % too large."""
    assert likelihood.active_units(np.tile(np.array([[-0.09998] * 2, [0.09998] * 2], np.float32), (50_000, 1))) == 0


def test_measure_is_the_estimate_of_a_trained_model_with_its_active_units():
    _, params, x, _ = linear_gaussian()

    def encode(split):
        return np.stack([np.linspace(-1, 1, len(split.x)), np.linspace(0, 0.3, len(split.x))], axis=1)

    experiment = SimpleNamespace(model=MODEL, conditional=False)
    trained = SimpleNamespace(experiment=experiment, variables={"params": params}, encode=encode)
    test = SimpleNamespace(x=x, observed=None, y=None, context=None)
    found = likelihood.measure(OF, 5, trained, SimpleNamespace(test=test, classes=(), covariates=()))
    assert found.pop("active_units") == 1
    assert found == estimated(params, x, 5, new_key())


def test_log_prior_agrees_with_the_kl_divergence():
    """E_q [log q - log p] is the closed form of KL."""
    _, params, x, _ = wrong_encoder()

    @jax.jit
    def gaps(params, x, key):
        q = MODEL.apply({"params": params}, x, method="posterior")
        terms = OF({"params": params}, (x, None), q, q.samples(jax.random.normal(key, (1, 200_000, 2))))
        return terms.posterior - terms.prior, divergences.kl_normal(q)[0]

    gap, kl = (np.asarray(value, np.float64) for value in gaps(params, x[:1], new_key()))
    assert abs(gap.mean() - kl) < 4 * gap.std() / np.sqrt(gap.size)


def test_same_key_gives_the_same_estimate():
    _, params, x, _ = wrong_encoder()
    a, b = (estimated(params, x, 20, new_key()) for _ in range(2))
    assert equal(a, b)
