"""Densities, means and samples against SciPy and Monte Carlo; learned scales against exact maximum likelihood."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from scipy import special, stats

from conftest import new_key
from jaxae import likelihoods, nets
from jaxae.core.step import descend
from jaxae.core.types import Info, State
from jaxae.experiments import iwae as iwae_experiment
from jaxae.experiments import vae as experiment
from jaxae.likelihoods import Bernoulli, Normal, log_likelihood
from jaxae.likelihoods.bernoulli import cross_entropy
from jaxae.variants import vae
from test_vae import OFFSET, SIGMA, W, means, quadrature

SHAPE = (3, 2, 2)
ALL = {
    "bernoulli": Bernoulli(),
    "normal": Normal(0.7),
    "normal-learned": Normal("learned"),
    "normal-predicted": Normal("predicted"),
}
NAMES = list(ALL)


def scale_of(name):
    return {"likelihood_scale": 0.7} if name == "normal" else {}


def decoded(likelihood, count=4):
    """Random outputs of a decoder, with the parameters of the likelihood, away from 0."""
    net = likelihood.decoder(nets.MLP((), likelihood.parameters(SHAPE)))
    z = jax.random.normal(new_key(), (count, 3))
    params = net.init(new_key(), z)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [leaf + 0.5 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
    params = jax.tree.unflatten(tree, moved)
    return params, net.apply({"params": params}, z)


def reference(name, params, outputs):
    """The distribution of every pixel, in SciPy."""
    outputs = np.asarray(outputs, np.float64)
    if name == "bernoulli":
        return stats.bernoulli(special.expit(outputs))
    if name == "normal":
        return stats.norm(outputs, 0.7)
    if name == "normal-learned":
        return stats.norm(outputs[..., :2], np.exp(float(params["log_scale"][0])))
    return stats.norm(outputs[..., :2], np.exp(outputs[..., 2:]))


def examples(name, count=4):
    rng = np.random.default_rng(0)
    return rng.integers(0, 2, (count, *SHAPE)) if name == "bernoulli" else rng.normal(size=(count, *SHAPE))


def density(name, p, x):
    return p.logpmf(x) if name == "bernoulli" else p.logpdf(x)


@pytest.mark.parametrize("name", NAMES)
def test_log_prob_of_every_dimension_against_scipy(name):
    params, outputs = decoded(ALL[name])
    x = examples(name)
    ours = ALL[name].log_prob(outputs, jnp.asarray(x, jnp.float32))
    assert ours.shape == (4, *SHAPE)
    np.testing.assert_allclose(ours, density(name, reference(name, params, outputs), x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_of_log_prob_against_finite_differences(name):
    _, outputs = decoded(ALL[name])
    x = jnp.asarray(examples(name), jnp.float32)
    check_grads(jax.jit(lambda o: ALL[name].log_prob(o, x)), (outputs,), order=1, modes=["rev"], eps=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_mean_against_scipy(name):
    params, outputs = decoded(ALL[name])
    np.testing.assert_allclose(ALL[name].mean(outputs), reference(name, params, outputs).mean(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_the_mean_and_the_deviation_of_the_distribution(name):
    """Pixels are independent."""
    params, outputs = decoded(ALL[name], 1)
    n = 40_000
    x = ALL[name].sample(new_key(), jnp.broadcast_to(outputs, (n, *outputs.shape[1:])))
    assert x.shape == (n, *SHAPE)
    assert x.dtype == jnp.float32
    x, p = np.asarray(x, np.float64), reference(name, params, outputs)
    np.testing.assert_array_less(np.abs(x.mean(0) - p.mean()[0]), 4.5 * p.std()[0] / np.sqrt(n))
    np.testing.assert_allclose(x.std(0), p.std()[0], rtol=0.03)
    correlation = np.corrcoef(x.reshape(n, -1).T)
    assert np.abs(correlation - np.eye(len(correlation))).max() < 4.5 / np.sqrt(n)
    assert name != "bernoulli" or set(np.unique(x)) == {0, 1}


@pytest.mark.parametrize("name", NAMES)
def test_log_prob_of_samples_is_minus_the_entropy_on_average(name):
    """Sampler and log density are consistent."""
    params, outputs = decoded(ALL[name], 1)
    n = 40_000
    many = jnp.broadcast_to(outputs, (n, *outputs.shape[1:]))
    found = np.asarray(ALL[name].log_prob(many, ALL[name].sample(new_key(), many)), np.float64)
    apart = np.abs(found.mean(0) + reference(name, params, outputs).entropy()[0])
    np.testing.assert_array_less(apart, 4.5 * found.std(0) / np.sqrt(n) + 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_initial_outputs_have_the_requested_mean(name):
    likelihood = ALL[name]
    mean = np.random.default_rng(1).uniform(0.05, 0.95, SHAPE)
    outputs = likelihood.initial(mean)
    assert outputs.shape == likelihood.parameters(SHAPE)
    net = likelihood.decoder(nets.MLP((), likelihood.parameters(SHAPE), last_bias=tuple(outputs.ravel().tolist())))
    z = jnp.zeros((1, 3))
    found = net.apply(net.init(new_key(), z), z)
    np.testing.assert_allclose(likelihood.mean(found)[0], mean, rtol=1e-5)
    if name in ("normal-learned", "normal-predicted"):  # and a standard deviation of 1
        np.testing.assert_allclose(likelihood.log_prob(found, found[..., :2]), stats.norm.logpdf(0), rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_log_likelihood_is_the_sum_over_the_observed_pixels(name):
    """Without a mask, all pixels are observed; masks have the shape of x, of its first axes [B, T], or one value per
    example."""
    params, outputs = decoded(ALL[name])
    x, rng = examples(name), np.random.default_rng(2)
    each = density(name, reference(name, params, outputs), x)
    x = jnp.asarray(x, jnp.float32)
    np.testing.assert_allclose(log_likelihood(ALL[name], outputs, x), each.sum((1, 2, 3)), rtol=1e-5)
    for shape in ((4, *SHAPE), (4, 3, 2), (4, 3), (4,)):
        observed = rng.integers(0, 2, shape).astype(np.float32)
        assert 0 < observed.mean() < 1
        expected = (each * observed.reshape(*shape, *[1] * (4 - len(shape)))).sum((1, 2, 3))
        found = log_likelihood(ALL[name], outputs, x, jnp.asarray(observed))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_missing_pixels_change_neither_value_nor_gradient(name):
    """They may be NaN or infinite."""
    _, outputs = decoded(ALL[name])
    observed = np.random.default_rng(2).integers(0, 2, (4, *SHAPE)).astype(np.float32)
    x = np.where(observed > 0, examples(name), 0).astype(np.float32)

    def value(outputs, missing):
        filled = jnp.where(observed > 0, x, missing)
        return log_likelihood(ALL[name], outputs, filled, jnp.asarray(observed)).sum()

    expected, slope = jax.value_and_grad(value)(outputs, 0.0)
    for missing in (1.0, jnp.nan, jnp.inf):
        assert value(outputs, missing) == expected
    np.testing.assert_array_equal(jax.grad(value)(outputs, 1.0), slope)
    np.testing.assert_array_equal(np.asarray(slope)[..., :2] != 0, observed > 0)


def test_errors_against_numpy():
    """Means over the pixels of each example."""
    x = np.random.default_rng(3).uniform(size=(4, *SHAPE))
    for name, likelihood in ALL.items():
        params, outputs = decoded(likelihood)
        p = reference(name, params, outputs)
        expected = {"mse": ((p.mean() - x) ** 2).mean((1, 2, 3))}
        if name == "bernoulli":
            expected["bce"] = -(x * np.log(p.mean()) + (1 - x) * np.log(1 - p.mean())).mean((1, 2, 3))
        else:
            expected["scale"] = np.broadcast_to(p.std(), x.shape).mean((1, 2, 3))
        found = likelihood.errors(outputs, jnp.asarray(x, jnp.float32))
        assert found.keys() == expected.keys()
        for term, values in expected.items():
            np.testing.assert_allclose(found[term], values, rtol=1e-5, err_msg=f"{name} {term}")


def test_bernoulli_of_grey_pixels_is_minus_the_cross_entropy():
    rng = np.random.default_rng(0)
    logits, x = rng.normal(size=(5, 6)), rng.uniform(size=(5, 6))
    s = special.expit(logits)
    ours = log_likelihood(Bernoulli(), *(jnp.asarray(a, jnp.float32) for a in (logits, x)))
    np.testing.assert_allclose(ours, (x * np.log(s) + (1 - x) * np.log(1 - s)).sum(1), rtol=1e-5)


@pytest.mark.parametrize("logit", [-1e4, -100.0, 100.0, 1e4])
def test_bernoulli_and_its_gradient_stay_finite(logit):
    def value(logit, x):
        return log_likelihood(Bernoulli(), logit[None, None], jnp.full((1, 1), x))[0]

    for x in (0.0, 1.0):
        found, slope = jax.value_and_grad(value)(jnp.float32(logit), x)
        assert found == (0 if (logit > 0) == (x == 1) else -abs(logit))
        assert slope == x - (logit > 0)


@pytest.mark.parametrize("run", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_cross_entropy_and_its_gradient_keep_all_digits(run):
    """The cases include grey pixels, logits at which the loss is 2e-35, and 0, where max(logits, 0) has a kink."""
    logits = [-80.0, -30.0, -20.0, -3.0, -1e-3, 0.0, 1e-3, 0.7, 20.0, 30.0, 80.0]
    logits, x = (a.astype(np.float32) for a in np.meshgrid(logits, [0.0, 1e-3, 0.2, 0.5, 254 / 255, 1.0]))
    value, pull = run(partial(jax.vjp, cross_entropy))(jnp.asarray(logits), jnp.asarray(x))
    slope = np.asarray(pull(jnp.ones(logits.shape))[0])
    logits, x = logits.astype(np.float64), x.astype(np.float64)
    np.testing.assert_allclose(value, x * np.logaddexp(0, -logits) + (1 - x) * np.logaddexp(0, logits), rtol=1e-6)
    expected = (1 - x) * special.expit(logits) - x * special.expit(-logits)
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-7)
    binary = (x == 0) | (x == 1)
    np.testing.assert_allclose(slope[binary], expected[binary], rtol=1e-6)


@pytest.mark.parametrize("name", ["normal-learned", "normal-predicted"])
@pytest.mark.parametrize("log_scale", [-3e38, -100.0, 100.0, 3e38])
def test_normal_of_any_log_scale_is_finite(name, log_scale):
    """Density, gradient, errors and samples, also where x equals the mean."""
    x = jnp.array([[[0.0, 0.5]]])
    outputs = jnp.concatenate([jnp.zeros((1, 1, 2)), jnp.full((1, 1, 2), log_scale)], axis=-1)
    likelihood, scale = ALL[name], np.exp(np.clip(log_scale, -20, 20))
    value, slope = jax.jit(jax.value_and_grad(lambda o: log_likelihood(likelihood, o, x)[0]))(outputs)
    np.testing.assert_allclose(value, stats.norm(0, scale).logpdf([0, 0.5]).sum(), rtol=1e-5)
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(likelihood.errors(outputs, x)["scale"], scale, rtol=1e-5)
    assert np.isfinite(likelihood.sample(new_key(), outputs)).all()


def test_only_the_bernoulli_is_discrete():
    assert {name for name, likelihood in ALL.items() if likelihood.discrete} == {"bernoulli"}


def test_named_returns_the_likelihood_of_each_name():
    expected = {**ALL, "auto": Bernoulli()}
    for name, likelihood in expected.items():
        found = likelihoods.named(name, *scale_of(name).values())
        assert found == likelihood
        assert hash(found) == hash(likelihood)
    assert likelihoods.named("normal") == Normal(1.0) != Normal(0.7)


def test_unknown_likelihood_raises(untyped):
    with pytest.raises(ValueError, match="likelihood=cauchy is unknown; use one of auto, bernoulli, normal, normal-l"):
        likelihoods.named("cauchy")


@pytest.mark.parametrize(
    ("name", "scale", "says"),
    [
        ("normal", 0.0, "likelihood_scale=0.0 must be positive"),
        ("normal", -1.0, "likelihood_scale=-1.0 must be positive"),
        ("normal-learned", 0.7, "likelihood_scale=0.7 is for likelihood=normal only; omit it"),
        ("auto", 0.7, "likelihood_scale=0.7 is for likelihood=normal only; omit it"),
    ],
)
def test_named_rejects_a_scale_that_the_likelihood_does_not_take(name, scale, says):
    with pytest.raises(ValueError, match=says):
        likelihoods.named(name, scale)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.inf, np.nan, 2e-9, 5e8])
def test_scale_outside_of_its_limits_raises(scale):
    with pytest.raises(ValueError, match=r"scale=.* must be positive, from 2\.1e-9 to 4\.8e8"):
        Normal(scale)
    assert [Normal(scale).scale for scale in (2.1e-9, 4.8e8)] == [2.1e-9, 4.8e8]


def test_unknown_kind_of_scale_raises(untyped):
    with pytest.raises(ValueError, match="scale=fitted is unknown; use a number, learned or predicted"):
        Normal("fitted")


def train(loss, params, examples, steps, lr):
    """Parameters after this many steps of Adam."""
    transition = descend(loss, optax.adam(optax.cosine_decay_schedule(lr, steps)))
    state = State(jnp.int32(0), params, transition.init(params), {})
    step = jax.jit(lambda s: jax.lax.fori_loop(0, steps, lambda i, s: transition.step(s, examples, new_key())[0], s))
    return step(state).params


def test_learned_scale_is_the_maximum_likelihood_of_probabilistic_pca():
    """A linear VAE is probabilistic PCA (Lucas et al. 2019), whose maximum likelihood is known in closed form.

    Tipping & Bishop 1999, equations 7 and 8: the variance is the mean of the smallest eigenvalues.
    """
    count = 200
    x = np.random.default_rng(0).multivariate_normal(OFFSET, W @ W.T + SIGMA**2 * np.eye(4), count)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    variance = values[:2].mean()
    fitted = vectors[:, 2:] @ np.diag(values[2:] - variance) @ vectors[:, 2:].T + variance * np.eye(4)
    exact = stats.multivariate_normal(x.mean(0), fitted).logpdf(x).mean()
    likelihood = Normal("learned")
    model = vae.VAE(encoder=nets.MLP((), (4,)), decoder=likelihood.decoder(nets.MLP((), (4,))), likelihood=likelihood)
    examples = quadrature(x.astype(np.float32))
    params = model.init(new_key(), examples.x)["params"]
    params = train(vae.loss(model), params, examples, 4000, 0.03)
    found = means(vae.loss(model), params, examples)
    np.testing.assert_allclose(np.exp(params["decoder"]["log_scale"]), [np.sqrt(variance)], rtol=1e-3)
    np.testing.assert_allclose(found["scale"], np.sqrt(variance), rtol=1e-3)
    np.testing.assert_allclose(-found["loss"], exact, atol=1e-3)
    decoder = params["decoder"]["net"]["Dense_0"]["kernel"]
    np.testing.assert_allclose(decoder.T @ decoder + variance * np.eye(4), fitted, atol=0.02)


def test_predicted_scales_are_the_standard_deviations_given_the_code():
    """For known codes the maximum is the mean and the standard deviation of every pixel given each of two codes."""
    rng = np.random.default_rng(0)
    which = np.arange(100) % 2
    scale = np.array([[0.3, 2.0, 1.0], [1.5, 0.2, 0.7]])
    x = np.array([[1.0, -2.0, 0.0], [0.0, 3.0, 0.5]])[which] + scale[which] * rng.normal(size=(100, 3))
    likelihood = Normal("predicted")
    net = likelihood.decoder(nets.MLP((), likelihood.parameters((3,))))
    codes = jnp.asarray(np.eye(2)[which], jnp.float32)

    def loss(variables, batch, key):
        return {"loss": -log_likelihood(likelihood, net.apply(variables, codes), batch.x)}, {}

    examples = quadrature(x[::4].astype(np.float32)).replace(x=jnp.asarray(x, jnp.float32))
    params = train(loss, net.init(new_key(), codes)["params"], examples, 3000, 0.03)
    mean, log_scale = np.split(np.asarray(net.apply({"params": params}, jnp.eye(2))), 2, axis=1)
    np.testing.assert_allclose(mean, [x[which == k].mean(0) for k in (0, 1)], atol=1e-3)
    np.testing.assert_allclose(np.exp(log_scale), [x[which == k].std(0) for k in (0, 1)], rtol=1e-3)


def test_learned_scale_is_one_parameter_that_starts_at_one():
    net = Normal("learned").decoder(nets.MLP((), SHAPE))
    z = jnp.ones((2, 5, 3))  # any leading axes
    params = net.init(new_key(), z)["params"]
    np.testing.assert_array_equal(params["log_scale"], [0.0])
    outputs = net.apply({"params": params}, z)
    assert outputs.shape == (2, 5, 3, 2, 4)
    assert Normal("learned").parameters(SHAPE) == SHAPE
    assert Normal("predicted").parameters(SHAPE) == (3, 2, 4)


@pytest.mark.parametrize("name", ["auto", *NAMES])
def test_vae_experiment_has_the_likelihood_of_its_field(name):
    """The reconstruction term is its negative log-likelihood."""
    fields = experiment.Config(likelihood=name, hidden=(5,), **scale_of(name))
    built = experiment.build(fields, Info(SHAPE, 100))
    likelihood = likelihoods.named(name, *scale_of(name).values())
    assert built.model.likelihood == likelihood
    x = jax.random.uniform(new_key(), (8, *SHAPE))
    variables = built.model.init(new_key(), x)
    examples = quadrature(x[:2])
    terms, _ = built.evaluate(variables, examples, new_key())
    z = vae.sample_posterior(built.model, variables, examples, new_key())[1]
    outputs = built.model.apply(variables, z, method="outputs")
    np.testing.assert_allclose(terms["reconstruction"], -log_likelihood(likelihood, outputs, examples.x), rtol=1e-6)
    images = built.model.apply(variables, 100 * z, method="decode")
    np.testing.assert_allclose(images, likelihood.mean(built.model.apply(variables, 100 * z, method="outputs")))


@pytest.mark.parametrize("name", NAMES)
def test_decoder_starts_at_the_mean_training_image(name):
    image = np.random.default_rng(0).uniform(0.1, 0.9, SHAPE)
    fields = iwae_experiment.Config(likelihood=name, hidden=(5,), latent=2, **scale_of(name))
    model = iwae_experiment.build(fields, Info(SHAPE, 100, lambda: image)).model
    variables = model.init(new_key(), jnp.zeros((1, *SHAPE)))
    np.testing.assert_allclose(model.apply(variables, jnp.zeros((1, 2)), method="decode")[0], image, rtol=1e-5)
