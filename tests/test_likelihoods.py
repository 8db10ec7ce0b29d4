"""Densities, means and samples against SciPy and Monte Carlo; learned scales against exact maximum likelihood."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from scipy import integrate, special, stats

from conftest import compiled, new_key
from jaxae import likelihoods, nets
from jaxae.core.step import descend
from jaxae.core.types import Info, State
from jaxae.experiments import iwae as iwae_experiment
from jaxae.experiments import vae as experiment
from jaxae.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogisticMixture,
    Laplace,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
    ZeroInflatedNegativeBinomial,
    log_likelihood,
)
from jaxae.likelihoods.bernoulli import cross_entropy
from jaxae.likelihoods.gamma import binet, binet_slope
from jaxae.variants import vae
from test_vae import OFFSET, SIGMA, W, means, quadrature

SHAPE = (3, 2, 2)
ALL = {
    "bernoulli": Bernoulli(),
    "continuous-bernoulli": ContinuousBernoulli(),
    "logistic-mixture": DiscretizedLogisticMixture(),
    "categorical": Categorical(6),
    "normal": Normal(0.7),
    "normal-learned": Normal("learned"),
    "normal-predicted": Normal("predicted"),
    "laplace": Laplace(0.7),
    "laplace-learned": Laplace("learned"),
    "laplace-predicted": Laplace("predicted"),
    "student-t": StudentT(0.7),
    "student-t-learned": StudentT("learned"),
    "student-t-predicted": StudentT("predicted", "predicted"),
    "poisson": Poisson(),
    "negative-binomial": NegativeBinomial(),
    "zero-inflated-negative-binomial": ZeroInflatedNegativeBinomial(),
}
NAMES = list(ALL)
REAL, COUNTS = tuple(NAMES[4:13]), tuple(NAMES[13:])
INFOS = {"counts": Info(SHAPE, 100, real=True, total=20.0), "real": Info(SHAPE, 100, real=True)}
LEVEL = np.linspace(0, 1, 256)


def scale_of(name):
    return {"likelihood_scale": 0.7} if name in ("normal", "laplace", "student-t") else {}


@cache
def parameters(likelihood):
    """Random parameters of a decoder and of the likelihood, away from 0."""
    net = likelihood.decoder(nets.MLP((), likelihood.parameters(SHAPE)))
    shapes = jax.eval_shape(net.init, new_key(), jnp.zeros((4, 3)))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32), shapes)
    return params, net.apply({"params": params}, jnp.asarray(rng.normal(size=(4, 3)), jnp.float32))


def decoded(likelihood, count=4):
    """Random outputs of a decoder, with the parameters of the likelihood."""
    params, outputs = parameters(likelihood)
    return params, outputs[:count]


COUNT = 20_000


@cache
def samples(name):
    """20,000 samples for one row of outputs, and their log densities."""
    _, outputs = decoded(ALL[name], 1)
    many = jnp.broadcast_to(outputs, (COUNT, *outputs.shape[1:]))
    x = ALL[name].sample(new_key(), many)
    return x, ALL[name].log_prob(many, x)


class Masses:
    """A discrete distribution of each pixel; masses: [..., values]."""

    def __init__(self, values, masses):
        np.testing.assert_allclose(masses.sum(-1), 1, rtol=1e-9)
        self.values, self.masses = values, masses

    def logpmf(self, x):
        place = np.abs(self.values - np.asarray(x)[..., None]).argmin(-1)
        return np.log(np.take_along_axis(self.masses, place[..., None], axis=-1)[..., 0])

    def mean(self):
        return (self.masses * self.values).sum(-1)

    def std(self):
        return np.sqrt((self.masses * (self.values - self.mean()[..., None]) ** 2).sum(-1))

    def entropy(self):
        return special.entr(self.masses).sum(-1)


class Truncated(Masses):
    """The density proportional to e^(l x) on [0, 1], integrated by Gauss-Legendre quadrature."""

    def __init__(self, logits):
        nodes, weights = np.polynomial.legendre.leggauss(200)
        self.logits, self.values, self.weights = logits, (nodes + 1) / 2, weights / 2
        each = self.weights * np.exp(logits[..., None] * self.values)
        self.log_normaliser, self.masses = np.log(each.sum(-1)), each / each.sum(-1, keepdims=True)

    def logpdf(self, x):
        return self.logits * x - self.log_normaliser

    def entropy(self):
        return self.log_normaliser - self.logits * self.mean()


def logistic_masses(outputs, components=5):
    """Masses of 256 levels, from differences of distribution functions or, above the location, survival functions."""
    parts = outputs.reshape(*outputs.shape[:-1], 3, components, -1)
    logits, location, log_scale = (np.swapaxes(parts[..., i, :, :], -1, -2)[..., None] for i in range(3))
    edges = np.concatenate([[-np.inf], (LEVEL[1:] + LEVEL[:-1]) / 2, [np.inf]])
    z = (edges - location) / np.exp(log_scale)
    mass = np.where(z[..., :-1] > 0, -np.diff(special.expit(-z)), np.diff(special.expit(z)))
    return (special.softmax(logits, axis=-2) * mass).sum(-2)


def reference(name, params, outputs):
    """The distribution of every pixel, in SciPy or by numerical integration."""
    outputs = np.asarray(outputs, np.float64)
    if name == "bernoulli":
        return stats.bernoulli(special.expit(outputs))
    if name == "continuous-bernoulli":
        return Truncated(outputs)
    if name == "logistic-mixture":
        return Masses(LEVEL, logistic_masses(outputs))
    if name == "categorical":
        logits = np.swapaxes(outputs.reshape(*outputs.shape[:-1], 6, -1), -1, -2)
        return Masses(np.linspace(0, 1, 6), special.softmax(logits, axis=-1))
    if name in COUNTS:
        m = np.exp(outputs[..., :2])[..., None]
        values = np.arange(3000)
        r = np.exp(np.asarray(params.get("log_inverse_dispersion", 0), np.float64)).reshape(-1, 1)
        p = stats.poisson(m) if name == "poisson" else stats.nbinom(r, r / (r + m))
        zeros = special.expit(outputs[..., 2:4])[..., None] if name.startswith("zero") else 0
        return Masses(values, (1 - zeros) * p.pmf(values) + zeros * (values == 0))
    scale = 0.7
    if name.endswith("-learned"):
        scale = np.exp(float(params["log_scale"][0]))
    elif name.endswith("-predicted"):
        scale = np.exp(outputs[..., -2:])
    if name.startswith("student-t"):
        df = 3 + np.logaddexp(0, outputs[..., 2:4]) if name == "student-t-predicted" else 5
        return stats.t(df=df, loc=outputs[..., :2], scale=scale)
    return (stats.norm if name.startswith("normal") else stats.laplace)(loc=outputs[..., :2], scale=scale)


def examples(name, count=4):
    rng, shape = np.random.default_rng(0), (count, *SHAPE)
    return {
        "binary": lambda: rng.integers(0, 2, shape),
        "unit": lambda: rng.uniform(size=shape),
        "levels": lambda: rng.integers(0, 6, shape) / 5,  # also levels of 256
        "real": lambda: rng.normal(size=shape).astype(np.float32).astype(float),
        "counts": lambda: rng.poisson(rng.choice([0.5, 30], shape)),
    }[ALL[name].data]()


def density(p, x):
    return p.logpdf(x) if hasattr(p, "logpdf") else p.logpmf(x)


@pytest.mark.parametrize("name", NAMES)
def test_log_prob_of_every_dimension_against_scipy(name):
    params, outputs = decoded(ALL[name])
    x = examples(name).astype(np.float32)
    ours = compiled(ALL[name], "log_prob", outputs, x)
    assert ours.shape == (4, *SHAPE)
    expected = density(reference(name, params, outputs), x.astype(np.float64))
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_of_log_prob_against_finite_differences(name):
    _, outputs = decoded(ALL[name])
    x = examples(name).astype(np.float32)
    if name.startswith("laplace"):
        x += np.float32(0.1) * np.sign(x - np.asarray(ALL[name].mean(outputs)))  # away from the kink
    check_grads(jax.jit(lambda o: ALL[name].log_prob(o, jnp.asarray(x))), (outputs,), order=1, modes=["rev"], eps=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_mean_against_scipy(name):
    """The mean of a logistic mixture agrees to half a level."""
    params, outputs = decoded(ALL[name])
    error = 0.5 / 255 if name == "logistic-mixture" else 1e-7
    np.testing.assert_allclose(ALL[name].mean(outputs), reference(name, params, outputs).mean(), rtol=1e-5, atol=error)


@pytest.mark.parametrize("df", [3.5, 30.0])
def test_samples_of_student_t_have_the_gradient_in_the_degrees_of_freedom(df):
    """The gradient of E|x| at scale 1, which is 2 sqrt(df / pi) gamma((df + 1) / 2) / (gamma(df / 2) (df - 1))."""

    def size(raw):
        outputs = jnp.stack([jnp.zeros(100_000), jnp.full(100_000, raw), jnp.zeros(100_000)], axis=1)
        return jnp.abs(StudentT("predicted", "predicted").sample(new_key(), outputs)[:, 0])

    def exact(raw):
        n = 3 + np.logaddexp(0, raw)
        return 2 * np.sqrt(n / np.pi) * np.exp(special.gammaln((n + 1) / 2) - special.gammaln(n / 2)) / (n - 1)

    raw = float(np.log(np.expm1(df - 3)))
    values, slopes = jax.jit(lambda raw: jax.jvp(size, (raw,), (1.0,)))(raw)
    n = np.sqrt(len(values))
    assert abs(values.mean() - exact(raw)) < 4.5 * values.std() / n
    slope = (exact(raw + 1e-4) - exact(raw - 1e-4)) / 2e-4
    assert np.isfinite(slopes).all()
    assert abs(slopes.mean() - slope) < 4.5 * slopes.std() / n
    assert abs(slope) > 9 * slopes.std() / n


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_the_mean_and_the_deviation_of_the_distribution(name):
    """Pixels are independent."""
    params, outputs = decoded(ALL[name], 1)
    n, x = COUNT, samples(name)[0]
    assert x.shape == (n, *SHAPE)
    assert x.dtype == jnp.float32
    x, p = np.asarray(x, np.float64), reference(name, params, outputs)
    np.testing.assert_array_less(np.abs(x.mean(0) - p.mean()[0]), 4.5 * p.std()[0] / np.sqrt(n))
    if name == "student-t-predicted":  # whose fourth moments are infinite
        spread = p.ppf(0.9)[0] - p.ppf(0.1)[0]
        np.testing.assert_allclose(np.quantile(x, 0.9, axis=0) - np.quantile(x, 0.1, axis=0), spread, rtol=0.03)
    elif name in COUNTS:  # with heavy tails: the error of a standard deviation depends on the fourth moment
        kurtosis = (p.masses * (p.values - p.mean()[..., None]) ** 4).sum(-1)[0] / p.std()[0] ** 4
        np.testing.assert_array_less(np.abs(x.std(0) / p.std()[0] - 1), 4.5 * np.sqrt((kurtosis - 1) / (4 * n)))
    else:
        np.testing.assert_allclose(x.std(0), p.std()[0], rtol=0.03)
    correlation = np.corrcoef(x.reshape(n, -1).T)
    assert np.abs(correlation - np.eye(len(correlation))).max() < 4.5 / np.sqrt(n)
    assert name != "bernoulli" or set(np.unique(x)) == {0, 1}
    if ALL[name].data == "levels":
        steps = 5 if name == "categorical" else 255
        np.testing.assert_allclose(steps * x, np.round(steps * x), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_log_prob_of_samples_is_minus_the_entropy_on_average(name):
    """Sampler and log density are consistent."""
    params, outputs = decoded(ALL[name], 1)
    n, found = COUNT, np.asarray(samples(name)[1], np.float64)
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
    found = net.init_with_output(new_key(), z)[0]
    np.testing.assert_allclose(likelihood.mean(found)[0], mean, rtol=1e-5)
    if name in ("normal-learned", "normal-predicted"):  # and a standard deviation of 1
        np.testing.assert_allclose(likelihood.log_prob(found, found[..., :2]), stats.norm.logpdf(0), rtol=1e-6)


def with_compiled_density(likelihood):
    """A copy whose log density is one program, in place of one per operation."""
    copy = dataclasses.replace(likelihood)
    object.__setattr__(copy, "log_prob", partial(compiled, likelihood, "log_prob"))
    return copy


@pytest.mark.parametrize("name", NAMES)
def test_log_likelihood_is_the_sum_over_the_observed_pixels(name):
    """Without a mask, all pixels are observed; masks have the shape of x, of its first axes [B, T], or one value per
    example."""
    params, outputs = decoded(ALL[name])
    x = examples(name)
    each = density(reference(name, params, outputs), x)
    x, likelihood, rng = jnp.asarray(x, jnp.float32), with_compiled_density(ALL[name]), np.random.default_rng(2)
    np.testing.assert_allclose(log_likelihood(likelihood, outputs, x), each.sum((1, 2, 3)), rtol=1e-5)
    for shape in ((4, *SHAPE), (4, 3, 2), (4, 3), (4,)):
        observed = rng.integers(0, 2, shape).astype(np.float32)
        assert 0 < observed.mean() < 1
        expected = (each * observed.reshape(*shape, *[1] * (4 - len(shape)))).sum((1, 2, 3))
        found = log_likelihood(likelihood, outputs, x, jnp.asarray(observed))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_missing_pixels_change_neither_value_nor_gradient(name):
    """They may be NaN or infinite."""
    _, outputs = decoded(ALL[name])
    observed = np.random.default_rng(2).integers(0, 2, (4, *SHAPE)).astype(np.float32)
    x = np.where(observed > 0, examples(name), 0).astype(np.float32)

    @jax.jit
    @jax.value_and_grad
    def value(outputs, missing):
        filled = jnp.where(observed > 0, x, missing)
        return log_likelihood(ALL[name], outputs, filled, jnp.asarray(observed)).sum()

    expected, slope = value(outputs, 0.0)
    for missing in (1.0, jnp.nan, jnp.inf):
        assert value(outputs, missing)[0] == expected
    np.testing.assert_array_equal(value(outputs, 1.0)[1], slope)
    np.testing.assert_array_equal(np.asarray(slope)[..., :2] != 0, observed > 0)


@pytest.mark.parametrize("name", NAMES)
def test_errors_against_numpy(name):
    """Means over the pixels of each example, or over the observed ones."""
    rng, likelihood = np.random.default_rng(3), ALL[name]
    x = rng.uniform(size=(4, *SHAPE)) if name == "bernoulli" else examples(name)
    seen = rng.integers(0, 2, x.shape)
    params, outputs = decoded(likelihood)
    p = reference(name, params, outputs)
    mean = np.asarray(likelihood.mean(outputs)) if name == "logistic-mixture" else p.mean()
    expected = {"mse": (mean - x) ** 2}
    if name == "bernoulli":
        expected["bce"] = -(x * np.log(p.mean()) + (1 - x) * np.log(1 - p.mean()))
    elif name in REAL:
        expected["scale"] = np.broadcast_to(p.kwds["scale"], x.shape)
    if name == "student-t-predicted":
        expected["df"] = p.kwds["df"]
    if name.startswith("zero"):
        expected["inflation"] = special.expit(np.asarray(outputs, np.float64)[..., 2:4])
    if name.endswith("negative-binomial"):
        r = np.exp(np.asarray(params["log_inverse_dispersion"], np.float64))
        expected["inverse_dispersion"] = np.broadcast_to(r, x.shape)
    for observed in (None, seen):
        mask = np.ones_like(seen) if observed is None else seen
        given = None if observed is None else jnp.asarray(seen, jnp.float32)
        found = likelihood.errors(outputs, jnp.asarray(x, jnp.float32), given)
        assert found.keys() == expected.keys()
        for term, values in expected.items():
            means = (values * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))
            np.testing.assert_allclose(found[term], means, rtol=1e-5, err_msg=term)


def test_bernoulli_of_grey_pixels_is_minus_the_cross_entropy():
    rng = np.random.default_rng(0)
    logits, x = rng.normal(size=(5, 6)), rng.uniform(size=(5, 6))
    s = special.expit(logits)
    ours = jax.jit(partial(log_likelihood, Bernoulli()))(*(a.astype(np.float32) for a in (logits, x)))
    np.testing.assert_allclose(ours, (x * np.log(s) + (1 - x) * np.log(1 - s)).sum(1), rtol=1e-5)


@pytest.mark.parametrize("logit", [-1e4, -100.0, 100.0, 1e4])
def test_bernoulli_and_its_gradient_stay_finite(logit):
    @jax.jit
    @jax.value_and_grad
    def value(logit, x):
        return log_likelihood(Bernoulli(), logit[None, None], jnp.full((1, 1), x))[0]

    for x in (0.0, 1.0):
        found, slope = value(jnp.float32(logit), x)
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


EXTREMES = np.array([-1e9, -1e4, -30.0, 0.0, 30.0, 1e4, 1e9], np.float32)
EDGES = {
    "binary": (0.0, 1.0),
    "unit": (0.0, 0.5, 1.0),
    "levels": (0.0, 0.5, 1.0),
    "real": (-1e9, 0.0, 1e9),
    "counts": (0.0, 1.0, 2.0**24),
}


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_finite_over_the_whole_range_of_outputs(name):
    """Log density, its gradient, mean, sample and errors, for all combinations of two extremes in the outputs."""
    likelihood = ALL[name]
    learned = name.endswith(("-learned", "negative-binomial"))
    width = likelihood.parameters((1,))[0] + learned
    rows = np.array([np.where(np.arange(width) % 3 == k, a, b) for a in EXTREMES for b in EXTREMES for k in range(3)])
    outputs = rows.astype(np.float32)

    def value(outputs, x):
        each = likelihood.log_prob(outputs, x)
        return each.sum(), (each, likelihood.errors(outputs, x))

    slopes = jax.jit(jax.value_and_grad(value, has_aux=True))
    for edge in EDGES[likelihood.data]:
        x = np.full((len(rows), 1), edge, np.float32)
        assert all(np.isfinite(part).all() for part in jax.tree.leaves(slopes(outputs, x)))
    assert np.isfinite(compiled(likelihood, "mean", outputs)).all()
    assert np.isfinite(compiled(likelihood, "sample", new_key(), outputs)).all()


@jax.jit
def continuous_bernoulli(x, logit):
    """Log density, its derivative and mean for one logit."""

    def value(logit):
        return ContinuousBernoulli().log_prob(jnp.full((1, 3), logit), x[None])[0]

    return value(logit), jax.jacrev(value)(logit), ContinuousBernoulli().mean(jnp.full((1,), logit))


@pytest.mark.parametrize("logit", [-300.0, -20.0, -1.5, -0.99, -1e-2, -1e-4, 0.0, 1e-4, 1e-2, 0.99, 1.01, 20.0, 300.0])
def test_continuous_bernoulli_and_its_gradient_near_one_half(logit):
    """Against integrals in float64; the closed form of the normaliser cancels near a logit of 0."""
    x = np.float32([0.0, 0.3, 1.0])
    logit = float(np.float32(logit))
    fine = np.linspace(0, 1, 200_001)
    shifted = np.exp(logit * fine - max(logit, 0))
    mass = integrate.simpson(shifted, x=fine)
    mean = integrate.simpson(fine * shifted, x=fine) / mass
    expected = logit * x.astype(float) - max(logit, 0) - np.log(mass)
    density, slope, found = continuous_bernoulli(x, logit)
    np.testing.assert_allclose(density, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(slope, x - mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found, mean, rtol=1e-6)


@pytest.mark.parametrize("scale", [-9.0, -6.0, -2.0, 1.0])
def test_logistic_masses_sum_to_one_and_the_mean_is_that_of_the_clipped_distribution(scale):
    """Log masses agree with NumPy above 1e-300; the mean is within half a level of the mean of the masses."""
    outputs = np.float32([[0.3, -0.4, 0.2, 0.9, scale, scale + 0.5]])
    likelihood = DiscretizedLogisticMixture(2)
    levels = LEVEL.astype(np.float32)[:, None]
    found = np.asarray(compiled(likelihood, "log_prob", np.tile(outputs, (256, 1)), levels), float)[:, 0]
    np.testing.assert_allclose(np.exp(found).sum(), 1, rtol=2e-6 + 3e-8 / np.exp(scale))
    masses = logistic_masses(outputs.astype(float), 2)[0, 0]
    some = masses > 1e-300
    np.testing.assert_allclose(found[some], np.log(masses[some]), rtol=1e-6, atol=2e-6 / np.exp(scale))
    mean = np.asarray(compiled(likelihood, "mean", outputs))[0, 0]
    assert abs(mean - (masses * LEVEL).sum()) < 0.5 / 255
    share, location, width = special.softmax(outputs[0, :2]), outputs[0, 2:4], np.exp(outputs[0, 4:])
    grid = np.linspace(0, 1, 400_001)
    exact = sum(
        p * integrate.simpson(special.expit((m - grid) / s), x=grid)
        for p, m, s in zip(share, location, width, strict=True)
    )
    np.testing.assert_allclose(mean, exact, rtol=1e-6)


def test_logistic_mass_of_a_distant_level_does_not_cancel():
    """A bin 200 scales from the location: log mass is that of the density, of which float32 differences are 0."""
    outputs = np.float32([[0.0, 0.0, -5.0]])
    x = 1.0 * 200 * np.exp(-5.0)
    x = round(255 * min(x, 250 / 255)) / 255
    found = np.asarray(compiled(DiscretizedLogisticMixture(1), "log_prob", outputs, np.float32([[x]])))[0, 0]
    z, half = x * np.exp(5.0), np.exp(5.0) / 510
    expected = -z + half + np.log1p(-np.exp(-2 * half))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert expected < -100


def test_categorical_of_two_levels_is_the_bernoulli():
    rng = np.random.default_rng(0)
    logits, x = rng.normal(size=(5, 6)), rng.integers(0, 2, (5, 6)).astype(np.float32)
    two = np.concatenate([0.3 * np.ones((5, 6)), 0.3 + logits], axis=1).astype(np.float32)
    logits = logits.astype(np.float32)
    categorical, bernoulli = (
        [compiled(likelihood, "log_prob", outputs, x), compiled(likelihood, "mean", outputs)]
        for likelihood, outputs in ((Categorical(2), two), (Bernoulli(), logits))
    )
    np.testing.assert_allclose(categorical[0], bernoulli[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(categorical[1], bernoulli[1], rtol=1e-5)


def test_grey_values_are_rounded_to_levels():
    rng = np.random.default_rng(0)
    level = rng.integers(0, 256, (4, *SHAPE))
    near = np.clip((level + rng.uniform(-0.4, 0.4, level.shape)) / 255, 0, 1).astype(np.float32)
    exact = (level / 255).astype(np.float32)
    for likelihood in (DiscretizedLogisticMixture(), Categorical()):
        outputs = rng.normal(size=(4, *likelihood.parameters(SHAPE))).astype(np.float32)
        found = (compiled(likelihood, "log_prob", outputs, x) for x in (near, exact))
        np.testing.assert_array_equal(*found)


def test_student_t_for_many_degrees_of_freedom_is_the_normal():
    """With 10,000 degrees of freedom, the largest number allowed, log densities differ by at most z^4 / (4 df)."""
    x = np.linspace(-2, 2, 9, dtype=np.float32)[None]
    found = compiled(StudentT(0.7, 1e4), "log_prob", np.zeros_like(x), x)
    np.testing.assert_allclose(found, compiled(Normal(0.7), "log_prob", np.zeros_like(x), x), atol=2e-3)
    np.testing.assert_allclose(found, stats.t(1e4, 0, 0.7).logpdf(np.asarray(x, float)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("df", [1.0, 1.5, 4.0, 30.0, 999.0])
def test_student_t_of_any_degrees_of_freedom_against_scipy(df):
    x = np.linspace(-9, 9, 13, dtype=np.float32)[None]
    found = compiled(StudentT(0.7, df), "log_prob", np.full_like(x, 0.5), x)
    np.testing.assert_allclose(found, stats.t(df, 0.5, 0.7).logpdf(x.astype(float)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("df", [0.5, 2e4, np.nan])
def test_degrees_of_freedom_outside_their_limits_raise(df):
    with pytest.raises(ValueError, match=r"df=.* must be from 1 to 10,000"):
        StudentT(1.0, df)


def test_binet_function_against_scipy():
    """Value and derivative, relative to 1 / a; where log gamma is large, it is Stirling's series in float64."""
    a = np.exp(np.linspace(-20, 20, 501)).astype(np.float32)
    exact = a.astype(float)
    small, large = exact < 100, exact > 10
    found, slope = (np.asarray(v, float) for v in jax.jit(jax.vmap(jax.value_and_grad(binet)))(a))
    stirling = (exact - 0.5) * np.log(exact) - exact + 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(found[small], (special.gammaln(exact) - stirling)[small], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found[large], (1 / (12 * exact) - 1 / (360 * exact**3))[large], rtol=1e-5)
    derivative = special.digamma(exact) - np.log(exact) + 0.5 / exact
    np.testing.assert_allclose((slope * exact)[small], (derivative * exact)[small], atol=2e-6)
    slope = np.asarray(jax.jit(binet_slope)(a), float)
    np.testing.assert_allclose((slope * exact)[small], (derivative * exact)[small], atol=1e-6)
    np.testing.assert_allclose(slope[large], (-1 / (12 * exact**2) + 1 / (120 * exact**4))[large], rtol=1e-5)


