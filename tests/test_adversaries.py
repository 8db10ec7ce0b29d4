"""Losses of the global batch: total correlation, MMD, discriminators and learned priors."""

from functools import partial
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from scipy import special, stats

from conftest import apply, batch, equal, evaluated, new_key
from conftest import initial as initial_variables
from jaxae import data, nets
from jaxae.core import divergences, mmd, reduction
from jaxae.core.batch import AXIS, Layout
from jaxae.core.divergences import DiagonalNormal
from jaxae.core.step import alternate, descend
from jaxae.core.types import Info, State
from jaxae.experiments import aae as aae_experiment
from jaxae.experiments import vampprior as vampprior_experiment
from jaxae.experiments import wae as wae_experiment
from jaxae.variants import aae, autoencoder, factor_vae, infovae, tcvae, vae, vampprior, wae
from test_vae import means

SHAPE = (3, 3, 1)


def coders(outputs=4):
    return {
        "encoder": nets.MLP((6,), (outputs,), axes=3, activation=jnp.tanh),
        "decoder": nets.MLP((6,), SHAPE, activation=jnp.tanh),
    }


def critic():
    return nets.MLP((7,), (1,), activation=jnp.tanh)


def images(count=8):
    return np.random.default_rng(0).uniform(size=(count, *SHAPE)).astype(np.float32)


def systems():
    """Model and loss of every variant whose loss needs the global batch or a discriminator."""
    plain, factor = vae.VAE(**coders()), factor_vae.FactorVAE(**coders(), discriminator=critic())
    flat = autoencoder.Autoencoder(**coders(2))
    adversarial = aae.Adversarial(**coders(2), discriminator=critic())
    return {
        "tcvae": (plain, tcvae.loss(plain, 100, 6.0, 2.0, 3.0)),
        "factor_vae": (factor, factor_vae.loss(factor, 5.0)),
        "factor_vae discriminator": (factor, factor_vae.discriminator_loss(factor)),
        "wasserstein": (flat, wae.loss(flat, 10.0)),
        "information": (plain, infovae.loss(plain, 0.5, 10.0)),
        "aae discriminator": (adversarial, aae.discriminator_loss(adversarial)),
        "aae generator": (adversarial, aae.generator_loss(adversarial)),
    }


def initial(model):
    return initial_variables(model, images())["params"]


@partial(jax.jit, static_argnums=0)
def decoded_samples(model, variables, examples, key):
    """Posterior, a sample of it, and its image."""
    q, z = vae.sample_posterior(model, variables, examples, key)
    return q, z, model.apply(variables, z, method="decode")


def sampled(model, variables, examples, key=None):
    """The same as NumPy arrays."""
    return jax.tree.map(np.asarray, decoded_samples(model, variables, examples, new_key() if key is None else key))


@pytest.mark.slow
@pytest.mark.parametrize("name", systems())
def test_losses_on_two_devices_equal_those_of_the_global_batch(name):
    """Values and gradients on a mapped axis equal those of the global batch."""
    model, loss = systems()[name]
    params, whole = initial(model), batch(images())
    shares = jax.tree.map(lambda a: a.reshape(2, 4, *a.shape[1:]), whole.replace(step=None))

    def descent(part):
        return reduction.gradient(lambda p, b: loss({"params": p}, b, new_key()), params, part)[:2]

    def on_device(share):
        return descent(share.replace(step=jnp.int32(0), layout=Layout(AXIS)))

    slopes, values = jax.jit(jax.vmap(on_device, axis_name=AXIS))(shares)
    slope, value = jax.jit(descent)(whole)
    for term, number in value.items():
        np.testing.assert_allclose(values[term], [number, number], rtol=1e-4, atol=1e-6, err_msg=term)
    for device in range(2):
        jax.tree.map(lambda a, b, d=device: np.testing.assert_allclose(a[d], b, rtol=1e-3, atol=1e-5), slopes, slope)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slope)) > 1e-3


@pytest.mark.parametrize("name", ["tcvae", "factor_vae discriminator", "wasserstein", "information"])
def test_losses_of_the_global_batch_reject_microbatches(name):
    model, loss = systems()[name]
    with pytest.raises(ValueError, match="needs the global batch"):
        jax.eval_shape(loss, {"params": initial(model)}, batch(images(), layout=Layout(partial=True)), new_key())


@pytest.mark.parametrize("name", ["tcvae", "factor_vae discriminator", "wasserstein", "information"])
def test_losses_of_the_global_batch_are_for_training_only(name):
    """Evaluation batches contain padding."""
    model, loss = systems()[name]
    with pytest.raises(ValueError, match="gather is for training"):
        jax.eval_shape(loss, {"params": initial(model)}, batch(images(), training=False), new_key())


