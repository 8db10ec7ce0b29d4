"""MIWAE and not-MIWAE: bounds, models of missingness, and imputation where the expectations are known."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from scipy import special, stats

import jaxae
from conftest import MNIST, apply, batch, equal, evaluated, initial, new_key, script, trained
from jaxae import data, nets
from jaxae.core.step import descend
from jaxae.core.types import Conditions, Scale, State
from jaxae.likelihoods import Bernoulli, Normal, StudentT
from jaxae.report.figures import imputed as imputed_figures
from jaxae.training.trained import Trained
from jaxae.variants import autoencoder, iwae, not_miwae, vae
from test_vae import OFFSET, SIGMA, W, linear_gaussian, means, quadrature, small, wrong_encoder

COVARIANCE = W @ W.T + SIGMA**2 * np.eye(4)
SCALE = Scale(np.array([10.0, -5.0, 0.0, 1000.0]), np.array([2.0, 0.1, 7.0, 300.0]))


def mask(x, seed=1, share=0.4):
    """A mask of observed entries, with a complete example, one without any, and entries of each column."""
    observed = np.random.default_rng(seed).random(x.shape) > share
    observed[0], observed[1] = True, False
    return observed


def experiment(model):
    loss = iwae.loss(model, 5) if not isinstance(model, not_miwae.NotMIWAE) else not_miwae.loss(model, 5)
    return jaxae.Experiment(model, descend(loss, optax.adam(1e-3)), loss, missing=True)


def linear(scale=SCALE, seeds=1):
    """The linear-Gaussian model, in other units, with a wide posterior that is wrong for incomplete examples."""
    model, params, x, _ = linear_gaussian()
    dense = params["encoder"]["Dense_0"]
    params["encoder"]["Dense_0"] = {"kernel": 0.7 * dense["kernel"], "bias": jnp.array([0.1, -0.1, 0.0, 0.0])}
    if seeds > 1:
        params = jax.tree.map(lambda leaf: jnp.stack([leaf * (1 + 0.01 * i) for i in range(seeds)]), params)
    return of_reals(model, params, range(seeds), scale), x


def of_reals(model, params, seeds=range(1), scale=None):
    """A trained model of real numbers with these parameters."""
    state, (width,) = (
        State(jnp.zeros((len(seeds),) * (len(seeds) > 1), jnp.int32), params, (), {}),
        model.decoder.outputs,
    )
    return Trained(experiment(model), state, (width,), seeds, scale=scale, real=True)


def conditional(x, observed, centre=OFFSET, covariance=COVARIANCE):
    """Mean and standard deviation of missing entries given the observed ones, of N(centre, covariance)."""
    mean, deviation = x.astype(float).copy(), np.zeros(x.shape)
    for i, known in enumerate(observed):
        m = ~known
        gain = covariance[np.ix_(m, known)] @ np.linalg.inv(covariance[np.ix_(known, known)])
        mean[i, m] = centre[m] + gain @ (x[i, known] - centre[known])
        deviation[i, m] = np.sqrt(np.diag(covariance[np.ix_(m, m)] - gain @ covariance[np.ix_(known, m)]))
    return mean, deviation


def in_units(x, scale=SCALE):
    return scale.offset + scale.factor * x


@pytest.fixture(scope="module")
def imputed():
    """The linear-Gaussian model's imputation of its own data, repeated with independent noise."""
    model, x = linear()
    observed = mask(x)
    rows = np.concatenate([np.where(observed, in_units(x), np.nan)] * 8)
    found = model.impute(rows, 1000, draws=40)
    return rows, found, observed, *conditional(x, observed)


def test_imputation_of_a_linear_gaussian_model_is_its_conditional_expectation(imputed):
    rows, found, _, mean, deviation = imputed
    missing = np.isnan(rows)
    error = (found.x - np.concatenate([in_units(mean)] * 8))[missing] / found.standard_error[missing]
    assert np.abs(error).max() < 6
    assert np.mean(np.abs(error) < 1.96) == pytest.approx(0.95, abs=0.03)  # coverage of the standard error
    assert np.mean(error**2) == pytest.approx(1, abs=0.2)
    exact = np.concatenate([SCALE.factor * deviation] * 8)
    np.testing.assert_allclose(found.deviation[missing], exact[missing], rtol=0.25)
    assert np.mean(found.deviation[missing] / exact[missing]) == pytest.approx(1, abs=0.01)


