"""The importance weighted bound on a model whose marginal likelihood is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import batch, equal, new_key
from jaxae import likelihood, prob
from jaxae.variants import iwae, vae
from test_vae import gaussian, linear_gaussian, small


def wrong_encoder():
    """The model, and an encoder that is a little wrong."""
    model, params, x, exact = linear_gaussian()
    dense = params["encoder"]["Dense_0"]
    dense["bias"] = dense["bias"] + jnp.array([0.2, -0.1, 0.3, 0.2])
    return model, params, x, exact


def bounds(model, params, x, samples, count, **options):
    """The bound for so many keys."""
    loss = iwae.loss(model, samples, log_likelihood=gaussian, **options)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(new_key(), jnp.arange(count))
    return -np.asarray(jax.jit(jax.vmap(lambda key: loss(params, {}, batch(x), key)[0]))(keys), np.float64)


@pytest.mark.parametrize("samples", [1, 5])
def test_bound_is_the_marginal_likelihood_of_the_exact_posterior(samples):
    model, params, x, exact = linear_gaussian()
    np.testing.assert_allclose(bounds(model, params, x, samples, 3), exact, rtol=1e-5)


def test_one_sample_is_the_evidence_lower_bound(monkeypatch):
    """In expectation, exactly: log w is a quadratic in the noise, whose mean is that over four points."""
    model, params, x, exact = wrong_encoder()
    points = jnp.sqrt(2.0) * jnp.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    four = batch(np.repeat(x, 4, axis=0))
    monkeypatch.setattr(vae, "noise", lambda *_: jnp.tile(points, (len(x), 1)))
    monkeypatch.setattr(iwae, "noise", lambda *_: jnp.tile(points, (len(x), 1))[:, None])
    one = iwae.loss(model, 1, log_likelihood=gaussian)(params, {}, four, new_key())
    elbo = vae.loss(model, gaussian)(params, {}, four, new_key())[0]
    np.testing.assert_allclose(one[0], elbo, rtol=1e-5)
    np.testing.assert_allclose(one[1][1]["elbo"], -elbo, rtol=1e-5)
    assert -elbo < exact - 0.05


def test_bound_grows_with_the_samples_and_stays_below():
    model, params, x, exact = wrong_encoder()
    draws = {k: bounds(model, params, x, k, 400) for k in (1, 2, 5, 20, 100)}
    means = np.array([v.mean() for v in draws.values()])
    errors = np.array([v.std() / 20 for v in draws.values()])
    assert np.all(np.diff(means) > 3 * np.hypot(errors[1:], errors[:-1]))
    assert np.all(means < exact)
    assert means[-1] > exact - 0.01 > means[0]


def test_plain_gradient_is_that_of_a_numpy_reference():
    """sum_k w_k d log w_k, with the draws moving along (Burda et al. 2016, equation 14)."""
    model, params, x, _ = wrong_encoder()
    one, samples = batch(x[:3]), 6
    eps = iwae.noise(new_key(), one, (samples, 2))
    of = iwae.terms(model, gaussian)

    def log_weights(params):
        variables = {"params": params}
        q = model.apply(variables, one.x, method="posterior")
        return of(variables, one.x, q, iwae.draws(q, eps)).log_weights()

    weights = np.asarray(jax.nn.softmax(log_weights(params), axis=1))
    jacobian = jax.jacobian(log_weights)(params)
    expected = jax.tree.map(lambda j: -np.einsum("bk,bk...->...", weights, np.asarray(j)) / 3, jacobian)
    slope = jax.grad(lambda p: iwae.loss(model, samples, log_likelihood=gaussian)(p, {}, one, new_key())[0])(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), slope, expected)


def slopes(gradient, params, model, x, samples, count):
    """The gradient for so many keys, of encoder and decoder, each as rows."""
    loss = iwae.loss(model, samples, gradient, gaussian)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(new_key(), jnp.arange(count))
    found = jax.jit(jax.vmap(jax.grad(lambda p, key: loss(p, {}, batch(x), key)[0]), in_axes=(None, 0)))(params, keys)
    rows = {}
    for group in ("encoder", "decoder"):
        leaves = [np.asarray(leaf, np.float64).reshape(count, -1) for leaf in jax.tree.leaves(found[group])]
        rows[group] = np.concatenate(leaves, axis=1)
    return rows


def test_doubly_reparameterized_gradient_has_the_same_expectation_and_less_variance():
    model, params, x, _ = wrong_encoder()
    plain, dreg = (slopes(kind, params, model, x[:5], 20, 3000) for kind in ("plain", "dreg"))
    np.testing.assert_allclose(plain["decoder"], dreg["decoder"], rtol=1e-3, atol=1e-4)
    errors = np.hypot(*(rows["encoder"].std(0) / np.sqrt(3000) for rows in (plain, dreg)))
    apart = np.abs(plain["encoder"].mean(0) - dreg["encoder"].mean(0))
    assert np.all(apart < 4.5 * errors)
    assert np.all(np.abs(dreg["encoder"].mean(0)) > 0)
    assert np.abs(dreg["encoder"].mean(0)).max() > 10 * errors.max()
    assert np.all(dreg["encoder"].var(0) < 0.5 * plain["encoder"].var(0))


def test_at_the_exact_posterior_the_doubly_reparameterized_gradient_is_zero():
    """Of every draw: log w does not depend on the draws there. The plain one is noise."""
    model, params, x, _ = linear_gaussian()
    plain, dreg = (slopes(kind, params, model, x[:5], 10, 3) for kind in ("plain", "dreg"))
    assert np.abs(dreg["encoder"]).max() < 1e-4 < 1e-2 < np.abs(plain["encoder"]).max()


def test_the_value_does_not_depend_on_the_gradient():
    model, params, x = small()
    a, b = (iwae.loss(model, 4, kind)(params, {}, batch(x), new_key()) for kind in ("plain", "dreg"))
    np.testing.assert_allclose(a[0], b[0], rtol=1e-6)
    assert a[1][1].keys() == b[1][1].keys() == {"loss", "elbo"}


MODEL = linear_gaussian()[0]
OF = iwae.terms(MODEL, gaussian)


def estimated(params, x, samples, key):
    return likelihood.estimate(OF, MODEL, {"params": params}, x, key, samples)


def test_log_likelihood_of_the_exact_posterior():
    _, params, x, exact = linear_gaussian()
    found = estimated(params, x, 130, new_key())
    np.testing.assert_allclose(found["log_likelihood"], exact, rtol=1e-5)
    np.testing.assert_allclose(found["elbo"], exact, rtol=1e-5)
    np.testing.assert_allclose(found["ess"], 130, rtol=1e-3)
    np.testing.assert_allclose(found["rate"] + found["distortion"], -exact, rtol=1e-5)
    np.testing.assert_allclose(found["bits_per_dim"], -exact / (4 * np.log(2)), rtol=1e-5)
    assert found["monte_carlo_error"] < 1e-4 < found["standard_error"]


def test_log_likelihood_grows_with_the_samples_and_is_not_above_the_exact_one():
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


def test_monte_carlo_error_is_the_spread_over_draws():
    _, params, x, _ = wrong_encoder()
    found = [estimated(params, x, 300, jax.random.key(i)) for i in range(100)]
    spread = np.std([f["log_likelihood"] for f in found], ddof=1)
    assert 0.75 < np.mean([f["monte_carlo_error"] for f in found]) / spread < 1.35


def test_samples_are_counted_when_pieces_do_not_divide_them(monkeypatch):
    """Against NumPy, with the same draws: 7 samples in pieces of 3, 30 examples in pieces of 20."""
    _, params, x, _ = wrong_encoder()
    monkeypatch.setattr(likelihood, "ROWS", 60)
    found = estimated(params, x, 7, new_key())
    variables, whole = {"params": params}, batch(x)
    q = MODEL.apply(variables, whole.x, method="posterior")
    pieces = [iwae.noise(jax.random.fold_in(new_key(), i), whole, (3, 2)) for i in range(3)]
    terms = OF(variables, whole.x, q, iwae.draws(q, jnp.concatenate(pieces, axis=1)[:, :7]))
    w = np.asarray(terms.log_weights(), np.float64)
    log_p = np.log(np.exp(w).mean(1))
    ess = np.exp(w).sum(1) ** 2 / np.exp(2 * w).sum(1)
    np.testing.assert_allclose(found["log_likelihood"], log_p.mean(), rtol=1e-5)
    np.testing.assert_allclose(found["ess"], ess.mean(), rtol=1e-4)
    np.testing.assert_allclose(found["elbo"], w.mean(), rtol=1e-5)
    np.testing.assert_allclose(found["distortion"], -np.mean(terms.likelihood), rtol=1e-5)
    np.testing.assert_allclose(found["standard_error"], log_p.std(ddof=1) / np.sqrt(30), rtol=1e-4)


def test_active_units_are_those_that_move():
    class Trained:
        """A model whose second unit is dead."""

        params, extra = linear_gaussian()[1], {}

        class experiment:
            model = MODEL

        @staticmethod
        def encode(x):
            return np.stack([np.linspace(-1, 1, len(x)), np.linspace(0, 0.3, len(x))], axis=1)

    class Data:
        class test:
            x = linear_gaussian()[2]

    found = likelihood.measure(OF, 5, Trained, Data)
    assert found["active_units"] == 1
    assert found["log_likelihood"] == estimated(Trained.params, Data.test.x, 5, new_key())["log_likelihood"]


def test_log_prior_is_the_one_that_the_divergence_knows():
    """E_q [log q - log p] is the closed form of KL."""
    _, params, x, _ = wrong_encoder()
    x = jnp.asarray(x[:1])
    q = MODEL.apply({"params": params}, x, method="posterior")
    eps = jax.random.normal(new_key(), (1, 200_000, 2))
    terms = OF({"params": params}, x, q, iwae.draws(q, eps))
    gap = np.asarray(terms.posterior - terms.prior, np.float64)
    assert abs(gap.mean() - float(prob.kl_normal(q)[0])) < 4 * gap.std() / np.sqrt(gap.size)


def test_the_same_key_the_same_estimate():
    _, params, x, _ = wrong_encoder()
    a, b = (estimated(params, x, 20, new_key()) for _ in range(2))
    assert equal(a, b)