def counted(likelihood, x, log_mean, log_r=None):
    parts = (log_mean,) if log_r is None else (log_mean, np.full_like(log_mean, log_r))
    return np.asarray(compiled(likelihood, "log_prob", np.concatenate(parts, axis=1), x), float)


@pytest.mark.parametrize("log_r", [-10.0, -3.0, 0.0, 2.0, 5.0, 10.0, 15.0])
def test_masses_of_large_counts_do_not_cancel(log_r):
    """Against log gamma in float64, near the mean and far from it, for negligible to extreme overdispersion."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.integers(0, high, (100, 1)) for high in (3, 30, 300, 3000)]).astype(np.float32)
    apart = rng.choice([0.01, 0.1, 1, 4], x.shape) * rng.normal(size=x.shape)
    log_mean = (np.log(x + 0.5) + apart).astype(np.float32)
    n, log_m, r = x.astype(float), log_mean.astype(float), np.exp(log_r)
    gammas = special.gammaln(n + r) - special.gammaln(r) - special.gammaln(n + 1)
    expected = gammas - r * np.log1p(np.exp(log_m) / r) + n * (log_m - np.logaddexp(log_r, log_m))
    found = counted(NegativeBinomial(), x, log_mean, log_r)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        counted(Poisson(), x, log_mean), stats.poisson(np.exp(log_m)).logpmf(n), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("log_r", [-10.0, 0.0, 5.0, 15.0])
def test_derivatives_of_the_negative_binomial_against_digamma_in_float64(log_r):
    """Relative to a count of the larger of x and m, or to 1."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.integers(0, high, (100, 1)) for high in (2, 30, 3000)]).astype(np.float32)
    log_mean = (np.log(x + 0.5) + rng.choice([0.01, 1, 4], x.shape) * rng.normal(size=x.shape)).astype(np.float32)
    n, m, r = x.astype(float), np.exp(log_mean.astype(float)), np.exp(log_r)
    of_mean = n - (n + r) * m / (m + r)
    digammas = special.digamma(n + r) - special.digamma(r)
    of_r = r * (digammas + np.log(r / (r + m)) + (m - n) / (m + r))

    def total(log_mean, log_r):
        outputs = jnp.concatenate([log_mean, jnp.broadcast_to(log_r, log_mean.shape)], axis=1)
        return NegativeBinomial().log_prob(outputs, jnp.asarray(x)).sum()

    found = jax.jit(jax.grad(total, (0, 1)))(log_mean, np.full_like(log_mean, log_r))
    scale = np.maximum(np.maximum(n, m), 1)
    for slope, expected in zip(found, (of_mean, of_r), strict=True):
        np.testing.assert_allclose(np.asarray(slope) / scale, expected / scale, atol=3e-6)


