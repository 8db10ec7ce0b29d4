"""Total correlation, discrepancy, discriminators and learned priors."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from scipy import special, stats

from conftest import batch, equal, new_key
from jaxae import data, nets, prob
from jaxae.batch import AXIS, alone, average
from jaxae.errors import InputError
from jaxae.step import descend, sequence
from jaxae.types import State
from jaxae.variants import aae, autoencoder, factorvae, iwae, mmd, tcvae, vae, vampprior

SHAPE = (3, 3, 1)


def coders(outputs=4):
    return {
        "encoder": nets.MLP((6,), (outputs,), axes=3, activation=jnp.tanh),
        "decoder": nets.MLP((6,), SHAPE, activation=jnp.tanh),
    }


def critic():
    return nets.MLP((7,), (1,), activation=jnp.tanh)


def images(count=8):
    return jax.random.uniform(new_key(), (count, *SHAPE))


def systems():
    """Model and loss of everything that looks at the whole batch, or at a discriminator."""
    plain, factor = vae.VAE(**coders()), factorvae.FactorVAE(**coders(), discriminator=critic())
    flat = autoencoder.Autoencoder(**coders(2))
    adversarial = aae.Adversarial(**coders(2), discriminator=critic())
    return {
        "tcvae": (plain, tcvae.loss(plain, 100, 6.0, 2.0, 3.0)),
        "factorvae": (factor, factorvae.loss(factor, 5.0)),
        "factorvae discriminator": (factor, factorvae.discriminate(factor)),
        "wasserstein": (flat, mmd.wasserstein(flat, 10.0)),
        "information": (plain, mmd.information(plain, 0.5, 10.0)),
        "aae discriminator": (adversarial, aae.discriminate(adversarial)),
        "aae generator": (adversarial, aae.confuse(adversarial)),
    }


@pytest.mark.parametrize("name", systems())
def test_two_devices_see_the_batch_that_one_sees(name):
    """Values and gradients: shares with pmap's axis are the whole."""
    model, loss = systems()[name]
    params, whole = model.init(new_key(), images())["params"], batch(images())
    descent = jax.value_and_grad(lambda p, part, key: loss(p, {}, part, key)[0])
    shares = jax.tree.map(lambda a: a.reshape(2, 4, *a.shape[1:]), whole)

    def on_device(part):
        value, slope = descent(params, part, new_key())
        return value, average(slope)

    values, slopes = jax.jit(jax.vmap(on_device, axis_name=AXIS))(shares)
    value, slope = jax.jit(descent)(params, whole, new_key())
    np.testing.assert_allclose(values, [value, value], rtol=1e-5)
    for device in range(2):
        jax.tree.map(lambda a, b, d=device: np.testing.assert_allclose(a[d], b, rtol=1e-3, atol=1e-5), slopes, slope)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slope)) > 1e-3


@pytest.mark.parametrize("name", ["tcvae", "factorvae discriminator", "wasserstein", "information"])
def test_a_part_of_a_batch_is_refused(name):
    model, loss = systems()[name]
    params = model.init(new_key(), images())["params"]
    with alone(), pytest.raises(InputError, match="as a whole"):
        loss(params, {}, batch(images()), new_key())


@pytest.mark.parametrize("name", systems())
def test_gradients_against_finite_differences(name):
    model, loss = systems()[name]
    params = model.init(new_key(), images())["params"]
    wrt = {"factorvae discriminator": "discriminator", "aae discriminator": "discriminator"}.get(name, "encoder")

    def value(group):
        return loss({**params, wrt: group}, {}, batch(images()), new_key())[0]

    check_grads(jax.jit(value), (params[wrt],), order=1, modes=["rev"], eps=1e-2, rtol=2e-2, atol=2e-2)


def posteriors(count=5, units=3):
    rng = np.random.default_rng(1)
    q = prob.Normal(*(rng.normal(size=(count, units)).astype(np.float32) * scale for scale in (1.0, 0.3)))
    return q, np.asarray(q.mean + np.exp(q.log_scale) * rng.normal(size=(count, units)), np.float32)