@pytest.mark.parametrize("name", systems())
def test_gradients_against_finite_differences(name):
    model, loss = systems()[name]
    params = initial(model)
    wrt = {"factor_vae discriminator": "discriminator", "aae discriminator": "discriminator"}.get(name, "encoder")

    def value(group):
        return means(loss, {**params, wrt: group}, batch(images()))["loss"]

    check_grads(jax.jit(value), (params[wrt],), order=1, modes=["rev"], eps=1e-2, rtol=2e-2, atol=2e-2)


def posteriors(count=5, units=3):
    rng = np.random.default_rng(1)
    q = DiagonalNormal(*(rng.normal(size=(count, units)).astype(np.float32) * scale for scale in (1.0, 0.3)))
    return q, np.asarray(q.mean + np.exp(q.log_scale) * rng.normal(size=(count, units)), np.float32)


def kl_parts(q, z, examples):
    """Mutual information, total correlation and dimension-wise KL of every example, by SciPy."""
    mean, scale = np.asarray(q.mean, np.float64), np.exp(np.asarray(q.log_scale, np.float64))
    z = np.asarray(z, np.float64)
    density = stats.norm.logpdf(z[:, None], mean[None], scale[None])  # [B, N, Z]
    known = np.log(examples * len(mean))
    joint = special.logsumexp(density.sum(2), axis=1) - known
    product = (special.logsumexp(density, axis=1) - known).sum(1)
    own = stats.norm.logpdf(z, mean, scale).sum(1)
    return own - joint, joint - product, product - stats.norm.logpdf(z).sum(1)