def test_negative_binomial_of_large_inverse_dispersion_is_the_poisson():
    x = np.float32([[0], [1], [7], [100], [2000]])
    log_mean = np.log(x + 1).astype(np.float32)
    found, limit = counted(NegativeBinomial(), x, log_mean, 20.0), counted(Poisson(), x, log_mean)
    np.testing.assert_allclose(found, limit, rtol=1e-6, atol=1e-6)
    assert not np.allclose(counted(NegativeBinomial(), x, log_mean, 5.0), limit, rtol=1e-3)


def test_size_factor_multiplies_the_means():
    """The likelihood of an example is that of its means times its total over the mean total; an empty one has total
    1."""
    x = np.float32([[3, 1, 0, 8], [0, 2, 1, 0], [0, 0, 0, 0]])
    log_mean = np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    factor = np.maximum(x.sum(1, keepdims=True), 1) / 5
    m, r = factor * np.exp(log_mean.astype(float)), np.exp(0.5)
    expected = {Poisson: stats.poisson(m), NegativeBinomial: stats.nbinom(r, r / (r + m))}
    for kind, p in expected.items():
        log_r = 0.5 if kind is NegativeBinomial else None
        found = counted(kind(total=5.0), x, log_mean, log_r)
        np.testing.assert_allclose(found, p.logpmf(x), rtol=1e-6, atol=1e-6)
        outputs = np.concatenate([log_mean, np.full_like(log_mean, 0.5)], 1) if log_r else log_mean
        np.testing.assert_allclose(compiled(kind(total=5.0), "mean", outputs), np.exp(log_mean), rtol=1e-6)
        errors = compiled(kind(total=5.0), "errors", outputs, x)
        np.testing.assert_allclose(errors["mse"], ((m - x) ** 2).mean(1), rtol=1e-5)