def test_parts_of_the_divergence_against_numpy():
    q, z = posteriors()
    information, correlation, units = tcvae.parts(q, jnp.asarray(z), q, 40)
    density = stats.norm.logpdf(z[:, None], q.mean[None], np.exp(q.log_scale)[None])  # [B, N, Z]
    joint = special.logsumexp(density.sum(2), axis=1) - np.log(40 * 5)
    each = special.logsumexp(density, axis=1) - np.log(40 * 5)
    own = stats.norm.logpdf(z, q.mean, np.exp(q.log_scale)).sum(1)
    np.testing.assert_allclose(information, own - joint, rtol=1e-5)
    np.testing.assert_allclose(correlation, joint - each.sum(1), rtol=1e-5)
    np.testing.assert_allclose(units, each.sum(1) - stats.norm.logpdf(z).sum(1), rtol=1e-4)
    np.testing.assert_allclose(information + correlation + units, own - stats.norm.logpdf(z).sum(1), rtol=1e-4)


def test_total_correlation_of_codes_with_weights_of_one_is_the_bound():
    """To the draw: the three parts telescope to log q(z|x) - log p(z)."""
    model = vae.VAE(**coders())
    params = model.init(new_key(), images())["params"]
    value, (_, metrics) = tcvae.loss(model, 1000, 1.0)(params, {}, batch(images()), new_key())
    eps = tcvae.noise(new_key(), batch(images()), (2,))[:, None]
    q = model.apply({"params": params}, images(), method="posterior")
    terms = iwae.terms(model)({"params": params}, images(), q, iwae.draws(q, eps))
    np.testing.assert_allclose(value, -terms.log_weights().mean(), rtol=1e-5)
    six = tcvae.loss(model, 1000, 6.0)(params, {}, batch(images()), new_key())[0]
    np.testing.assert_allclose(six - value, 5 * metrics["total_correlation"], rtol=1e-4)


def test_total_correlation_grows_with_dependence():
    """By weighted sampling it is off by a constant; its growth is that of the closed form, -log(1 - r^2) / 2."""
    rng = np.random.default_rng(0)
    found = []
    for r in (0.0, 0.9):
        mean = rng.multivariate_normal([0, 0], [[1, r], [r, 1]], 2000).astype(np.float32)
        q = prob.Normal(jnp.asarray(mean), jnp.full(mean.shape, np.log(0.2)))
        z = vae.reparameterize(q, jnp.asarray(rng.normal(size=mean.shape), jnp.float32))
        found.append(float(tcvae.parts(q, z, q, 2000)[1].mean()))
    covariance = 0.9 / 1.04  # of z, whose variance is 1 + 0.2^2
    np.testing.assert_allclose(found[1] - found[0], -0.5 * np.log(1 - covariance**2), atol=0.08)


@pytest.mark.parametrize("kind", [factorvae, aae])
def test_no_gradient_of_the_discriminators_loss_reaches_the_encoder(kind):
    outputs = 4 if kind is factorvae else 2
    model = (factorvae.FactorVAE if kind is factorvae else aae.Adversarial)(**coders(outputs), discriminator=critic())
    params = model.init(new_key(), images())["params"]
    loss = kind.discriminate(model)
    slope = jax.grad(lambda p: loss(p, {}, batch(images()), new_key())[0])(params)
    size = {group: max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slope[group])) for group in slope}
    assert size["encoder"] == size["decoder"] == 0 < size["discriminator"]
    transition = descend(loss, optax.sgd(1.0), wrt=("discriminator",))
    state = State(jnp.int32(0), params, transition.init(params), {})
    after = transition.step(state, batch(images()), new_key())[0].params
    assert all(equal(after[group], params[group]) for group in ("encoder", "decoder"))
    assert not equal(after["discriminator"], params["discriminator"])


def test_permuted_units_keep_their_values_and_lose_their_partners():
    z = jax.random.normal(new_key(), (4000, 1)) @ jnp.ones((1, 3))  # all units alike
    permuted = np.asarray(factorvae.permute(z, jax.random.fold_in(new_key(), 1)))
    np.testing.assert_array_equal(np.sort(permuted, axis=0), np.sort(z, axis=0))
    assert np.abs(np.corrcoef(permuted.T) - np.eye(3)).max() < 4 / np.sqrt(4000)


class Known(nn.Module):
    """log N(z; 0, C) / prod_j N(z_j; 0, 1), C with correlation r: what an optimal discriminator says."""

    r: float

    @nn.compact
    def __call__(self, z):
        self.param("none", nn.initializers.zeros, (1,))
        quadratic = (z[:, :1] ** 2 - 2 * self.r * z[:, :1] * z[:, 1:] + z[:, 1:] ** 2) / (1 - self.r**2)
        return -0.5 * (quadratic - z[:, :1] ** 2 - z[:, 1:] ** 2) - 0.5 * np.log(1 - self.r**2)