def test_kl_decomposition_against_scipy():
    q, z = posteriors()
    found = tuple(map(np.asarray, jax.jit(lambda q, z: tcvae.kl_decomposition(q, z, q, 40))(q, z)))
    for ours, theirs in zip(found, kl_parts(q, z, 40), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    own = stats.norm.logpdf(z, q.mean, np.exp(q.log_scale)).sum(1)
    np.testing.assert_allclose(sum(found), own - stats.norm.logpdf(z).sum(1), rtol=1e-4)


TCVAE_TERMS = ("mutual_information", "total_correlation", "dimension_wise_kl")


@pytest.mark.parametrize("scheduled", [False, True])
def test_each_term_of_the_kl_decomposition_has_its_own_weight(scheduled):
    """The weights are 6 for the total correlation, 2 for the mutual information and 3 for the dimension-wise KL."""
    model = vae.VAE(**coders())
    variables, examples = {"params": initial(model)}, batch(images()).replace(step=jnp.int32(10))
    weights = [(lambda step, w=w: 0.1 * w * step) if scheduled else w for w in (6.0, 2.0, 3.0)]
    terms, _ = evaluated(tcvae.loss(model, 1000, *weights), variables, examples)
    q, z, pixels = sampled(model, variables, examples)
    pixels = pixels.astype(np.float64)
    error = -(images() * np.log(pixels) + (1 - images()) * np.log(1 - pixels)).sum((1, 2, 3))
    parts = kl_parts(q, z, 1000)
    for name, values in zip(TCVAE_TERMS, parts, strict=True):
        np.testing.assert_allclose(terms[name], values, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(terms["reconstruction"], error, rtol=1e-5)
    information, correlation, units = parts
    np.testing.assert_allclose(terms["loss"], error + 2 * information + 6 * correlation + 3 * units, rtol=1e-4)


def test_tcvae_with_weights_of_one_is_the_negative_elbo():
    """The three terms of every example telescope to log q(z|x) - log p(z)."""
    model = vae.VAE(**coders())
    variables, examples = {"params": initial(model)}, batch(images())
    terms, _ = evaluated(tcvae.loss(model, 1000, 1.0), variables, examples)
    q, z, _ = sampled(model, variables, examples)
    kl = stats.norm.logpdf(z, q.mean, np.exp(q.log_scale)).sum(1) - stats.norm.logpdf(z).sum(1)
    np.testing.assert_allclose(terms["loss"] - terms["reconstruction"], kl, rtol=1e-3, atol=1e-5)


def test_total_correlation_grows_with_dependence():
    """Minibatch weighted sampling has a constant bias; the increase is that of the closed form, -log(1 - r^2) / 2."""
    rng = np.random.default_rng(0)
    found = []

    @jax.jit
    def total_correlation(mean, noise):
        q = DiagonalNormal(mean, jnp.full(mean.shape, np.log(0.2)))
        return tcvae.kl_decomposition(q, vae.reparameterize(q, noise), q, 2000)[1].mean()

    for r in (0.0, 0.9):
        mean = rng.multivariate_normal([0, 0], [[1, r], [r, 1]], 2000)
        noise = rng.normal(size=mean.shape)
        found.append(float(total_correlation(mean.astype(np.float32), noise.astype(np.float32))))
    covariance = 0.9 / 1.04  # correlation of z, whose variance is 1 + 0.2^2
    np.testing.assert_allclose(found[1] - found[0], -0.5 * np.log(1 - covariance**2), atol=0.08)


@pytest.mark.parametrize("kind", [factor_vae, aae])
def test_discriminator_loss_has_no_gradient_in_the_encoder(kind):
    outputs = 4 if kind is factor_vae else 2
    model = (factor_vae.FactorVAE if kind is factor_vae else aae.Adversarial)(**coders(outputs), discriminator=critic())
    params = initial(model)
    loss = kind.discriminator_loss(model)
    slope = jax.jit(jax.grad(lambda p: means(loss, p, batch(images()))["loss"]))(params)
    size = {group: max(np.abs(leaf).max() for leaf in jax.tree.leaves(slope[group])) for group in slope}
    assert size["encoder"] == size["decoder"] == 0 < size["discriminator"]
    transition = descend(loss, optax.sgd(1.0), wrt=("discriminator",), name="discriminator")
    state = State(jnp.int32(0), params, transition.init(params), {})
    after, metrics = jax.jit(transition.step)(state, batch(images()), new_key())
    assert metrics.keys() == {"discriminator"}
    assert all(equal(after.params[group], params[group]) for group in ("encoder", "decoder"))
    assert not equal(after.params["discriminator"], params["discriminator"])


def test_permute_keeps_marginals_and_removes_dependence():
    z = np.tile(jax.random.normal(new_key(), (4000, 1)), 3)  # equal latent dimensions
    permuted = np.asarray(jax.jit(factor_vae.permute)(z, jax.random.fold_in(new_key(), 1)))
    np.testing.assert_array_equal(np.sort(permuted, axis=0), np.sort(z, axis=0))
    assert np.abs(np.corrcoef(permuted.T) - np.eye(3)).max() < 4 / np.sqrt(4000)


class Known(nn.Module):
    """log N(z; 0, C) / prod_j N(z_j; 0, 1), C with correlation r: the logit of an optimal discriminator."""

    r: float

    @nn.compact
    def __call__(self, z):
        self.param("none", nn.initializers.zeros, (1,))
        return ratio(z, self.r)[:, None]


def ratio(z, r):
    quadratic = (z[:, 0] ** 2 - 2 * r * z[:, 0] * z[:, 1] + z[:, 1] ** 2) / (1 - r**2)
    return -0.5 * (quadratic - z[:, 0] ** 2 - z[:, 1] ** 2) - 0.5 * np.log(1 - r**2)


class Given(nn.Module):
    """Posterior mean x, with a fixed log scale."""

    log_scale: float = -20.0

    def __call__(self, x, keys=None, axis=None):
        return jnp.concatenate([x, jnp.full(x.shape, self.log_scale)], axis=1)


R = 0.8


def correlated(count):
    """Codes of correlation R, and a model whose discriminator is optimal for them."""
    rng = np.random.default_rng(0)
    z = rng.multivariate_normal([0, 0], [[1, R], [R, 1]], count).astype(np.float32)
    model = factor_vae.FactorVAE(encoder=Given(), decoder=nets.MLP((), (2,)), discriminator=Known(R))
    return z, model, initial_variables(model, z)["params"]


@pytest.mark.parametrize("gamma", [3.0, lambda step: 0.5 * step], ids=["number", "schedule"])
def test_optimal_discriminator_estimates_the_total_correlation(gamma):
    """Its mean logit is -log(1 - r^2) / 2; the loss has gamma times it."""
    count = 40_000
    z, model, params = correlated(count)
    examples = batch(z).replace(step=jnp.int32(6))
    terms, _ = evaluated(factor_vae.loss(model, gamma), {"params": params}, examples)
    exact = -0.5 * np.log(1 - R**2)
    assert abs(terms["total_correlation"].mean() - exact) < 4 / np.sqrt(count)
    np.testing.assert_allclose(terms["total_correlation"], ratio(z, R), rtol=1e-4, atol=1e-5)
    expected = terms["reconstruction"] + terms["kl"] + 3 * ratio(z, R)
    np.testing.assert_allclose(terms["loss"], expected, rtol=1e-5, atol=1e-4)


def test_discriminator_loss_is_the_cross_entropy_of_codes_and_permuted_codes():
    """Codes are the positive class of the optimal discriminator, independent pairs the negative one."""
    count = 40_000
    z, model, params = correlated(count)
    terms, _ = evaluated(factor_vae.discriminator_loss(model), {"params": params}, batch(z))
    independent = np.random.default_rng(1).normal(size=(count, 2))
    real, fake = np.logaddexp(0, -ratio(z, R)), np.logaddexp(0, ratio(independent, R))
    found = np.asarray(terms["loss"], np.float64)
    error = np.sqrt((found.var() + real.var() + fake.var()) / count)
    assert abs(found.mean() - real.mean() - fake.mean()) < 4 * error < 0.03
    assert found.mean() < 2 * np.log(2) - 10 * error  # better than chance


def test_scaling_the_optimal_logits_increases_the_cross_entropy():
    z, _, _ = correlated(40_000)
    real, fake = ratio(z, R), ratio(np.asarray(jax.jit(factor_vae.permute)(z, new_key())), R)
    loss = jax.jit(lambda real, fake: divergences.discrimination(real, fake).mean())
    scaled = {a: float(loss(*(np.float32(a * logits) for logits in (real, fake)))) for a in (0.0, 0.7, 1.0, 1.4)}
    assert min(scaled, key=scaled.get) == 1.0
    np.testing.assert_allclose(scaled[0.0], 2 * np.log(2), rtol=1e-6)


@pytest.fixture(scope="module")
def adversarial():
    """An autoencoder with the discriminator z_1 - 2 z_2 + 0.5, on inputs that equal their codes."""
    model = aae.Adversarial(encoder=Direct(), decoder=nets.MLP((), (2,)), discriminator=nets.MLP((), (1,)))
    z = np.random.default_rng(0).normal([1.5, -0.5], size=(50, 2)).astype(np.float32)
    params = initial_variables(model, z)["params"]
    kernel = {"kernel": jnp.array([[1.0], [-2.0]]), "bias": jnp.array([0.5])}
    return model, {**params, "discriminator": {"Dense_0": kernel}}, z


class Direct(nn.Module):
    """The code is the input plus a learned offset."""

    width: int = 2

    @nn.compact
    def __call__(self, x, keys=None, axis=None):
        return x + self.param("moved", nn.initializers.zeros, (1, self.width))


def logits(z):
    z = np.asarray(z, np.float64)
    return z[:, 0] - 2 * z[:, 1] + 0.5


def test_discriminator_loss_is_the_cross_entropy_of_prior_samples_and_codes(adversarial):
    """-log D(prior) - log(1 - D(code)), by NumPy, for a prior of standard deviation 5."""
    model, params, z = adversarial
    terms, _ = evaluated(aae.discriminator_loss(model, 5.0), {"params": params}, batch(z))
    prior = 5 * np.asarray(batch(z).noise(new_key(), (2,)))
    expected = np.logaddexp(0, -logits(prior)) + np.logaddexp(0, logits(z))
    np.testing.assert_allclose(terms["loss"], expected, rtol=1e-5)


def test_generator_loss_moves_codes_towards_the_prior(adversarial):
    """-log D(code), by NumPy; gradient descent moves codes along the gradient of the discriminator's logit."""
    model, params, z = adversarial
    terms, _ = evaluated(aae.generator_loss(model), {"params": params}, batch(z))
    np.testing.assert_allclose(terms["loss"], np.logaddexp(0, -logits(z)), rtol=1e-5)
    transition = descend(aae.generator_loss(model), optax.sgd(0.3), wrt=("encoder",), name="generator")
    state = State(jnp.int32(0), params, transition.init(params), {})
    after, metrics = jax.jit(transition.step)(state, batch(z), new_key())
    moved = np.asarray(after.params["encoder"]["moved"])[0]
    np.testing.assert_allclose(moved / moved[0], [1, -2], rtol=1e-5)
    assert moved[0] > 0
    np.testing.assert_allclose(metrics["generator"], np.logaddexp(0, -logits(z)).mean(), rtol=1e-5)


@pytest.mark.parametrize(
    ("rates", "changed"), [((0.01, 0.0), {"encoder", "decoder"}), ((0.0, 0.01), {"encoder", "discriminator"})]
)
def test_transitions_of_an_adversarial_autoencoder_update_their_own_groups(rates, changed):
    """Reconstruction with one learning rate, then discriminator and generator with another.

    Each starts from the result of the previous one.
    """
    lr, adversarial_lr = rates
    config = aae_experiment.Config(
        hidden=(5,),
        latent=2,
        discriminator=(4,),
        prior_scale=3.0,
        lr=lr,
        adversarial_lr=adversarial_lr,
        batch_size=8,
    )
    built = aae_experiment.build(config, Info(SHAPE, 100))
    params = initial(built.model)
    state = State(jnp.int32(0), params, jax.jit(built.train.init)(params), {})
    state, metrics = jax.jit(built.train.step)(state, batch(images()), new_key())
    after = state.params
    assert {group for group in params if not equal(params[group], after[group])} == changed
    first = after if lr else params
    second = {**first, "discriminator": after["discriminator"]}
    model, key = built.model, jax.random.fold_in(new_key(), 1)
    expected = means(aae.discriminator_loss(model, 3.0), first, batch(images()), key)
    np.testing.assert_allclose(metrics["discriminator"], expected["loss"], rtol=1e-5)
    expected = means(aae.generator_loss(model), second, batch(images()))
    np.testing.assert_allclose(metrics["generator"], expected["loss"], rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], means(built.evaluate, params, batch(images()))["loss"], rtol=1e-5)


def test_samples_of_the_adversarial_autoencoder_have_the_scale_of_its_prior():
    built = aae_experiment.build(aae_experiment.Config(latent=2, prior_scale=3.0), Info(SHAPE, 100))
    z = np.asarray(built.prior({}, new_key(), 20_000), np.float64)
    assert z.shape == (20_000, 2)
    assert abs(z.mean()) < 4 * 3 / np.sqrt(z.size)
    assert abs(z.std() - 3) < 4 * 3 / np.sqrt(2 * z.size)


@pytest.mark.slow
def test_adversarial_training_moves_the_codes_towards_the_prior():
    """Three alternating transitions on the digits: the codes are closer to N(0, I) than without the discriminator."""
    digits = data.load("digits")
    x = jnp.asarray(digits.train.x[:512].reshape(-1, 28, 28, 1) / np.float32(255))
    model = aae.Adversarial(
        encoder=nets.MLP((32,), (2,), axes=3),
        decoder=nets.MLP((32,), (28, 28, 1)),
        discriminator=nets.MLP((32,), (1,)),
    )
    params = model.init(new_key(), x[:1])["params"]
    rebuild = descend(autoencoder.loss(model, "mse"), optax.adam(3e-3), wrt=("encoder", "decoder"))
    discriminator, generator = (optax.adam(2e-3, b1=0.5) for _ in range(2))
    adversaries = [
        descend(aae.discriminator_loss(model), discriminator, wrt=("discriminator",), name="discriminator"),
        descend(aae.generator_loss(model), generator, wrt=("encoder",), name="generator"),
    ]
    apart, errors = [], []
    for transition in (alternate(rebuild), alternate(rebuild, *adversaries)):
        start = State(jnp.int32(0), params, transition.init(params), {})

        def body(i, state, transition=transition):
            part = batch(jax.lax.dynamic_slice_in_dim(x, 128 * (i % 4), 128))
            return transition.step(state, part, jax.random.fold_in(new_key(), i))[0]

        state = jax.jit(lambda s: jax.lax.fori_loop(0, 300, body, s))(start)
        z = model.apply({"params": state.params}, x, method="encode")
        apart.append(float(mmd.discrepancy(z, jax.random.normal(new_key(), z.shape))))
        errors.append(float(means(autoencoder.loss(model, "mse"), state.params, batch(x))["loss"]))
    assert apart[1] < 0.5 * apart[0]
    assert errors[1] < float(jnp.var(x, axis=0).mean())  # better than the mean image


def test_discrepancy_against_numpy():
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(n, 3)).astype(np.float32) for n in (5, 7))

    def kernel(a, b):
        """The sum of the source's seven, C = 2 Z s."""
        widths = [2 * 3 * s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10)]
        return sum(c / (c + np.sum((a - b) ** 2)) for c in widths)

    xx = np.mean([kernel(x[i], x[j]) for i in range(5) for j in range(5) if i != j])
    yy = np.mean([kernel(y[i], y[j]) for i in range(7) for j in range(7) if i != j])
    xy = np.mean([kernel(a, b) for a in x for b in y])
    np.testing.assert_allclose(jax.jit(mmd.discrepancy)(x, y), xx + yy - 2 * xy, rtol=1e-4, atol=1e-6)