def test_size_factor_of_missing_counts_is_that_of_the_observed_ones():
    x, seen = np.float32([[3, 1, 50, 8]]), np.float32([[1, 1, 0, 1]])
    found = jax.jit(partial(log_likelihood, Poisson(6.0)))(np.zeros_like(x), x, seen)
    np.testing.assert_allclose(found, stats.poisson(2).logpmf([3, 1, 8]).sum(), rtol=1e-6)


def test_inverse_dispersion_is_one_parameter_per_column():
    net = NegativeBinomial().decoder(nets.MLP((), (5,)))
    z = np.ones((2, 3), np.float32)
    params = jax.jit(net.init)(new_key(), z)["params"]
    np.testing.assert_array_equal(params["log_inverse_dispersion"], np.zeros(5))
    params["log_inverse_dispersion"] = np.arange(5, dtype=np.float32)
    found = np.asarray(jax.jit(net.apply)({"params": params}, z))
    np.testing.assert_array_equal(found[:, 5:], np.tile(np.arange(5.0), (2, 1)))


def test_encoder_receives_the_logarithm_of_counts():
    """The encoder input is log(1 + x) for counts (Lopez et al. 2018), x for other data."""
    for likelihood, seen in ((NegativeBinomial(), np.log1p), (Normal(), np.asarray)):
        model = vae.VAE(*vae.dense((4,), (), 2, likelihood))
        x = np.float32([[0, 3, 1, 100]])
        params = jax.jit(model.init)(new_key(), x)["params"]
        codes = jax.jit(partial(model.apply, method="encode"))({"params": params}, x)
        kernel = np.asarray(params["encoder"]["Dense_0"]["kernel"])
        np.testing.assert_allclose(codes, seen(x) @ kernel[:, :2], rtol=1e-5)