def test_the_best_discriminator_knows_the_total_correlation():
    """The mean logit is -log(1 - r^2) / 2, and no scaled discriminator has less cross-entropy."""
    r, count = 0.8, 40_000
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.multivariate_normal([0, 0], [[1, r], [r, 1]], count), jnp.float32)

    class Given(nn.Module):
        """Codes that are given, without noise."""

        def __call__(self, x, keys=None):
            return jnp.concatenate([x, jnp.full(x.shape, -20.0)], axis=1)

    model = factorvae.FactorVAE(encoder=Given(), decoder=nets.MLP((), (2,)), discriminator=Known(r))
    params = model.init(new_key(), z)["params"]
    metrics = factorvae.loss(model, 3.0)(params, {}, batch(z), new_key())[1][1]
    exact = -0.5 * np.log(1 - r**2)
    assert abs(metrics["total_correlation"] - exact) < 4 / np.sqrt(count)
    np.testing.assert_allclose(
        metrics["loss"], metrics["reconstruction"] + metrics["kl"] + 3 * metrics["total_correlation"], rtol=1e-5
    )
    real = Known(r).apply({"params": {"none": jnp.zeros(1)}}, z)[:, 0]
    fake = Known(r).apply({"params": {"none": jnp.zeros(1)}}, factorvae.permute(z, new_key()))[:, 0]
    scaled = {a: float(prob.discrimination(a * real, a * fake).mean()) for a in (0.0, 0.7, 1.0, 1.4)}
    assert min(scaled, key=scaled.get) == 1.0
    np.testing.assert_allclose(scaled[0.0], 2 * np.log(2), rtol=1e-6)


def test_adversarial_training_presses_the_codes_to_the_prior():
    """Three transitions in turn on the digits: the codes come nearer to N(0, I) than without the adversary."""
    digits = data.load("digits")
    x = jnp.asarray(digits.train.x[:512].reshape(-1, 28, 28, 1) / np.float32(255))
    model = aae.Adversarial(
        encoder=nets.MLP((32,), (2,), axes=3),
        decoder=nets.MLP((32,), (28, 28, 1)),
        discriminator=nets.MLP((32,), (1,)),
    )
    params = model.init(new_key(), x[:1])["params"]
    rebuild = descend(autoencoder.loss(model, "mse"), optax.adam(3e-3), wrt=("encoder", "decoder"))
    adversaries = [
        descend(aae.discriminate(model), optax.adam(2e-3, b1=0.5), wrt=("discriminator",)),
        descend(aae.confuse(model), optax.adam(2e-3, b1=0.5), wrt=("encoder",)),
    ]
    apart, errors = [], []
    for transition in (sequence(rebuild), sequence(rebuild, *adversaries)):
        start = State(jnp.int32(0), params, transition.init(params), {})

        def body(i, state, transition=transition):
            part = batch(jax.lax.dynamic_slice_in_dim(x, 128 * (i % 4), 128))
            return transition.step(state, part, jax.random.fold_in(new_key(), i))[0]

        state = jax.jit(lambda s: jax.lax.fori_loop(0, 400, body, s))(start)
        z = model.apply({"params": state.params}, x, method="encode")
        apart.append(float(mmd.discrepancy(z, jax.random.normal(new_key(), z.shape))))
        errors.append(float(autoencoder.loss(model, "mse")(state.params, {}, batch(x), new_key())[0]))
    assert apart[1] < 0.5 * apart[0]
    assert errors[1] < float(jnp.var(x, axis=0).mean())  # better than the mean image


def test_discrepancy_against_numpy():
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(n, 3)).astype(np.float32) for n in (5, 7))

    def kernel(a, b):
        return 6 / (6 + np.sum((a - b) ** 2))

    xx = np.mean([kernel(x[i], x[j]) for i in range(5) for j in range(5) if i != j])
    yy = np.mean([kernel(y[i], y[j]) for i in range(7) for j in range(7) if i != j])
    xy = np.mean([kernel(a, b) for a in x for b in y])
    np.testing.assert_allclose(mmd.discrepancy(jnp.asarray(x), jnp.asarray(y)), xx + yy - 2 * xy, rtol=1e-4, atol=1e-6)


def test_discrepancy_is_zero_on_average_for_equal_distributions_and_positive_for_others():
    keys = jax.random.split(new_key(), 6000).reshape(2, 3000)
    x, y = jax.jit(jax.vmap(jax.vmap(lambda key: jax.random.normal(key, (20, 2)))))(keys)
    found = np.asarray(jax.vmap(mmd.discrepancy)(x, y), np.float64)
    error = found.std() / np.sqrt(3000)
    assert abs(found.mean()) < 4 * error < 0.004
    assert found.min() < 0  # as an unbiased estimate of zero must be
    moved = np.asarray(jax.vmap(mmd.discrepancy)(x, y + 0.5), np.float64)
    assert moved.mean() > 20 * error