def test_mmd_of_a_single_code_raises():
    with pytest.raises(ValueError, match="batch_size=1 must be at least 2 for the MMD of codes"):
        mmd.discrepancy(jnp.zeros((1, 3)), jnp.zeros((5, 3)))


def test_discrepancy_is_zero_on_average_for_equal_distributions_and_positive_for_others():
    keys = jax.random.split(new_key(), 6000).reshape(2, 3000)
    x, y = jax.jit(jax.vmap(jax.vmap(lambda key: jax.random.normal(key, (20, 2)))))(keys)
    discrepancies = jax.jit(jax.vmap(mmd.discrepancy))
    found = np.asarray(discrepancies(x, y), np.float64)
    error = found.std() / np.sqrt(3000)
    assert abs(found.mean()) < 4 * error < 0.004 * len(mmd.SCALES)
    assert found.min() < 0  # an unbiased estimate of zero is negative for some samples
    moved = np.asarray(discrepancies(x, y + 0.5), np.float64)
    assert moved.mean() > 20 * error


@pytest.mark.parametrize("scheduled", [False, True])
def test_infovae_weights_the_kl_term_and_the_mmd(scheduled):
    model = vae.VAE(**coders())
    variables, examples = {"params": initial(model)}, batch(images()).replace(step=jnp.int32(10))
    plain, _ = evaluated(infovae.loss(model, 1.0, 0.0), variables, examples)
    np.testing.assert_allclose(plain["loss"], plain["reconstruction"] + plain["kl"], rtol=1e-6)
    weights = [(lambda step, w=w: 0.1 * w * step) if scheduled else w for w in (0.7, 9.3)]
    terms, _ = evaluated(infovae.loss(model, *weights), variables, examples)
    np.testing.assert_array_equal(terms["mmd"], np.full(8, terms["mmd"][0]))
    expected = plain["reconstruction"] + 0.7 * plain["kl"] + 9.3 * plain["mmd"]
    np.testing.assert_allclose(terms["loss"], expected, rtol=1e-5)
    q = sampled(model, variables, examples)[0]
    kl = 0.5 * (q.mean**2 + np.exp(2 * q.log_scale) - 1 - 2 * q.log_scale).sum(1)
    np.testing.assert_allclose(terms["kl"], kl, rtol=1e-5)


