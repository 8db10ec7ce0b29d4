"""VQ-VAE-2 against its algorithm, from the outputs of its parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import batch, new_key, trained
from jaxae import nets
from jaxae.core.types import Info
from jaxae.data import Dataset, Split
from jaxae.experiments import vqvae2 as experiment
from jaxae.measure.codebook import usage
from jaxae.variants import quantize, vqvae, vqvae2
from test_residual import randomized

X = np.random.default_rng(0).random((3, 12, 20, 1)).astype(np.float32)
Z = 3


@pytest.fixture(scope="module")
def model():
    """[12, 20, 1] -> 3 x 5 and 2 x 3 codes."""
    encoder, decoder = vqvae.strided((12, 20, 1), (4, 6), 6, 0.0)
    above, below = vqvae.strided((3, 5, 6), (4,), Z, 0.0)
    net = vqvae2.VQVAE2(
        encoder=encoder,
        decoder=decoder,
        quantizer=quantize.VQ(8, Z, learned=True, commitment=0.3),
        top_encoder=above,
        top_decoder=below,
        top_quantizer=quantize.VQ(8, Z, learned=True, commitment=0.6),
        joined=nets.MLP((), (Z,)),
        size=(3, 5),
    )
    params = randomized(jax.eval_shape(net.init, new_key(), jnp.asarray(X))["params"])
    return net, {"params": jax.tree.map(lambda leaf: 0.7 * leaf, params)}


def nearest(z, book):
    return ((z[..., None, :] - book) ** 2).sum(-1).argmin(-1)


@pytest.fixture(scope="module")
def parts(model):
    """Vectors and indices of both levels, and the decoder output, as in algorithm 1."""
    net, variables = model
    p = variables["params"]

    def apply(name, x):
        return np.asarray(getattr(net, name).apply({"params": p[name]}, jnp.asarray(x, jnp.float32)), np.float64)

    books = [np.asarray(p[name]["codebook"], np.float64) for name in ("top_quantizer", "quantizer")]
    h = apply("encoder", X)
    top = apply("top_encoder", h)
    k_top = nearest(top, books[0])
    bottom = apply("joined", np.concatenate([h, apply("top_decoder", books[0][k_top])], -1))
    k_bottom = nearest(bottom, books[1])
    above = books[0][k_top].repeat(2, 1).repeat(2, 2)[:, :3, :5]
    outputs = apply("decoder", np.concatenate([above, books[1][k_bottom]], -1))
    return (top, bottom), (k_top, k_bottom), books, outputs


def test_loss_against_numpy(model, parts):
    net, variables = model
    vectors, places, books, logits = parts
    squares = [((z - b[k]) ** 2).sum((1, 2, 3)) for z, k, b in zip(vectors, places, books, strict=True)]
    reconstruction = (np.logaddexp(0, logits) - X * logits).sum((1, 2, 3))
    terms, _ = jax.jit(vqvae.loss(net))(variables, batch(X), new_key())
    np.testing.assert_allclose(terms["reconstruction"], reconstruction, rtol=1e-4)
    np.testing.assert_allclose(terms["quantization"], squares[0] + squares[1], rtol=1e-4)
    np.testing.assert_allclose(terms["loss"], reconstruction + 1.6 * squares[0] + 1.3 * squares[1], rtol=1e-4)


@pytest.mark.slow
def test_codes_are_those_of_the_top_level_then_those_of_the_bottom_level(model, parts):
    net, variables = model
    _, (k_top, k_bottom), books, logits = parts
    x = jnp.asarray(X)
    indices = net.apply(variables, x, method="indices")
    np.testing.assert_array_equal(indices, np.concatenate([k_top.reshape(3, 6), k_bottom.reshape(3, 15)], 1))
    codes = net.apply(variables, x, method="encode")
    expected = np.concatenate([books[0][k_top].reshape(3, 6, Z), books[1][k_bottom].reshape(3, 15, Z)], 1)
    np.testing.assert_allclose(codes, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(net.apply(variables, indices, method="embed"), codes, rtol=1e-6)
    decoded = net.apply(variables, codes + 1e-4, method="decode")
    np.testing.assert_allclose(decoded, 1 / (1 + np.exp(-logits)), rtol=1e-3, atol=1e-5)


def test_gradient_reaches_the_encoder_through_both_levels(model):
    """The straight-through gradient of the loss without commitment, which would reach each encoder directly."""
    net, variables = model

    def total(params):
        return jnp.sum(net.apply({"params": params}, jnp.asarray(X))[1] ** 2)

    slopes = jax.jit(jax.grad(total))(variables["params"])
    for name in ("encoder", "top_encoder", "top_decoder", "joined", "decoder"):
        assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(slopes[name])), name


def test_usage_is_the_mean_over_levels_with_their_own_codebooks(model, parts):
    net, variables = model
    _, places, _, _ = parts
    config = experiment.Config(filters=(4, 6), codes=8, latent=Z)
    built = experiment.build(config, Info((12, 20, 1), 10))
    assert built.measures["codebook"].keywords == {"levels": (6,)}
    split = Split(X, np.full(3, -1))
    own = trained(built.__class__(net, built.train, built.evaluate), variables["params"], {}, (12, 20, 1))
    found = usage(own, Dataset(split, split, ()), levels=(6,))
    assert found["usage"] == pytest.approx(np.mean([len(np.unique(k)) / 8 for k in places]))
    assert found["bits"] == 21 * 3


def test_series_raise():
    with pytest.raises(ValueError, match=r"examples of shape \(9, 1\) are not images"):
        experiment.build(experiment.Config(), Info((9, 1), 10))