def test_info_vae_without_its_terms_is_the_bound():
    model = vae.VAE(**coders())
    params = model.init(new_key(), images())["params"]
    value, (_, metrics) = mmd.information(model, 1.0, 0.0)(params, {}, batch(images()), new_key())
    np.testing.assert_allclose(value, metrics["reconstruction"] + metrics["kl"], rtol=1e-6)
    more = mmd.information(model, 0.7, 9.3)(params, {}, batch(images()), new_key())[0]
    expected = metrics["reconstruction"] + 0.7 * metrics["kl"] + 9.3 * metrics["mmd"]
    np.testing.assert_allclose(more, expected, rtol=1e-5)
    kl = prob.kl_normal(model.apply({"params": params}, images(), method="posterior")).mean()
    np.testing.assert_allclose(metrics["kl"], kl, rtol=1e-5)


def test_wasserstein_loss_is_squared_error_and_discrepancy():
    model = autoencoder.Autoencoder(**coders(2))
    params = model.init(new_key(), images())["params"]
    value, (_, metrics) = mmd.wasserstein(model, 7.0)(params, {}, batch(images()), new_key())
    z = model.apply({"params": params}, images(), method="encode")
    again = model.apply({"params": params}, z, method="decode")
    error = np.sum((np.asarray(again) - np.asarray(images())) ** 2, axis=(1, 2, 3)).mean()
    drawn = mmd.noise(new_key(), batch(images()), (2,))
    np.testing.assert_allclose(metrics["reconstruction"], error, rtol=1e-5)
    np.testing.assert_allclose(metrics["mmd"], mmd.discrepancy(z, drawn), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(value, error + 7 * metrics["mmd"], rtol=1e-5)


@dataclass
class Vamp:
    """A small one."""

    model: vampprior.VampVAE
    variables: dict


@pytest.fixture
def vamp():
    model = vampprior.VampVAE(**coders(), shape=SHAPE, components=5)
    return Vamp(model, {"params": model.init(new_key(), images())["params"]})


def test_learned_prior_against_scipy(vamp):
    q = vamp.model.apply(vamp.variables, method="mixture")
    learned = nn.sigmoid(vamp.variables["params"]["pseudo_inputs"])
    assert equal(q, vamp.model.apply(vamp.variables, learned, method="posterior"))
    z = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    each = stats.norm.logpdf(z[:, None], np.asarray(q.mean)[None], np.exp(q.log_scale)[None]).sum(2)
    expected = special.logsumexp(each, axis=1) - np.log(5)
    np.testing.assert_allclose(
        vamp.model.apply(vamp.variables, jnp.asarray(z), method="log_prior"), expected, rtol=1e-4
    )


def test_learned_prior_is_what_is_drawn(vamp):
    """Mean and covariance of draws are those of the mixture."""
    q = vamp.model.apply(vamp.variables, method="mixture")
    z = np.asarray(vampprior.prior(vamp.model)(vamp.variables, new_key(), 100_000), np.float64)
    mean, within = np.asarray(q.mean, np.float64), np.diag(np.exp(2 * np.asarray(q.log_scale, np.float64)).mean(0))
    covariance = within + np.cov(mean.T, bias=True)
    np.testing.assert_allclose(z.mean(0), mean.mean(0), atol=4 * np.sqrt(covariance.max() / len(z)))
    np.testing.assert_allclose(np.cov(z.T), covariance, atol=0.03 * covariance.max())


def test_bound_with_a_learned_prior(vamp):
    value, (_, metrics) = vampprior.loss(vamp.model)(vamp.variables["params"], {}, batch(images()), new_key())
    eps = vampprior.noise(new_key(), batch(images()), (1, 2))
    q = vamp.model.apply(vamp.variables, images(), method="posterior")
    terms = iwae.terms(vamp.model)(vamp.variables, images(), q, iwae.draws(q, eps))
    np.testing.assert_allclose(value, -terms.log_weights().mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["kl"], (terms.posterior - terms.prior).mean(), rtol=1e-5)
    slope = jax.grad(lambda p: vampprior.loss(vamp.model)(p, {}, batch(images()), new_key())[0])(
        vamp.variables["params"]
    )
    assert float(jnp.abs(slope["pseudo_inputs"]).max()) > 1e-4