def test_kernel_of_infovae_is_1_for_equal_codes():
    """A seventh of the sum of seven kernels, each 1 for equal codes."""
    model = vae.VAE(**coders())
    variables, examples = {"params": initial(model)}, batch(images())
    terms, _ = evaluated(infovae.loss(model, 0.7, 9.3), variables, examples)
    posterior, prior = jax.random.split(new_key())
    _, z, _ = sampled(model, variables, examples, posterior)
    expected = np.asarray(jax.jit(mmd.discrepancy)(z, examples.noise(prior, z.shape[1:])))
    np.testing.assert_allclose(terms["mmd"][0], expected / 7, rtol=1e-5)


def test_infovae_compares_samples_of_the_posterior_with_the_prior():
    """For posteriors N(0, I) the MMD of samples is 0 on average, and that of posterior means is not."""
    model = vae.VAE(encoder=Given(0.0), decoder=nets.MLP((), (2,)))
    x = np.zeros((20, 2), np.float32)
    params = initial_variables(model, x)["params"]
    loss = infovae.loss(model, 0.5, 3.0)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(new_key(), jnp.arange(2000))
    found = np.asarray(jax.jit(jax.vmap(lambda key: means(loss, params, batch(x), key)["mmd"]))(keys), np.float64)
    error = found.std() / np.sqrt(2000)
    assert abs(found.mean()) < 4 * error < 0.01
    away = jax.jit(jax.vmap(lambda key: mmd.discrepancy(jnp.asarray(x), batch(x).noise(key, (2,)))))(keys)
    assert away.mean() > 0.1