def test_draws_are_samples_from_the_conditional_distribution(imputed):
    """Their mean, spread and correlation, over 8 x 40 draws of each example."""
    _, found, observed, mean, deviation = imputed
    n = len(observed)
    draws = (found.draws - SCALE.offset) / SCALE.factor
    draws = draws.reshape(40 * 8, n, 4)
    z = (draws - mean)[:, ~observed] / deviation[~observed]
    assert np.abs(z.mean(0)).max() < 4.5 / np.sqrt(len(z))
    np.testing.assert_allclose(z.std(0), 1, atol=0.18)
    empty = draws[:, 1]  # without an observed entry: from p(x)
    np.testing.assert_allclose(np.cov(empty.T), COVARIANCE, atol=4.5 * np.diag(COVARIANCE).max() / np.sqrt(len(z)))


def test_observed_cells_stay_as_they_are_bit_for_bit(imputed):
    rows, found, *_ = imputed
    known = ~np.isnan(rows)
    for filled in (found.x, *found.draws):
        assert filled[known].tobytes() == rows[known].tobytes()
        assert np.isfinite(filled).all()
    assert not found.standard_error[known].any()
    assert not found.deviation[known].any()
    complete = known.all(1)
    assert np.isinf(found.ess[complete]).all()
    assert (found.ess[~complete] <= 1000 * 1.001).all()
    assert (found.ess[~complete] > 1).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_imputation_keeps_dtype_and_takes_masked_arrays(dtype):
    model, x = linear(None)
    rows = np.where(mask(x), x, np.nan).astype(dtype)[:3]
    found = model.impute(rows, 10)
    assert found.x.dtype == dtype
    assert equal(found.x, model.impute(np.ma.masked_array(np.nan_to_num(rows), np.isnan(rows)), 10).x)
    assert equal(model.impute(rows[:1], 10).x, rows[:1])  # complete


def test_imputation_depends_on_seed_and_index_but_not_on_other_rows():
    model, x = linear()
    rows = np.where(mask(x), in_units(x), np.nan)[:7]
    found = model.impute(rows, 60, draws=2, seed=3)
    assert equal(found, model.impute(rows, 60, draws=2, seed=3))
    assert not equal(found.x, model.impute(rows, 60, draws=2, seed=4).x)
    others = rows.copy()
    others[3:5] = 0.0
    np.testing.assert_allclose(found.x[5:], model.impute(others, 60, draws=2, seed=3).x[5:], rtol=1e-5)
    twice = model.impute(np.concatenate([rows[1:2]] * 2), 60, draws=2)
    assert not np.allclose(twice.x[0], twice.x[1])


def test_number_of_samples_need_not_be_a_multiple_of_those_decoded_at_once():
    """The standard error falls with the root of the number."""
    model, x = linear(None)
    rows = np.where(mask(x), x, np.nan)[1:21]
    rows = rows[np.isnan(rows).any(1)]  # of 50 samples at once
    assert model.impute(rows, 51).ess.max() <= 51
    few = [model.impute(rows, n).standard_error for n in (51, 5100)]
    assert np.nanmean(few[0][np.isnan(rows)] / few[1][np.isnan(rows)]) == pytest.approx(10, rel=0.3)