@pytest.mark.parametrize("name", ["normal-learned", "normal-predicted"])
@pytest.mark.parametrize("log_scale", [-3e38, -100.0, 100.0, 3e38])
def test_normal_of_any_log_scale_is_finite(name, log_scale):
    """Density, gradient, errors and samples, also where x equals the mean."""
    x = jnp.array([[[0.0, 0.5]]])
    outputs = np.float32([[[0.0, 0.0, log_scale, log_scale]]])
    likelihood, scale = ALL[name], np.exp(np.clip(log_scale, -20, 20))
    value, slope = jax.jit(jax.value_and_grad(lambda o: log_likelihood(likelihood, o, x)[0]))(outputs)
    np.testing.assert_allclose(value, stats.norm(0, scale).logpdf([0, 0.5]).sum(), rtol=1e-5)
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(compiled(likelihood, "errors", outputs, x)["scale"], scale, rtol=1e-5)
    assert np.isfinite(compiled(likelihood, "sample", new_key(), outputs)).all()


def test_named_returns_the_likelihood_of_each_name():
    for name, likelihood in ALL.items():
        info = INFOS.get(likelihood.data, Info(SHAPE, 100))
        changes = {"categorical": {"levels": 256}} | {key: {"total": 20.0} for key in COUNTS}
        expected = dataclasses.replace(likelihood, **changes.get(name, {}))
        found = likelihoods.named(name, *scale_of(name).values(), info=info)
        assert found == expected
        assert hash(found) == hash(expected)
    assert likelihoods.named("normal") == Normal(1.0) != Normal(0.7)


