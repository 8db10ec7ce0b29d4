"""Hierarchies on a linear-Gaussian model of two layers, whose posteriors and likelihood are known."""

from typing import no_type_check

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from scipy import stats

from conftest import apply, batch, evaluated, new_key
from jaxae import nets
from jaxae.core import kl_term
from jaxae.core.batch import Batch
from jaxae.core.divergences import DiagonalNormal
from jaxae.likelihoods import Normal
from jaxae.measure import likelihood
from jaxae.variants import hierarchy, hvae, iwae, ladder, top_down, vdvae
from jaxae.variants.bounds import of_samples
from test_imputation import conditional, mask, of_reals
from test_vae import OFFSET, SIGMA, W, mean_terms, means

# z_2 ~ N(0, I), z_1 = A z_2 + SHIFT + SCALE noise, x = W (z_1 + SKIP z_2) + OFFSET + SIGMA noise; A and SKIP diagonal.
A, SHIFT, SCALE = np.array([0.8, -1.5]), np.array([0.1, -0.3]), 0.7
NOISE = SIGMA**2 / (W**2).sum(0)  # variance of x in the coordinates z_1 + SKIP z_2
KINDS = ["bottom_up", "hvae", "ladder"]


def default(*kinds):
    """All kinds; those that are not named are left to the slow suite."""
    return [kind if kind in kinds else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]


def skip(kind):
    return np.array([0.5, -0.4]) if kind == "hvae" else np.zeros(2)


def dense(kernel, bias, log_scale=()):
    """A dense layer: an affine mean, and constant log scales."""
    log_scale = np.asarray(log_scale)
    return {"Dense_0": {"kernel": np.pad(kernel, ((0, 0), (0, log_scale.size))), "bias": np.append(bias, log_scale)}}


def net(outputs):
    return nets.MLP((), (outputs,))


def linear_gaussian(kind, perturbed=0.0):
    """The model of a kind with its exact posterior, shifted and scaled if perturbed; x [30, 4] and log p(x) [30]."""
    d = skip(kind)
    kernel, bias = W / (W**2).sum(0)[None], -OFFSET @ W / (W**2).sum(0)  # from x to these coordinates
    of_p = dense(np.diag(A), SHIFT, np.full(2, np.log(SCALE)))
    move = perturbed * np.array([0.3, -0.2])

    def of_q(kernel, bias, variance):
        return dense(kernel, bias + move, 0.5 * np.log(variance) + 0.5 * move)

    if kind == "bottom_up":
        first, second = (
            1 / (1 / (A**2 + SCALE**2) + 1 / NOISE),
            1 / (1 + A**2 / SCALE**2),
        )
        model = hierarchy.BottomUp(
            encoder=net(4), decoder=net(4), ups=(net(4),), downs=(net(4),), latent=(2, 2), likelihood=Normal(SIGMA)
        )
        params = {
            "encoder": of_q(kernel * (first / NOISE)[None], first * (bias / NOISE + SHIFT / (A**2 + SCALE**2)), first),
            "ups_0": of_q(np.diag(second * A / SCALE**2), -second * A * SHIFT / SCALE**2, second),
            "downs_0": of_p,
            "decoder": dense(W.T, OFFSET),
        }
    else:
        module = {"hvae": hvae, "ladder": ladder}[kind]
        model = top_down.TopDown(
            encoder=top_down.Features((net(2), net(2)), nets.linear, chained=kind == "ladder"),
            layers=(module.Layer(2, net(4), net(4)), module.Layer(2, net(4))),
            decoder=net(4),
            likelihood=Normal(SIGMA),
        )
        slope, spread = A + d, SCALE**2 + NOISE
        second = 1 / (1 + slope**2 / spread)
        first = 1 / (1 / SCALE**2 + 1 / NOISE)
        state = np.concatenate([np.diag(first / NOISE), np.diag(first * (A / SCALE**2 - d / NOISE))])
        params = {
            "encoder": {"nets_0": dense(kernel, bias), "nets_1": dense(kernel, bias)},
            "layers_0": {"of_p": of_p, "of_q": of_q(state, first * SHIFT / SCALE**2, first)},
            "layers_1": {"of_q": of_q(np.diag(second * slope / spread), -second * slope * SHIFT / spread, second)},
            "decoder": dense(np.concatenate([W.T, d[:, None] * W.T]), OFFSET),
        }
        if kind == "ladder":
            params["encoder"]["nets_1"] = dense(np.eye(2), np.zeros(2))
            params["layers_0"]["of_q"] = of_q(np.eye(2), np.zeros(2), NOISE)
            params["decoder"] = dense(W.T, OFFSET)
    params = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), params)
    whole = W * (A + d)[None]
    x_given = stats.multivariate_normal(W @ SHIFT + OFFSET, whole @ whole.T + SCALE**2 * W @ W.T + SIGMA**2 * np.eye(4))
    x = x_given.rvs(30, random_state=0).astype(np.float32)
    return model, params, x, x_given.logpdf(x)