@pytest.mark.parametrize(
    "weights", [(7.0, 0.3), (lambda step: 0.7 * step, lambda step: 0.03 * step)], ids=["numbers", "schedules"]
)
def test_wasserstein_loss_weights_squared_error_and_discrepancy(weights):
    model = autoencoder.Autoencoder(**coders(2))
    variables, examples = {"params": initial(model)}, batch(images()).replace(step=jnp.int32(10))
    terms, _ = evaluated(wae.loss(model, *weights), variables, examples)
    z = apply(model, variables, images(), method="encode")
    again = apply(model, variables, z, method="decode")
    error = np.sum((np.asarray(again) - images()) ** 2, axis=(1, 2, 3))
    discrepancy = np.asarray(jax.jit(mmd.discrepancy)(z, examples.noise(new_key(), (2,))))
    np.testing.assert_allclose(terms["reconstruction"], error, rtol=1e-5)
    np.testing.assert_allclose(terms["mmd"], np.full(8, discrepancy), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(terms["loss"], 0.3 * error + 7 * discrepancy, rtol=1e-5)


def test_wasserstein_experiment_has_the_weights_of_its_fields():
    config = wae_experiment.Config(hidden=(5,), latent=2, mmd_weight=7.0, error_weight=0.3, batch_size=8)
    built = wae_experiment.build(config, Info(SHAPE, 100))
    params = initial(built.model)
    state = State(jnp.int32(0), params, jax.jit(built.train.init)(params), {})
    _, metrics = jax.jit(built.train.step)(state, batch(images()), new_key())
    assert abs(metrics["mmd"]) > 0.01
    np.testing.assert_allclose(metrics["loss"], 0.3 * metrics["reconstruction"] + 7 * metrics["mmd"], rtol=1e-5)


@pytest.fixture(scope="module")
def vamp():
    """Five pseudo-inputs, half of whose pixels are beyond black and white."""
    model = vampprior.VampVAE(**coders(), shape=SHAPE, components=5)
    params = initial(model)
    params["pseudo_inputs"] = jax.random.uniform(new_key(), (5, *SHAPE), minval=-0.5, maxval=1.5)
    return SimpleNamespace(model=model, variables={"params": params})


def test_learned_prior_against_scipy(vamp):
    q = apply(vamp.model, vamp.variables, method="mixture")
    learned = np.asarray(vamp.variables["params"]["pseudo_inputs"]).clip(0, 1)
    assert equal(q, apply(vamp.model, vamp.variables, learned, method="posterior"))
    z = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    each = stats.norm.logpdf(z[:, None], np.asarray(q.mean)[None], np.exp(q.log_scale)[None]).sum(2)
    expected = special.logsumexp(each, axis=1) - np.log(5)
    np.testing.assert_allclose(apply(vamp.model, vamp.variables, z, method="log_prior"), expected, rtol=1e-4)


def test_samples_of_the_learned_prior_have_the_moments_of_the_mixture(vamp):
    q = apply(vamp.model, vamp.variables, method="mixture")
    sample = jax.jit(vampprior.prior(vamp.model), static_argnums=2)
    z = np.asarray(sample(vamp.variables, new_key(), 100_000), np.float64)
    mean, within = np.asarray(q.mean, np.float64), np.diag(np.exp(2 * np.asarray(q.log_scale, np.float64)).mean(0))
    covariance = within + np.cov(mean.T, bias=True)
    np.testing.assert_allclose(z.mean(0), mean.mean(0), atol=4 * np.sqrt(covariance.max() / len(z)))
    np.testing.assert_allclose(np.cov(z.T), covariance, atol=0.03 * covariance.max())


def mixture(vamp, z):
    """log p(z) of the learned prior, by SciPy."""
    q = apply(vamp.model, vamp.variables, method="mixture")
    each = stats.norm.logpdf(np.asarray(z)[:, None], np.asarray(q.mean)[None], np.exp(q.log_scale)[None]).sum(2)
    return special.logsumexp(each, axis=1) - np.log(len(q.mean))


@pytest.mark.parametrize("kl_weight", [0.3, lambda step: 0.03 * step], ids=["number", "schedule"])
def test_elbo_with_a_learned_prior_and_a_kl_weight_against_scipy(vamp, kl_weight):
    """-log p(x|z) + 0.3 (log q(z|x) - log p(z)); with weight 1, the negative ELBO."""
    examples = batch(images()).replace(step=jnp.int32(10))
    terms, _ = evaluated(vampprior.loss(vamp.model, kl_weight), vamp.variables, examples)
    q, z, pixels = sampled(vamp.model, vamp.variables, examples)
    pixels = pixels.astype(np.float64)
    error = -(images() * np.log(pixels) + (1 - images()) * np.log(1 - pixels)).sum((1, 2, 3))
    kl = stats.norm.logpdf(z, q.mean, np.exp(q.log_scale)).sum(1) - mixture(vamp, z)
    np.testing.assert_allclose(terms["reconstruction"], error, rtol=1e-5)
    np.testing.assert_allclose(terms["kl"], kl, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(terms["loss"], error + 0.3 * kl, rtol=1e-4)
    plain, _ = evaluated(vampprior.loss(vamp.model), vamp.variables, examples)
    np.testing.assert_allclose(plain["loss"], error + kl, rtol=1e-4)


def test_pseudo_inputs_have_a_gradient(vamp):
    loss = vampprior.loss(vamp.model, 0.3)
    slope = jax.jit(jax.grad(lambda p: means(loss, p, batch(images()))["loss"]))(vamp.variables["params"])
    inside = np.abs(np.asarray(vamp.variables["params"]["pseudo_inputs"]) - 0.5) < 0.5
    slope = np.asarray(slope["pseudo_inputs"])
    assert np.abs(slope[inside]).max() > 1e-4
    assert not np.any(slope[~inside])


def test_log_variances_of_the_posterior_are_clipped_to_the_range_of_the_source():
    """[-6, 2], for pseudo-inputs as well."""
    model = vampprior.VampVAE(encoder=Direct(4), decoder=nets.MLP((), (2,)), shape=(4,), components=1)
    x = np.float32([[1.0, -7.0, -3.5, 1.5], [9.0, 2.0, -2.9, 0.9]])
    params = {**initial_variables(model, x)["params"], "pseudo_inputs": x[:1]}
    q = apply(model, {"params": params}, x, method="posterior")
    np.testing.assert_array_equal(q.mean, x[:, :2])
    np.testing.assert_allclose(2 * np.asarray(q.log_scale), [[-6, 2], [-5.8, 1.8]], rtol=1e-6)
    np.testing.assert_array_equal(apply(model, {"params": params}, method="mixture").log_scale, [[0, 1]])


def vampprior_of(info, **fields):
    config = vampprior_experiment.Config(hidden=(6,), latent=2, components=4, **fields)
    return vampprior_experiment.build(config, info)


def test_pseudo_inputs_start_from_a_constant_or_from_training_images():
    """Plus noise of standard deviation 0.01."""
    x = np.random.default_rng(0).integers(0, 256, (9, 20, 20, 1)).astype(np.uint8)
    info = data.Dataset(data.Split(x, np.zeros(9, int)), data.Split(x, np.zeros(9, int)), ()).info
    for start, expected in (("constant", 0.05), ("images", x[[0, 2, 5, 8]] / 255)):
        model = vampprior_of(info, pseudo_inputs=start).model
        found = jax.jit(model.init)(new_key(), jnp.zeros((1, 20, 20, 1)))["params"]["pseudo_inputs"]
        noise = np.asarray(found, np.float64) - expected
        assert abs(noise.mean()) < 4 * 0.01 / np.sqrt(noise.size)
        assert abs(noise.std() - 0.01) < 4 * 0.01 / np.sqrt(2 * noise.size)
    with pytest.raises(ValueError, match="components=4 exceeds the 3 training images"):
        vampprior_of(info._replace(train=3), pseudo_inputs="images")


def test_vampprior_has_gated_layers_and_normalized_gradients():
    """h(x) * sigmoid(g(x)), from He's normal initial values; every array moves as if its gradient had norm 1."""
    info = data.Info((20, 20, 1), 100)
    experiment = vampprior_of(info, optimizer="sgd", lr=0.3, kl_warmup=0.0)
    x = np.random.default_rng(0).uniform(size=(5, 20, 20, 1)).astype(np.float32)
    params = jax.tree.map(np.asarray, jax.jit(experiment.model.init)(new_key(), x)["params"])
    first, last = (params["encoder"][f"Dense_{i}"] for i in (0, 1))
    assert first["kernel"].shape == (400, 12)
    np.testing.assert_allclose(np.std(first["kernel"]), np.sqrt(2 / 400), rtol=4 / np.sqrt(2 * 400 * 12))
    h, g = np.split(np.reshape(x, (5, -1)) @ np.asarray(first["kernel"], np.float64), 2, axis=1)
    expected = (h * special.expit(g)) @ np.asarray(last["kernel"], np.float64)
    encoded = jax.jit(lambda p, x: experiment.model.apply({"params": p}, x, method="encode"))(params, x)
    np.testing.assert_allclose(encoded, expected[:, :2], rtol=1e-4, atol=1e-6)
    state = State(jnp.int32(0), params, experiment.train.init(params), {})
    moved = jax.jit(experiment.train.step)(state, batch(x), new_key())[0].params
    slope = jax.jit(jax.grad(lambda p: means(experiment.evaluate, p, batch(x))["loss"]))(params)
    for after, before, grad in zip(*map(jax.tree.leaves, (moved, params, slope)), strict=True):
        unit = np.asarray(grad, np.float64) / np.linalg.norm(grad)
        np.testing.assert_allclose(np.asarray(before, np.float64) - after, 0.3 * unit, rtol=1e-2, atol=1e-5)