def test_auto_follows_the_data():
    assert likelihoods.named("auto") == Bernoulli()
    assert likelihoods.named("auto", info=INFOS["real"]) == Normal("learned")
    assert likelihoods.named("auto", info=INFOS["counts"]) == NegativeBinomial(20.0)


@pytest.mark.parametrize("name", NAMES)
def test_named_rejects_a_likelihood_of_other_data(name):
    fitting = {"pixels": NAMES[:13], "real": REAL, "counts": COUNTS}
    for data, info in {**INFOS, "pixels": Info(SHAPE, 100)}.items():
        if name in fitting[data]:
            continue
        with pytest.raises(ValueError, match=rf"^likelihood={name} needs .*\((scale|kind)=\w+\); for") as error:
            likelihoods.named(name, info=info)
        assert str(error.value).endswith(f"use one of {', '.join(fitting[data])}")


def test_unknown_likelihood_raises(untyped):
    with pytest.raises(ValueError, match="likelihood=cauchy is unknown; use one of auto, bernoulli, continuous-b"):
        likelihoods.named("cauchy")


@pytest.mark.parametrize(
    ("name", "scale", "says"),
    [
        ("normal", 0.0, "likelihood_scale=0.0 must be positive"),
        ("normal", -1.0, "likelihood_scale=-1.0 must be positive"),
        ("normal-learned", 0.7, "likelihood_scale=0.7 is for likelihood=normal, laplace or student-t only; omit it"),
        ("auto", 0.7, "likelihood_scale=0.7 is for likelihood=normal, laplace or student-t only; omit it"),
    ],
)
def test_named_rejects_a_scale_that_the_likelihood_does_not_take(name, scale, says):
    with pytest.raises(ValueError, match=says):
        likelihoods.named(name, scale)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.inf, np.nan, 2e-9, 5e8])