@no_type_check
@struct.dataclass
class Quadrature(Batch):
    """A batch with eight noise points, whose mean of a quadratic equals that over N(0, I_4)."""

    def noise(self, key, shape):
        points = 2 * jnp.concatenate([jnp.eye(4), -jnp.eye(4)])
        return jnp.tile(points, (len(self.x) // 8, 1)).reshape(-1, *shape)


def quadrature(x):
    rows = jnp.repeat(jnp.asarray(x), 8, axis=0)
    return Quadrature(rows, jnp.arange(len(rows)), jnp.ones(len(rows)), jnp.int32(0))


@pytest.mark.parametrize("kind", KINDS)
def test_every_sample_of_the_exact_posterior_has_the_weight_of_the_likelihood(kind):
    """So the bound of any number of samples is log p(x) of each example."""
    model, params, x, exact = linear_gaussian(kind)
    shapes = jax.eval_shape(model.init, new_key(), jnp.asarray(x))["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)

    @jax.jit
    def weighted(params, x, key):
        q = model.apply({"params": params}, x, method="posterior")
        z = q.samples(jax.random.normal(key, (30, 3, 4)))
        return z, iwae.densities(model)({"params": params}, (x, None), q, z).log_weights()

    z, log_w = weighted(params, x, new_key())
    np.testing.assert_allclose(log_w, np.repeat(exact[:, None], 3, axis=1), atol=2e-4)
    assert np.asarray(z).std(1).min() > 0.01
    terms, _ = evaluated(iwae.loss(model, 3), {"params": params}, batch(x))
    np.testing.assert_allclose(-terms["loss"], exact, atol=2e-4)


@pytest.mark.parametrize("kind", default("hvae")[1:])
def test_evidence_lower_bound_is_the_likelihood_at_the_exact_posterior_and_lower_elsewhere(kind):
    """In expectation, with KL in closed form; elsewhere it is the expectation of log p - log q."""
    model, params, x, exact = linear_gaussian(kind)
    found = means(top_down.loss(model), params, quadrature(x))
    np.testing.assert_allclose(-found["loss"], exact.mean(), rtol=1e-5)
    model, params, x, exact = linear_gaussian(kind, perturbed=1.0)
    found = means(top_down.loss(model), params, quadrature(x))
    assert -found["loss"] < exact.mean() - 0.05
    one = means(hierarchy.with_layers(model, iwae.loss(model, 1)), params, quadrature(x))
    np.testing.assert_allclose(found["loss"], one["loss"], rtol=1e-5)
    for name in ("kl", "kl_1", "kl_2"):
        np.testing.assert_allclose(found[name], one[name], rtol=1e-4)


@pytest.mark.parametrize("kind", default("bottom_up"))
def test_kl_of_the_layers_against_numpy(kind):
    """E KL(q(z_2) || N(0, I)) and the other layer of a perturbed posterior; they sum to the KL term."""
    model, params, x, _ = linear_gaussian(kind, perturbed=1.0)
    found = means(hierarchy.with_layers(model, iwae.loss(model, 1)), params, quadrature(x))
    np.testing.assert_allclose(found["kl_1"] + found["kl_2"], found["kl"], rtol=1e-5)
    np.testing.assert_allclose(found["loss"] + found["elbo"], 0, atol=1e-4)
    f64 = jax.tree.map(lambda v: np.asarray(v, np.float64), params)

    def affine(group, inputs):
        out = inputs @ group["Dense_0"]["kernel"] + group["Dense_0"]["bias"][None]
        return np.split(out, 2, axis=1)

    if kind == "bottom_up":
        m1, s1 = affine(f64["encoder"], x)
        m2, log_scale = affine(f64["ups_0"], m1)
        spread = np.exp(2 * s1) @ f64["ups_0"]["Dense_0"]["kernel"][:, :2] ** 2  # of the mean of q(z_2|z_1) over z_1
        expected = 0.5 * (m2**2 + spread + np.exp(2 * log_scale) - 1 - 2 * log_scale).sum(1)
    else:
        features = x @ f64["encoder"]["nets_0"]["Dense_0"]["kernel"] + f64["encoder"]["nets_0"]["Dense_0"]["bias"][None]
        m2, log_scale = affine(f64["layers_1"]["of_q"], features)
        expected = 0.5 * (m2**2 + np.exp(2 * log_scale) - 1 - 2 * log_scale).sum(1)
    np.testing.assert_allclose(found["kl_2"], expected.mean(), rtol=1e-4)


@pytest.mark.parametrize("kind", default("bottom_up"))
def test_importance_sampling_converges_to_the_likelihood(kind):
    model, params, x, exact = linear_gaussian(kind, perturbed=1.0)
    found = likelihood.estimate(iwae.densities(model), model, {"params": params}, x, new_key(), 2000)
    assert abs(found["log_likelihood"] - exact.mean()) < 5 * found["monte_carlo_error"] < 0.1
    assert found["elbo"] < exact.mean() - 0.05


@pytest.mark.parametrize("kind", default("bottom_up", "ladder"))
def test_prior_is_the_normal_distribution_of_the_model(kind):
    model, params, *_ = linear_gaussian(kind)
    covariance = np.block([[np.diag(A**2 + SCALE**2), np.diag(A)], [np.diag(A), np.eye(2)]])
    p = stats.multivariate_normal(np.append(SHIFT, np.zeros(2)), covariance)
    z = np.asarray(jax.jit(hierarchy.prior(model), static_argnums=2)({"params": params}, new_key(), 100_000))
    np.testing.assert_allclose(np.mean(z, axis=0), p.mean, atol=0.02)
    np.testing.assert_allclose(np.cov(np.asarray(z), rowvar=False), covariance, atol=0.04)
    found = apply(model, {"params": params}, z[:50], method="log_prior")
    np.testing.assert_allclose(found, p.logpdf(np.asarray(z[:50], np.float64)), atol=1e-4)


@pytest.mark.parametrize("kind", default("bottom_up", "hvae"))
def test_code_is_the_mean_of_the_posterior_and_decodes_to_the_mean_of_x(kind):
    """Means of linear layers are those of the joint posterior."""
    model, params, x, _ = linear_gaussian(kind)
    z = np.asarray(apply(model, {"params": params}, x, method="encode"), np.float64)
    joint = np.concatenate([np.eye(2), np.diag(skip(kind))], axis=1)
    covariance = np.block([[np.diag(A**2 + SCALE**2), np.diag(A)], [np.diag(A), np.eye(2)]])
    gain = covariance @ (W @ joint).T @ np.linalg.inv(W @ joint @ covariance @ (W @ joint).T + SIGMA**2 * np.eye(4))
    expected = np.append(SHIFT, np.zeros(2))[None] + (x - (W @ SHIFT + OFFSET)[None]) @ gain.T
    np.testing.assert_allclose(z, expected, atol=1e-4)
    decoded = apply(model, {"params": params}, z.astype(np.float32), method="decode")
    np.testing.assert_allclose(decoded, z @ (W @ joint).T + OFFSET[None], atol=1e-4)


def slope(loss, params, x, key):
    return jax.jit(jax.grad(lambda p, key: mean_terms(loss, p, batch(x), key)["loss"]))(params, key)


def of_posterior(kind, gradient):
    """Parameters of q alone."""
    if kind == "bottom_up":
        return {name: gradient[name] for name in ("encoder", "ups_0")}
    return {"encoder": gradient["encoder"], **{name: gradient[name]["of_q"] for name in ("layers_0", "layers_1")}}


@pytest.mark.parametrize("kind", default("ladder"))
def test_doubly_reparameterized_gradient_is_zero_at_the_exact_posterior(kind):
    model, params, x, _ = linear_gaussian(kind)
    found = slope(iwae.loss(model, 4, "dreg"), params, x[:5], new_key())
    assert max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(of_posterior(kind, found))) < 2e-4
    generative = found["downs_0"] if kind == "bottom_up" else found["layers_0"]["of_p"]
    assert float(np.abs(generative["Dense_0"]["kernel"]).max()) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gradient", ["dreg", "stl"])
def test_gradients_of_a_hierarchy_have_the_same_expectation(kind, gradient):
    """This includes parameters that prior and posterior of a ladder share; stl is tested on the ELBO."""
    model, params, x, _ = linear_gaussian(kind, perturbed=1.0)
    count, bound = 4000, of_samples(4, alpha=1.0) if gradient == "stl" else of_samples(4)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(new_key(), jnp.arange(count))

    def found(kind):
        loss = iwae.loss(model, 4, kind, bounds=bound)
        each = jax.vmap(jax.grad(lambda p, key: mean_terms(loss, p, batch(x[:5]), key)["loss"]), in_axes=(None, 0))
        leaves = jax.tree.leaves(jax.jit(each)(params, keys))
        return np.concatenate([np.asarray(leaf, np.float64).reshape(count, -1) for leaf in leaves], axis=1)

    plain, other = found("plain"), found(gradient)
    apart = plain - other
    errors = apart.std(0) / np.sqrt(count)
    assert np.all(np.abs(apart.mean(0)) < 4.5 * errors + 1e-5)
    assert np.median(other.std(0) / plain.std(0)) < 1


def test_free_bits_are_per_layer():
    """sum over layers of max(nats, mean KL), times the weight."""
    model, params, x, _ = linear_gaussian("hvae", perturbed=1.0)
    terms = means(top_down.loss(model), params, batch(x))
    kl = sorted([float(terms["kl_1"]), float(terms["kl_2"])])
    nats = (kl[0] + kl[1]) / 2
    found = means(top_down.loss(model, kl_term.free_bits(0.7, nats)), params, batch(x))
    np.testing.assert_allclose(found["loss"], terms["reconstruction"] + 0.7 * (nats + kl[1]), rtol=1e-5)


def test_imputation_with_a_hierarchy_is_the_conditional_expectation():
    """With a wide q(z_1|x), which is wrong for incomplete examples."""
    model, params, x, _ = linear_gaussian("bottom_up")
    q = params["encoder"]["Dense_0"]
    params["encoder"]["Dense_0"] = {"kernel": 0.7 * q["kernel"], "bias": jnp.array([0.1, -0.1, 0.0, 0.0])}
    whole = W * A[None]
    covariance = whole @ whole.T + SCALE**2 * W @ W.T + SIGMA**2 * np.eye(4)
    observed = mask(x)
    mean, deviation = conditional(x, observed, W @ SHIFT + OFFSET, covariance)
    found = of_reals(model, params).impute(np.where(observed, x, np.nan), 2000)
    missing = ~observed
    error = (found.x - mean)[missing] / found.standard_error[missing]
    assert np.abs(error).max() < 5
    assert np.median(found.standard_error[missing]) < 0.05
    np.testing.assert_allclose(found.deviation[missing], deviation[missing], rtol=0.25)


def test_hierarchy_has_no_kl_of_each_dimension():
    model, params, *_ = linear_gaussian("hvae")
    with pytest.raises(NotImplementedError, match=r"use top_down\.loss or iwae\.loss"):
        model.apply({"params": params}, None, method="kl")


def test_three_layers_are_generated_and_inferred_in_order():
    """Layers of one dimension, against NumPy; kernel, bias and log scale of each net."""
    ups, downs = ((0.5, 0.1, -0.3), (-0.7, 0.3, 0.2)), ((0.9, -0.2, 0.1), (-1.2, 0.4, -0.5))
    model = hierarchy.BottomUp(
        encoder=net(2), decoder=net(4), ups=(net(2), net(2)), downs=(net(2), net(2)), latent=(1, 1, 1)
    )
    params = {f"ups_{i}": dense([[a]], [b], [s]) for i, (a, b, s) in enumerate(ups)}
    params |= {f"downs_{i}": dense([[a]], [b], [s]) for i, (a, b, s) in enumerate(downs)}
    eps = np.random.default_rng(0).normal(size=(5, 3))

    def found(method, *given):
        given = jax.tree.map(lambda part: jnp.asarray(part, jnp.float32), given)
        return np.asarray(apply(model, {"params": params}, *given, method=method))

    def normal(layer, z):
        a, b, log_scale = layer
        return a * z + b, np.exp(log_scale)

    z = [None, None, eps[:, 2]]
    for i in (1, 0):
        mean, scale = normal(downs[i], z[i + 1])
        z[i] = mean + scale * eps[:, i]
    generated = np.stack(z, axis=1)
    np.testing.assert_allclose(found("generate", eps), generated, rtol=1e-5, atol=1e-5)
    log_p = [stats.norm.logpdf(z[i], *normal(downs[i], z[i + 1])) for i in (0, 1)] + [stats.norm.logpdf(z[2])]
    np.testing.assert_allclose(found("log_priors", generated), np.stack(log_p, axis=1), rtol=1e-4, atol=1e-4)
    q = DiagonalNormal(np.full((5, 1), 0.3), np.full((5, 1), -0.4))
    z = [0.3 + np.exp(-0.4) * eps[:, 0], None, None]
    for i in (0, 1):
        mean, scale = normal(ups[i], z[i])
        z[i + 1] = mean + scale * eps[:, i + 1]
    inferred = np.stack(z, axis=1)
    np.testing.assert_allclose(found("infer", q, eps), inferred, rtol=1e-5, atol=1e-5)
    log_q = [stats.norm.logpdf(z[0], 0.3, np.exp(-0.4))]
    log_q += [stats.norm.logpdf(z[i + 1], *normal(ups[i], z[i])) for i in (0, 1)]
    np.testing.assert_allclose(found("log_posteriors", q, inferred), np.stack(log_q, axis=1), rtol=1e-4, atol=1e-4)


def test_residual_hierarchy_needs_a_latent_layer():
    with pytest.raises(ValueError, match=r"counts=\(0, 0\): at least one latent layer is needed"):
        vdvae.layers((4, 4, 1), 4, 2, (0, 0))


def test_combined_density_is_the_normalized_product():
    q, p = (DiagonalNormal(jnp.array([[m]]), jnp.array([[s]])) for m, s in ((0.4, -0.3), (-1.0, 0.2)))
    found = ladder.combined(q, p)
    z = np.linspace(-8, 8, 4001)
    product = stats.norm.pdf(z, 0.4, np.exp(-0.3)) * stats.norm.pdf(z, -1.0, np.exp(0.2))
    product /= product.sum() * (z[1] - z[0])
    np.testing.assert_allclose(stats.norm.pdf(z, float(found.mean[0, 0]), float(found.scale[0, 0])), product, atol=1e-5)


@pytest.fixture(scope="module")
def images():
    """A top-down residual network of images of 5 x 3 pixels with random parameters, and images."""
    layers = vdvae.layers((5, 3, 1), 4, 2, (1, 2))
    model = top_down.TopDown(
        encoder=vdvae.Encoder(4, (1, 2)), layers=layers, decoder=vdvae.Decoder((5, 3, 1)), start=layers[-1].shape
    )
    x = jax.random.uniform(new_key(), (3, 5, 3, 1))
    params = jax.jit(model.init)(new_key(), x)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(new_key(), len(leaves))
    moved = [leaf + 0.2 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return model, params, jax.tree.unflatten(tree, moved), x


@pytest.mark.slow
def test_residual_hierarchy_starts_with_the_posterior_at_the_prior(images):
    model, params, _, x = images
    terms, _ = jax.jit(top_down.loss(model))({"params": params}, batch(x), new_key())
    assert model.sizes == (5 * 3 * 2, 3 * 2 * 2, 3 * 2 * 2)
    assert max(float(jnp.abs(terms[name]).max()) for name in ("kl", "kl_1", "kl_2", "kl_3")) < 1e-5


@pytest.mark.slow
def test_kl_of_a_residual_hierarchy_is_the_expectation_of_its_log_densities(images):
    """For each layer, over 2,000 samples of q; so densities, samples and closed form are of the same variables."""
    model, _, params, x = images
    count, variables = 2000, {"params": params}

    @jax.jit
    def found(eps):
        each = jnp.repeat(x[:1], count, axis=0)
        features = model.apply(variables, each, method="features")
        z = model.apply(variables, features, eps, method="infer")
        q = model.apply(variables, features, z, method="log_posteriors")
        p = model.apply(variables, z, method="log_priors")
        same = model.apply(variables, z, method="outputs")
        return q - p, same, *model.apply(variables, each, eps, method="bound")

    gap, same, outputs, kl = (np.asarray(part, np.float64) for part in found(jax.random.normal(new_key(), (count, 54))))
    np.testing.assert_allclose(outputs, same, atol=1e-4)
    apart = gap - kl
    assert np.all(np.abs(apart.mean(0)) < 4.5 * apart.std(0) / np.sqrt(count))
    assert np.all(kl.mean(0) > 5 * apart.std(0) / np.sqrt(count))
    assert np.all(kl[:, :2].std(0) > 0.01)  # depends on the layers above
    assert kl[:, 2].std() < 1e-3


def test_enlarged_image_repeats_pixels_and_is_cropped():
    x = np.arange(6.0, dtype=np.float32).reshape(1, 3, 2, 1)
    expected = x.repeat(2, 1).repeat(2, 2)[:, :5, :3]
    np.testing.assert_array_equal(vdvae.enlarged(jnp.asarray(x), (5, 3)), expected)
