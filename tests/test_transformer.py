"""Vision transformers and their masked autoencoder against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import apply, batch, equal, initial, new_key
from jaxae import data, nets
from jaxae.experiments import mae as experiment
from jaxae.nets import transformer
from jaxae.variants import masked
from test_residual import dense, randomized, silu

rng = np.random.default_rng(0)
X = rng.uniform(0.1, 0.9, (3, 7, 10, 2)).astype(np.float32)


def layer_norm(x, p):
    deviation = x - x.mean(-1, keepdims=True)
    return deviation / np.sqrt((deviation**2).mean(-1, keepdims=True) + 1e-6) * np.asarray(p["scale"]) + np.asarray(
        p["bias"]
    )


def attention(x, p, heads, mask):
    mixed = []
    for query, key, value in zip(
        *(np.split(dense(x, p[name]), heads, -1) for name in ("query", "key", "value")), strict=True
    ):
        scores = np.exp(np.einsum("btd,bsd->bts", query, key) / np.sqrt(query.shape[-1])) * mask[:, None]
        mixed.append(np.einsum("bts,bsd->btd", scores / scores.sum(-1, keepdims=True), value))
    return dense(np.concatenate(mixed, -1), p["output"])


@pytest.mark.parametrize("gated", [False, True])
def test_layer_against_numpy(gated):
    net = transformer.Layer(2, gated)
    x, mask = rng.normal(size=(2, 5, 12)), rng.random((2, 5)) < 0.6
    mask[:, 0] = True
    p = randomized(jax.eval_shape(net.init, new_key(), x.astype(np.float32), mask)["params"])
    y = x + attention(layer_norm(x, p["first_norm"]), p["attention"], 2, mask)
    normed = layer_norm(y, p["last_norm"])
    if gated:
        hidden = silu(dense(normed, p["dense"]["gate"])) * dense(normed, p["dense"]["value"])
        expected = y + dense(hidden, p["dense"]["output"])
        assert hidden.shape[-1] == 32
    else:
        hidden = dense(normed, p["dense"]["Dense_0"])
        hidden = hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3))) / 2
        expected = y + dense(hidden, p["dense"]["Dense_1"])
        assert hidden.shape[-1] == 48
    found, _ = apply(net, {"params": p}, x.astype(np.float32), mask)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_patches_against_slices():
    """Patches at the right and bottom edges are padded; `image` is the inverse."""
    found = np.asarray(transformer.patches(jnp.asarray(X), 4))
    assert found.shape == (3, 2, 3, 32)
    padded = np.pad(X, ((0, 0), (0, 1), (0, 2), (0, 0)))
    np.testing.assert_array_equal(found[:, 1, 2], padded[:, 4:8, 8:12].reshape(3, -1))
    np.testing.assert_array_equal(found[:, 0, 1], padded[:, :4, 4:8].reshape(3, -1))
    np.testing.assert_array_equal(transformer.image(jnp.asarray(found), 4, (7, 10, 2)), X)


def test_positions_are_sines_and_cosines_of_row_and_column():
    found = transformer.positions(3, 5, 16)
    rate = 10_000 ** (-2 / 4)
    expected = [np.sin(2 * rate), np.cos(2 * rate), np.sin(3 * rate), np.cos(3 * rate)]
    np.testing.assert_allclose(found[2 * 5 + 3, [2, 6, 10, 14]], expected, rtol=1e-6)
    assert len(np.unique(found.round(4), axis=0)) == 15
    with pytest.raises(ValueError, match="width=18 must be a multiple of 4"):
        transformer.positions(3, 5, 18)


@pytest.fixture(scope="module")
def model():
    """A model of images of 7 x 10 pixels with 2 of 6 patches visible, and random parameters."""
    config = experiment.Config(
        patch=4, mask_ratio=0.67, width=8, depth=2, decoder_width=12, decoder_depth=1, heads=2, predict="pixels"
    )
    built = experiment.build(config, data.Info((7, 10, 2), 9))
    params = randomized(jax.eval_shape(built.model.init, new_key(), X)["params"])
    return built, {"params": jax.tree.map(lambda leaf: 0.5 * leaf, params)}


def test_tokens_of_the_visible_patches_alone_are_those_of_masked_attention(model):
    """Training leaves hidden patches out, `encode` masks them: the codes are equal."""
    built, variables = model
    x = built.corrupt(new_key(), batch(X))
    in_training, _ = apply(built.model, variables, x)
    np.testing.assert_allclose(in_training, apply(built.model, variables, x, method="encode"), rtol=1e-4, atol=1e-5)
    hidden = np.asarray(x)[:, ::4, ::4, 0] == masked.HIDDEN
    assert hidden.sum() == 3 * 4
    token = np.asarray(variables["params"]["mask_token"])
    assert all(equal(code, token) for code in np.asarray(in_training)[hidden])
    assert not np.any(np.all(np.asarray(in_training)[~hidden] == token, axis=-1))


@pytest.mark.slow
def test_hidden_pixels_of_a_transformer_reach_neither_codes_nor_gradient(model):
    """The loss has a gradient in the mask token, but none in the hidden pixels of its input."""
    built, variables = model
    x = built.corrupt(new_key(), batch(X))
    hidden = np.asarray(x) == masked.HIDDEN

    def total(x):
        return jnp.sum(built.model.apply(variables, x)[1] ** 2)

    slope = np.asarray(jax.grad(total)(x))
    assert np.all(slope[hidden] == 0)
    assert np.count_nonzero(slope[~hidden]) == np.sum(~hidden)
    of_token = jax.grad(lambda p: jnp.mean(built.evaluate({"params": p}, batch(X), new_key())[0]["loss"]))(
        variables["params"]
    )["mask_token"]
    assert np.all(np.abs(of_token) > 0)


def test_complete_images_have_a_token_per_patch_that_depends_on_all_patches(model):
    built, variables = model

    def tokens(x):
        return np.asarray(apply(built.model, variables, x, method="encode"))

    z = tokens(X)
    assert z.shape == (3, 2, 3, 8)
    moved = X.copy()
    moved[0, 0, 0, 0] += 0.5
    changed = np.abs(tokens(moved) - z).max(-1)
    assert np.all(changed[0] > 1e-5)
    np.testing.assert_allclose(changed[1:], 0, atol=1e-6)


def test_codes_of_tokens_may_have_leading_axes(model):
    built, variables = model
    z = rng.normal(size=(2, 3, 2, 3, 8)).astype(np.float32)
    each = [apply(built.model, variables, codes, method="decode") for codes in z]
    np.testing.assert_allclose(apply(built.model, variables, z, method="decode"), each, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_remat_of_a_transformer_changes_no_gradient():
    x, weight = (jnp.asarray(rng.normal(size=(2, 5, 8)), jnp.float32) for _ in range(2))
    slopes = []
    for remat in (False, True):
        net = transformer.Transformer(3, 2, remat=remat)
        params = randomized(jax.eval_shape(net.init, new_key(), x)) if not slopes else params
        slopes.append(jax.grad(lambda p, net=net: jnp.sum(weight * net.apply(p, x)))(params))
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(slopes[0]))  # keys have a bias without gradient
    for a, b in zip(*map(jax.tree.leaves, slopes), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6 * largest)


def test_mixed_precision_of_a_transformer_is_close_to_float32():
    exact, mixed = (nets.PatchEncoder(4, 8, 2, 2, precision=kind) for kind in ("float32", "mixed"))
    params = initial(exact, X)
    found, expected = (np.asarray(apply(net, params, X)) for net in (mixed, exact))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=0.1)
    assert np.abs(found - expected).max() > 1e-4