def test_scale_outside_its_limits_raises(scale):
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


@pytest.mark.slow
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
    params = train(loss, jax.jit(net.init)(new_key(), codes)["params"], examples, 3000, 0.03)
    mean, log_scale = np.split(np.asarray(jax.jit(net.apply)({"params": params}, jnp.eye(2))), 2, axis=1)
    np.testing.assert_allclose(mean, [x[which == k].mean(0) for k in (0, 1)], atol=1e-3)
    np.testing.assert_allclose(np.exp(log_scale), [x[which == k].std(0) for k in (0, 1)], rtol=1e-3)


def test_learned_scale_is_one_parameter_that_starts_at_one():
    net = Normal("learned").decoder(nets.MLP((), SHAPE))
    z = np.ones((2, 5, 3), np.float32)  # any leading axes
    outputs, variables = jax.jit(net.init_with_output)(new_key(), z)
    np.testing.assert_array_equal(variables["params"]["log_scale"], [0.0])
    assert outputs.shape == (2, 5, 3, 2, 4)
    assert Normal("learned").parameters(SHAPE) == SHAPE
    assert Normal("predicted").parameters(SHAPE) == (3, 2, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["auto", *NAMES])
def test_vae_experiment_has_the_likelihood_of_its_field(name):
    """The reconstruction term is its negative log-likelihood."""
    fields = experiment.Config(likelihood=name, hidden=(5,), **scale_of(name))
    info = INFOS["counts"] if name in COUNTS else Info(SHAPE, 100)
    built = experiment.build(fields, info)
    likelihood = likelihoods.named(name, *scale_of(name).values(), info=info)
    assert built.counts == (name in COUNTS)
    assert built.model.likelihood == likelihood
    x = jnp.asarray(examples("bernoulli" if name == "auto" else name, 8), jnp.float32)
    variables = built.model.init(new_key(), x)
    batch = quadrature(x[:2])
    terms, _ = built.evaluate(variables, batch, new_key())
    z = vae.sample_posterior(built.model, variables, batch, new_key())[1]
    outputs = built.model.apply(variables, z, method="outputs")
    np.testing.assert_allclose(terms["reconstruction"], -log_likelihood(likelihood, outputs, batch.x), rtol=1e-6)
    images = built.model.apply(variables, 100 * z, method="decode")
    np.testing.assert_allclose(images, likelihood.mean(built.model.apply(variables, 100 * z, method="outputs")))