def test_seeds_are_a_leading_axis_and_their_mixture_has_the_moments_of_all():
    model, x = linear(seeds=3)
    rows = np.where(mask(x), in_units(x), np.nan)[:6]
    every = model.impute(rows, 200, draws=4)
    assert every.x.shape == (3, 6, 4)
    assert every.draws.shape == (3, 4, 6, 4)
    for i in range(3):
        one = model[i].impute(rows, 200, draws=4)
        for ours, theirs in zip(one, every, strict=True):
            np.testing.assert_allclose(ours, theirs[i], rtol=1e-3, atol=1e-3)
    mixed = model.impute(rows, 200, draws=4, mixture=True)
    missing = np.isnan(rows)
    assert mixed.x[~missing].tobytes() == rows[~missing].tobytes()
    np.testing.assert_allclose(mixed.x, every.x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(mixed.standard_error, np.sqrt((every.standard_error**2).sum(0)) / 3, rtol=1e-5)
    second = (every.deviation.astype(float) ** 2 + every.x**2).mean(0) - every.x.mean(0) ** 2
    np.testing.assert_allclose(mixed.deviation[missing], np.sqrt(second)[missing], rtol=1e-3)
    np.testing.assert_allclose(mixed.draws, [every.draws[i % 3, i] for i in range(4)], rtol=1e-5)
    each = every.ess[:, missing.any(1)].astype(float)
    np.testing.assert_allclose(mixed.ess[missing.any(1)], 9 / (1 / each).sum(0), rtol=1e-5)


def test_unobserved_values_and_columns_of_noise_change_nothing():
    """Values under the mask, and columns without a role in the model, change neither bound nor imputation."""
    model, params, x, _ = wrong_encoder()
    observed = mask(x).astype(np.float32)
    noise = np.random.default_rng(5).normal(size=x.shape).astype(np.float32)

    def bound(values, params, net=model, seen=observed):
        return means(iwae.loss(net, 3), params, batch(np.where(seen > 0, values, 0), mask=jnp.asarray(seen)))["loss"]

    assert equal(bound(x, params), bound(np.where(observed, x, noise), params))
    wide = vae.VAE(encoder=nets.MLP((), (4,)), decoder=nets.MLP((), (6,)), likelihood=Normal(SIGMA))
    padded = jax.tree.map(np.asarray, params)
    kernel = padded["encoder"]["Dense_0"]["kernel"]
    padded["encoder"]["Dense_0"]["kernel"] = np.pad(kernel, ((0, 2), (0, 0)))
    dense = padded["decoder"]["Dense_0"]
    padded["decoder"]["Dense_0"] = {
        "kernel": np.pad(dense["kernel"], ((0, 0), (0, 2))),
        "bias": np.pad(dense["bias"], (0, 2)),
    }
    columns = np.concatenate([x, noise[:, :2]], axis=1)
    seen = np.concatenate([observed, np.ones((len(x), 2), np.float32)], axis=1)
    added = -stats.norm.logpdf(noise[:, :2], 0, SIGMA).sum(1).mean()
    assert bound(columns, padded, wide, seen) - added == pytest.approx(float(bound(x, params)), rel=1e-5)
    rows = np.where(observed, x, np.nan)
    narrow = of_reals(model, params).impute(rows, 50).x
    padding = of_reals(wide, padded).impute(np.where(seen, columns, np.nan), 50).x
    np.testing.assert_allclose(padding[:, :4], narrow, rtol=1e-4, atol=1e-4)


def test_bound_of_one_sample_is_the_elbo_on_observed_entries():
    """Exact in expectation: E_q[log p(x_observed|z)] - KL(q || p), with q from the zero-filled example."""
    model, params, x, _ = wrong_encoder()
    observed = mask(x)
    filled = np.where(observed, x, 0).astype(np.float32)
    examples = quadrature(filled).replace(observed=jnp.repeat(jnp.asarray(observed, jnp.float32), 4, axis=0))
    dense = jax.tree.map(lambda v: np.asarray(v, np.float64), params["encoder"]["Dense_0"])
    mean, log_scale = np.split(filled @ dense["kernel"] + dense["bias"], 2, axis=1)
    variance = np.exp(2 * log_scale)
    square = (filled - mean @ W.T - OFFSET) ** 2 + variance @ (W**2).T
    log_p = -0.5 * square / SIGMA**2 - np.log(SIGMA) - 0.5 * np.log(2 * np.pi)
    kl = 0.5 * (mean**2 + variance - 1).sum(1) - log_scale.sum(1)
    elbo = ((log_p * observed).sum(1) - kl).mean()
    for loss in (iwae.loss(model, 1), vae.loss(model)):
        assert float(means(loss, params, examples)["loss"]) == pytest.approx(-elbo, rel=1e-5)


def test_complete_examples_have_the_bound_of_iwae():
    model, params, x, _ = wrong_encoder()
    complete = means(iwae.loss(model, 7), params, batch(x, mask=jnp.ones(x.shape)))
    plain = means(iwae.loss(model, 7), params, batch(x))
    np.testing.assert_allclose(complete["loss"], plain["loss"], rtol=1e-6)


KINDS = {
    "self-masking": {"slope": [0.5, -2.0, 0.0, 1.5], "threshold": [0.1, 0.3, -0.2, 1.0]},
    "self-masking-high": {"slope": [0.5, -2.0, 0.0, 1.5], "threshold": [0.1, 0.3, -0.2, 1.0]},
    "self-masking-low": {"slope": [0.5, -2.0, 0.0, 1.5], "threshold": [0.1, 0.3, -0.2, 1.0]},
    "linear": None,
    "agnostic": None,
}


def missing_model(kind, likelihood=None):
    """The linear-Gaussian model with a wrong encoder and a model of missingness; its parameters; data."""
    plain, params, x, _ = wrong_encoder()
    net = not_miwae.missingness(kind, (4,), 6)
    model = not_miwae.NotMIWAE(plain.encoder, plain.decoder, likelihood or plain.likelihood, missingness=net)
    own = initial(net, np.zeros((1, 4)))["params"]
    if KINDS[kind]:
        own = {name: jnp.asarray(value) for name, value in KINDS[kind].items()}
    return model, {**params, "missingness": own}, x


def logits_of(kind, params, x):
    """The logits of p(observed|x), by NumPy."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["missingness"])
    if kind in ("linear", "agnostic"):
        for i in range(len(p)):
            x = (np.tanh(x) if i else x) @ p[f"Dense_{i}"]["kernel"] + p[f"Dense_{i}"]["bias"]
        return x
    slope = p["slope"]
    if kind != "self-masking":
        slope = np.log1p(np.exp(slope)) * (1 if kind.endswith("high") else -1)
    return -slope * (x - p["threshold"])


@pytest.mark.parametrize("kind", KINDS)
def test_missingness_has_the_probabilities_of_its_closed_form(kind):
    model, params, x = missing_model(kind)
    observed = mask(x)
    found = apply(model, {"params": params}, x, observed.astype(np.float32), method="log_missingness")
    p = special.expit(logits_of(kind, params, x.astype(np.float64)))
    np.testing.assert_allclose(found, np.log(np.where(observed, p, 1 - p)).sum(1), rtol=1e-4)


def test_missing_cells_are_larger_under_high_and_smaller_under_low_self_masking():
    x = jnp.array([[-3.0], [3.0]])
    for kind, larger in (("self-masking-high", 0), ("self-masking-low", 1)):
        net = not_miwae.missingness(kind, (1,))
        logits = net.apply(net.init(new_key(), x), x)
        assert int(logits.argmax()) == larger  # which is observed


@pytest.mark.parametrize("kind", ["self-masking-high", "agnostic"])
def test_weights_of_not_miwae_against_numpy(kind):
    """log w = log p(x_obs|z) + log p(observed|x) + b (log p(z) - log q(z|x)), the missing entries from p(x|z)."""
    model, params, x = missing_model(kind)
    observed = mask(x)
    filled = np.where(observed, x, 0).astype(np.float32)
    examples = batch(filled, mask=jnp.asarray(observed, jnp.float32))

    @jax.jit
    def sampled(params):
        q = model.apply({"params": params}, examples.x, method="posterior")
        of_codes, of_entries = jax.random.split(new_key())
        z, keys = q.samples(examples.noise(of_codes, (5, 2))), examples.keys(of_entries)
        return q, q.scale, z, not_miwae.draws(model, {"params": params}, (examples.x, examples.observed), q, z, keys)

    q, scale, z, found = sampled(params)
    complete = np.asarray(found.x, np.float64)
    known = np.broadcast_to(observed[:, None], complete.shape)
    assert np.array_equal(np.asarray(found.x)[known], np.broadcast_to(filled[:, None], complete.shape)[known])
    codes = np.asarray(z, np.float64)
    center = codes @ W.T + OFFSET
    residual = ((complete - center) / SIGMA)[~known]
    assert abs(residual.mean()) < 4.5 / np.sqrt(residual.size)
    assert residual.std() == pytest.approx(1, abs=4.5 / np.sqrt(2 * residual.size))
    p = special.expit(logits_of(kind, params, complete))
    missing = np.log(np.where(known, p, 1 - p)).sum(2)
    mean, scale = (np.asarray(part, np.float64)[:, None] for part in (q.mean, scale))
    likelihood = (stats.norm.logpdf(filled[:, None], center, SIGMA) * known).sum(2)
    ratio = stats.norm.logpdf(codes).sum(2) - stats.norm.logpdf(codes, mean, scale).sum(2)
    np.testing.assert_allclose(found.log_weights, likelihood + missing + ratio, rtol=1e-4, atol=1e-3)
    terms, _ = evaluated(not_miwae.loss(model, 5, 0.3), {"params": params}, examples)
    bound = special.logsumexp(likelihood + missing + 0.3 * ratio, axis=1) - np.log(5)
    np.testing.assert_allclose(terms["loss"], -bound, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(terms["elbo"], (likelihood + missing + ratio).mean(1), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(terms["missingness"], -missing.mean(1), rtol=1e-4, atol=1e-3)


def test_not_miwae_without_missing_entries_is_iwae_and_the_probability_of_the_mask():
    model, params, x = missing_model("linear")
    examples, variables = batch(x), {"params": params}
    terms, _ = evaluated(not_miwae.loss(model, 5), variables, examples)

    @jax.jit
    def log_weights(variables):
        q = model.apply(variables, examples.x, method="posterior")
        z = q.samples(examples.noise(jax.random.split(new_key())[0], (5, 2)))
        return iwae.densities(model)(variables, (examples.x, None), q, z).log_weights()

    log_w = log_weights(variables)
    log_p = np.log(special.expit(logits_of("linear", params, x.astype(float)))).sum(1)
    expected = special.logsumexp(np.asarray(log_w, float), axis=1) - np.log(5) + log_p
    np.testing.assert_allclose(terms["loss"], -expected, rtol=1e-5)


@pytest.mark.parametrize("likelihood", [Normal(SIGMA), StudentT(0.7)], ids=["normal", "student-t"])
def test_gradient_of_not_miwae_against_finite_differences(likelihood):
    """It flows through the sampled entries into the decoder."""
    model, params, x = missing_model("self-masking", likelihood)
    observed = mask(x)[1:4]
    examples = batch(np.where(observed, x[1:4], 0), mask=jnp.asarray(observed, jnp.float32))
    loss = jax.jit(lambda p: means(not_miwae.loss(model, 3, 0.3), p, examples)["loss"])
    check_grads(loss, (params,), order=1, modes=["rev"], eps=1e-3, rtol=0.02)


def test_not_miwae_imputes_the_expectation_given_the_mask():
    """One latent dimension: E[x_2 | x_1, x_2 is missing] by numerical integration, which is far from E[x_2 | x_1]."""
    w, offset, sigma, slope, threshold = np.array([1.0, 1.5]), np.array([0.2, -0.1]), 0.6, 2.0, 0.4
    net = not_miwae.missingness("self-masking-high", (2,))
    model = not_miwae.NotMIWAE(nets.MLP((), (2,)), nets.MLP((), (2,)), Normal(sigma), missingness=net)
    params = {
        "encoder": {"Dense_0": {"kernel": np.array([[0.7, 0.0], [0.0, 0.0]]), "bias": np.array([0.0, 0.0])}},
        "decoder": {"Dense_0": {"kernel": w[None], "bias": offset}},
        "missingness": {"slope": np.log(np.expm1([1.0, slope])), "threshold": np.array([9.0, threshold])},
    }
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    x1 = np.array([-1.0, 0.0, 1.2])
    rows = np.stack([x1, np.full(3, np.nan)], axis=1)
    found = of_reals(model, params).impute(np.tile(rows, (15, 1)), 1000, draws=30)
    covariance = np.outer(w, w) + sigma**2 * np.eye(2)
    mean = offset[1] + covariance[0, 1] / covariance[0, 0] * (x1 - offset[0])
    deviation = np.sqrt(covariance[1, 1] - covariance[0, 1] ** 2 / covariance[0, 0])
    grid = np.linspace(-9, 9, 4001)
    density = stats.norm.pdf(grid[None], mean[:, None], deviation) * special.expit(slope * (grid - threshold))[None]
    density /= density.sum(1, keepdims=True)
    exact = density @ grid
    spread = np.sqrt(density @ grid**2 - exact**2)
    assert (exact - mean > 0.1).all()
    estimate, error = found.x[:, 1].reshape(15, 3), found.standard_error[:, 1].reshape(15, 3)
    z = (estimate - exact) / error
    assert np.abs(z).max() < 4.5
    assert np.mean(z**2) == pytest.approx(1, abs=0.75)
    np.testing.assert_allclose(found.deviation[:, 1].reshape(15, 3), np.tile(spread, (15, 1)), rtol=0.1)
    draws = found.draws[..., 1].reshape(-1, 3)
    assert (np.abs(draws.mean(0) - exact) < 4.5 * spread / np.sqrt(len(draws))).all()
    np.testing.assert_allclose(draws.std(0), spread, rtol=0.12)


def test_images_with_missing_pixels_keep_their_shape_and_range():
    model, params, x = small()
    images = np.array(x[..., 0])
    images[:, 1, 2] = np.nan
    images[2] = np.nan
    found = trained(experiment(model), params, {}, (3, 3, 1)).impute(images, 20, draws=2)
    missing = np.isnan(images)
    assert found.x.shape == found.standard_error.shape == images.shape
    assert found.draws.shape == (2, *images.shape)
    assert equal(found.x[~missing], images[~missing])
    assert 0 < found.x[missing].min() < found.x[missing].max() < 1
    assert set(np.unique(found.draws[:, missing])) == {0, 1}  # a Bernoulli likelihood


def test_conditional_model_imputes_under_the_condition_of_each_example():
    """A decoder that adds the condition to each entry."""
    model = vae.VAE(nets.MLP((), (2,)), nets.MLP((), (2,)), Normal(0.5), classes=0)
    params = {
        "encoder": {"Dense_0": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}},
        "decoder": {"Dense_0": {"kernel": jnp.array([[0.0, 0.0], [1.0, 3.0]]), "bias": jnp.zeros(2)}},
    }
    loss = vae.loss(model)
    conditional = jaxae.Experiment(model, descend(loss, optax.adam(1e-3)), loss, missing=True, conditional=True)
    conditions = Conditions((), ("age",), Scale(np.array([40.0]), np.array([10.0])))
    net = Trained(conditional, State(jnp.int32(0), params, (), {}), (2,), real=True, conditions=conditions)
    rows = np.array([[np.nan, 1.0], [0.0, 1.0], [np.nan, np.nan]])
    found = net.impute(rows, 10, context={"age": [50, 60, 70]})
    np.testing.assert_allclose(found.x, [[1, 1], [0, 1], [3, 9]], atol=1e-5)
    np.testing.assert_allclose(net.impute(rows, 10, context={"age": 20}).x, [[-2, 1], [0, 1], [-2, -6]], atol=1e-5)
    with pytest.raises(ValueError, match="is conditional; pass context"):
        net.impute(rows, 10)


def test_observed_pixels_out_of_range_raise_beside_missing_ones():
    model = replace(linear(None)[0], real=False)
    pixels = np.array([[0.1, 0.2, 0.9, np.nan], [0.5, 0.0, 1.0, 0.3]], np.float32)
    assert np.isfinite(model.encode(pixels)).all()
    for method in (model.encode, model.score, model.impute):
        with pytest.raises(ValueError, match=r"pixels must be uint8, or float in \[0, 1\]"):
            method(255 * pixels)


def test_models_without_a_likelihood_raise_in_one_line():
    plain = autoencoder.Autoencoder(nets.MLP((), (2,)), nets.MLP((), (4,)))
    loss = autoencoder.loss(plain, "mse")
    model = trained(jaxae.Experiment(plain, descend(loss, optax.adam(1e-3)), loss), {}, {}, (4,))
    rows = np.full((2, 4), np.nan)
    with pytest.raises(ValueError, match="Autoencoder has no likelihood to impute with; train a variational"):
        model.impute(rows)
    model, _ = linear()
    with pytest.raises(ValueError, match="samples=0 must be at least 1"):
        model.impute(rows, 0)
    with pytest.raises(ValueError, match="likelihood Bernoulli has no reparameterized samples"):
        not_miwae.NotMIWAE(
            nets.MLP((), (4,)), nets.MLP((), (4,)), Bernoulli(), missingness=not_miwae.missingness("linear", (4,))
        )


def test_figure_of_a_table_has_the_observed_and_the_imputed_values_of_columns_with_missing_cells():
    model, x = linear()
    rows = in_units(x)
    rows[::3, 1] = rows[1::2, 3] = np.nan
    found = data.from_arrays(rows, test=rows, options=data.Options(scale="none"))._replace(features=tuple("abcd"))
    model = replace(model, scale=None)
    figure = imputed_figures.columns(model, found, "title")
    panels = [axis for axis in figure.axes if axis.get_title()]
    assert [axis.get_title() for axis in panels] == ["b\n10 of 30 missing", "d\n15 of 30 missing"]
    draws = model.impute(found.test, imputed_figures.SAMPLES, draws=1).draws[0]
    for axis, place in zip(panels, (1, 3), strict=True):
        missing = np.isnan(rows[:, place])
        bars = np.array([bar.get_height() for bar in axis.patches]).reshape(2, -1)
        edges = np.linspace(draws[:, place].min(), draws[:, place].max(), 31)
        for heights, part in zip(bars, (draws[~missing, place], draws[missing, place]), strict=True):
            np.testing.assert_allclose(heights, np.histogram(part, edges, density=True)[0], rtol=1e-4)
    assert imputed_figures.columns(model, data.from_arrays(in_units(x), test=in_units(x)), "title") is None
    assert (
        imputed_figures.columns(replace(model, experiment=replace(model.experiment, missing=False)), found, "") is None
    )


@pytest.mark.slow
def test_figure_of_images_shows_observed_pixels_and_samples_of_missing_ones():
    model, params, x = small()
    images = np.array(x)
    images[:, 1, 2] = np.nan
    found = data.from_arrays(images, test=images)
    net = trained(experiment(model), params, {}, (3, 3, 1))
    figure = imputed_figures.images(net, found, "title")
    rows = [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()]
    assert rows == ["observed", "imputed", "sample 1", "sample 2"]
    shown = np.asarray(figure.axes[5].images[0].get_array())
    np.testing.assert_allclose(shown, net.impute(found.test, imputed_figures.SAMPLES).x[0, ..., 0], rtol=1e-5)
    assert imputed_figures.images(net, data.from_arrays(np.array(x), test=np.array(x)), "title") is None


@pytest.mark.parametrize(
    ("name", "error"), [("concrete", 1.847), ("red", 1.838), ("white", 1.739), ("yeast", 1.688), ("breast", 1.820)]
)
def test_protocol_has_the_published_error_of_imputation_by_the_mean(name, error):
    """Ipsen et al. 2021, table 1: 1.85, 1.83, 1.74, 1.69 and 1.82."""
    protocol, folder = script("imputation"), MNIST.parent / "tables"
    table = protocol.TABLES[name]
    if not (folder / table.file).exists():
        pytest.skip(f"no {table.file} in {folder}")
    x, missing = protocol.removed(protocol.features(table, folder), table.removed)
    where = np.isnan(missing)
    assert (x[where] > 0).all()
    assert where[:, : table.removed or x.shape[1] // 2].any(0).all()
    assert not where[:, table.removed or x.shape[1] // 2 :].any()
    filled = np.where(where, np.nanmean(missing, axis=0), x)
    assert protocol.rmse(x, missing, filled) == pytest.approx(error, abs=5e-4)
