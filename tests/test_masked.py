import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import chi2

import jaxae
from conftest import batch, equal, new_key
from jaxae import data, nets
from jaxae.experiments import masked as experiment
from jaxae.variants import masked

SHAPE = (6, 8, 2)
X = np.random.default_rng(0).uniform(0.1, 0.9, size=(5, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize(("patch", "share", "hidden"), [(1, 0.5, 24), (2, 0.75, 9), (2, 0.1, 1), (3, 0.5, 3)])
def test_exact_fraction_of_patches_is_hidden_in_all_channels(patch, share, hidden):
    """With a patch width of 3 pixels the patches at the right edge are cropped."""
    mask = np.asarray(masked.patches(SHAPE, patch, share)(new_key(), batch(X)))
    assert set(np.unique(mask)) == {0, 1}
    for one in mask:
        tops = one[::patch, ::patch, 0]
        assert tops.sum() == hidden
        whole = np.kron(tops, np.ones((patch, patch)))[:6, :8]
        np.testing.assert_array_equal(one, np.repeat(whole[..., None], 2, axis=2))
    assert len({one.tobytes() for one in mask}) == (5 if patch < 3 or hidden > 1 else len(mask))


def test_every_patch_is_hidden_with_equal_probability():
    """A goodness-of-fit test: 16 patches, 4,000 samples of 4."""
    many = batch(np.zeros((4000, 4, 4, 1), np.float32))
    counts = np.asarray(masked.patches((4, 4, 1), 1, 0.25)(new_key(), many)).sum(0).ravel()
    expected = 4000 / 4
    # Sampled without replacement: each count has variance n p (1 - p), and the sum of the counts is constant.
    statistic = np.sum((counts - expected) ** 2) / (expected * 0.75) * 15 / 16
    assert chi2(15).ppf(1e-4) < statistic < chi2(15).ppf(1 - 1e-4)


def test_mask_is_a_function_of_the_index_of_the_example_and_the_key():
    mask, whole = masked.patches(SHAPE, 2, 0.5), batch(X)
    part = whole.replace(x=whole.x[3:] + 1, y=whole.y[3:], index=whole.index[3:], weight=whole.weight[3:])
    assert equal(mask(new_key(), part), mask(new_key(), whole)[3:])
    assert not equal(mask(new_key(), part.replace(index=jnp.array([0, 1]))), mask(new_key(), part))
    assert not equal(mask(jax.random.key(1), whole), mask(new_key(), whole))


def model(patch=2):
    """[6, 8, 2] -> 4 -> [6, 8, 2], with a tanh code and parameters from N(0, 1)."""
    net = masked.Masked(encoder=nets.MLP((), (4,), axes=3, final=jnp.tanh), decoder=nets.MLP((), SHAPE), patch=patch)
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(net.init, new_key(), jnp.asarray(X))["params"]
    return net, jax.tree.map(lambda p: jnp.asarray(0.3 * rng.normal(size=p.shape), jnp.float32), shapes)


@pytest.mark.parametrize("objective", ["bce", "mse"])
def test_loss_against_numpy(objective):
    """The mask is that of `visible` for the same key; terms are means over hidden pixels."""
    net, params = model()
    mask = masked.patches(SHAPE, 2, 0.75)
    seen = np.asarray(masked.visible(mask)(new_key(), batch(X)))
    hidden = seen == masked.HIDDEN
    assert np.all(hidden.sum((1, 2, 3)) == 9 * 4 * 2)
    np.testing.assert_array_equal(seen[~hidden], X[~hidden])
    seen = np.where(hidden, np.tile(params["mask_token"], (3, 4, 1)), seen)
    layers = [{k: np.asarray(v, np.float64) for k, v in params[n]["Dense_0"].items()} for n in ("encoder", "decoder")]
    z = np.tanh(seen.reshape(5, -1).astype(np.float64) @ layers[0]["kernel"] + layers[0]["bias"])
    pixels = expit(z @ layers[1]["kernel"] + layers[1]["bias"]).reshape(X.shape)
    cross = -(X * np.log(pixels) + (1 - X) * np.log(1 - pixels))
    expected = {
        "bce": np.array([one[where].mean() for one, where in zip(cross, hidden, strict=True)]),
        "mse": np.array([one[where].mean() for one, where in zip((pixels - X) ** 2, hidden, strict=True)]),
        "code": np.abs(z).mean(1),
    }
    expected["loss"] = expected[objective]
    terms, updates = masked.loss(net, objective, mask)({"params": params}, batch(X), new_key())
    assert set(terms) == set(expected)
    for name, exact in expected.items():
        np.testing.assert_allclose(terms[name], exact, rtol=1e-5, err_msg=name)
    assert updates == {}


def test_reconstruction_of_visible_pixels_has_no_gradient():
    """The gradient in a logit is (s(l) - x) / (hidden pixels) for hidden pixels, and 0 for visible ones."""
    net, params = model()
    mask = masked.patches(SHAPE, 2, 0.5)
    one = batch(X[:1])
    hidden = np.asarray(mask(new_key(), one))
    layer = params["decoder"]["Dense_0"]
    slope = jax.grad(lambda p: masked.loss(net, "bce", mask)({"params": p}, one, new_key())[0]["loss"][0])(params)
    _, logits = net.apply({"params": params}, masked.visible(mask)(new_key(), one))
    expected = hidden * (expit(np.asarray(logits)) - X[:1]) / hidden.sum()
    np.testing.assert_allclose(slope["decoder"]["Dense_0"]["bias"], expected.ravel(), rtol=1e-4, atol=1e-7)
    assert not np.any(slope["decoder"]["Dense_0"]["bias"][hidden.ravel() == 0])
    assert np.count_nonzero(slope["decoder"]["Dense_0"]["bias"]) == hidden.sum() == layer["bias"].size // 2


def test_hidden_pixels_do_not_reach_the_encoder():
    mask = masked.patches(SHAPE, 2, 0.5)
    hidden = np.asarray(mask(new_key(), batch(X)))
    other = np.where(hidden == 1, 1 - X, X)
    assert not np.array_equal(other, X)
    assert equal(*(masked.visible(mask)(new_key(), batch(x)) for x in (X, other)))


@pytest.mark.parametrize("patch", [1, 2, 3])
def test_mask_token_replaces_hidden_patches(patch):
    """It is cropped at the edges as patches are; a black pixel is not hidden."""
    net, params = model(patch)
    mask = masked.patches(SHAPE, patch, 0.5)
    black = batch(X.round())
    shown = masked.visible(mask)(new_key(), black)
    whole = np.tile(params["mask_token"], (6 // patch, -(-8 // patch), 1))[:6, :8]
    expected = np.where(np.asarray(mask(new_key(), black)) == 1, whole, np.asarray(black.x))
    assert np.any(expected == 0)
    codes = net.apply({"params": params}, shown, method="encode")
    assert equal(codes, net.apply({"params": params}, jnp.asarray(expected), method="encode"))
    assert not equal(codes, net.apply({"params": params}, jnp.where(shown < 0, 0, shown), method="encode"))


@pytest.mark.parametrize("patch", [2, 3])
def test_normalized_targets_against_numpy(patch):
    """Every patch, cropped ones too, has mean 0 and variance 1, and a constant one is 0; hidden patches count alone."""
    x = X.copy()
    x[0, :patch, :patch] = 0.3
    target = np.zeros(x.shape)
    for i in range(0, 6, patch):
        for j in range(0, 8, patch):
            part = x[:, i : i + patch, j : j + patch].astype(np.float64)
            centred = part - part.mean((1, 2, 3), keepdims=True)
            target[:, i : i + patch, j : j + patch] = centred / np.sqrt(
                (centred**2).mean((1, 2, 3), keepdims=True) + 1e-6
            )
    np.testing.assert_allclose(masked.normalized(jnp.asarray(x), patch), target, rtol=1e-3, atol=2e-4)
    net, params = model(patch)
    mask = masked.patches(SHAPE, patch, 0.5)
    terms, _ = masked.loss(net, "normalized", mask)({"params": params}, batch(x), new_key())
    hidden = np.asarray(mask(new_key(), batch(x)))
    _, outputs = net.apply({"params": params}, masked.visible(mask)(new_key(), batch(x)))
    expected = (hidden * (outputs - target) ** 2).sum((1, 2, 3)) / hidden.sum((1, 2, 3))
    np.testing.assert_allclose(terms["loss"], expected, rtol=1e-4)
    assert set(terms) == {"loss", "mse", "code"}


def test_decoded_images_of_normalized_targets_are_grey_on_average():
    built = experiment.build(experiment.Config(hidden=(), latent=3, patch=2, predict="normalized"), data.Info(SHAPE, 9))
    params = built.model.init(new_key(), jnp.asarray(X))["params"]
    z, before = built.model.apply({"params": params}, jnp.asarray(X))
    pixels = built.model.apply({"params": params}, z, method="decode")
    np.testing.assert_allclose(pixels, np.clip(0.5 + np.asarray(before) / 4, 0, 1), rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "patch", "share", "says"),
    [
        ((6, 8, 2), 2, 0.99, "mask_ratio=0.99 hides 12 of 12 patches"),
        ((6, 8, 2), 2, 0.01, "mask_ratio=0.01 hides 0 of 12 patches"),
        ((6, 8, 2), 9, 0.5, "mask_ratio=0.5 hides 1 of 1 patches"),
        ((6, 8, 2), 2, 7.0, "mask_ratio=7.0 hides 84 of 12 patches"),
        ((59, 1), 2, 0.5, r"examples of shape \(59, 1\) are not images"),
    ],
)
def test_fraction_that_hides_all_or_no_patches_raises(shape, patch, share, says):
    with pytest.raises(ValueError, match=says):
        masked.patches(shape, patch, share)


def test_experiment_hides_the_fraction_of_its_fields():
    built = experiment.build(
        experiment.Config(hidden=(), latent=3, patch=2, mask_ratio=0.25), data.Info((6, 8, 2), 100)
    )
    shown = np.asarray(built.corrupt(new_key(), batch(X)))
    hidden = shown == masked.HIDDEN
    assert np.all(hidden.sum((1, 2, 3)) == 3 * 4 * 2)  # 3 of 12 patches
    params = built.model.init(new_key(), jnp.asarray(X))["params"]
    terms, _ = built.evaluate({"params": params}, batch(X, training=False), new_key())
    _, logits = built.model.apply({"params": params}, jnp.asarray(shown))
    pixels = expit(np.asarray(logits, np.float64))
    cross = -(X * np.log(pixels) + (1 - X) * np.log(1 - pixels))
    expected = [one[where].mean() for one, where in zip(cross, hidden, strict=True)]
    np.testing.assert_allclose(terms["loss"], expected, rtol=1e-5)


@pytest.mark.slow
def test_trained_model_takes_images_with_hidden_pixels():
    """From `corrupted`, as the figures do, or the user's own; other pixels out of range raise."""
    x = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1)).astype(np.uint8)
    fields = {"epochs": 1, "batch_size": 8, "hidden": (), "latent": 3, "patch": 2, "progress": False}
    trained = jaxae.fit(experiment, x, test=0, **fields)
    shown = trained.corrupted(x)
    assert np.any(np.asarray(shown) == masked.HIDDEN)
    decoded = np.asarray(trained.reconstruct(shown))
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    assert not equal(decoded, trained.reconstruct(x))
    with pytest.raises(ValueError, match=r"pixels must be uint8, or float in \[0, 1\]"):
        trained.encode(np.asarray(shown) * 2)