@pytest.mark.parametrize("name", NAMES)
def test_decoder_starts_at_the_mean_training_image(name):
    image = np.random.default_rng(0).uniform(0.1, 0.9, SHAPE)
    fields = iwae_experiment.Config(likelihood=name, hidden=(5,), latent=2, **scale_of(name))
    info = INFOS["counts"] if name in COUNTS else Info(SHAPE, 100)
    model = iwae_experiment.build(fields, info._replace(mean=lambda: image)).model
    variables = model.init(new_key(), jnp.zeros((1, *SHAPE)))
    np.testing.assert_allclose(model.apply(variables, jnp.zeros((1, 2)), method="decode")[0], image, rtol=1e-5)


@pytest.mark.parametrize("name", ["bernoulli", "continuous-bernoulli", "logistic-mixture", "categorical"])
def test_values_just_outside_the_unit_interval_have_finite_densities(name):
    """They occur in a test split that is scaled by the range of the training split."""
    likelihood = likelihoods.named(name)
    outputs = np.random.default_rng(0).normal(size=(3, *likelihood.parameters((4,)))).astype(np.float32)
    x = np.float32([[-0.3, 0.0, 1.0, 1.2]] * 3)
    values, slope = jax.jit(jax.value_and_grad(lambda o: likelihood.log_prob(o, jnp.asarray(x)).sum()))(outputs)
    assert np.isfinite(values)
    assert np.isfinite(slope).all()
    if name == "categorical":
        values, edges = (compiled(likelihood, "log_prob", outputs, values) for values in (x, x.clip(0, 1)))
        np.testing.assert_allclose(values, edges, rtol=1e-6)
