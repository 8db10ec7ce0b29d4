"""Random changes of training images against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binomtest, chisquare

import jaxae
from conftest import batch, equal, new_key
from jaxae import data
from jaxae.core.batch import Layout
from jaxae.core.step import Transition
from jaxae.core.types import Info, State
from jaxae.data import augmentation
from jaxae.data.augmentation import augmented

rng = np.random.default_rng(0)
X = rng.random((6, 16, 24, 3)).astype(np.float32)
INFO = Info((16, 24, 3), 6)


def changed(name, x):
    keys = jax.random.split(new_key(), 2000)
    return np.asarray(jax.vmap(augmentation.CHANGES[name], in_axes=(0, None))(keys, jnp.asarray(x)))


def seen(names, part, key=0, info=INFO):
    """The images on which a transition is called."""
    spy = Transition(lambda params: params, lambda state, part, key: (state, {"loss": part.x}))
    state = State(jnp.int32(0), {}, (), {})
    return augmented(spy, names, info).step(state, part, jax.random.key(key))[1]["loss"]


def test_half_of_the_images_are_mirrored_and_nothing_else():
    found = changed("flip", X[0])
    mirrored = (found == X[0][:, ::-1]).all((1, 2, 3))
    assert np.all(mirrored | (found == X[0]).all((1, 2, 3)))
    assert binomtest(int(mirrored.sum()), 2000, 0.5).pvalue > 1e-4


def test_every_window_of_the_padded_image_is_equally_likely():
    """Two pixels of rows and three of columns on each side: 5 x 7 windows."""
    padded = np.pad(X[0], ((2, 2), (3, 3), (0, 0)), mode="reflect")
    windows = {padded[i : i + 16, j : j + 24].tobytes(): 7 * i + j for i in range(5) for j in range(7)}
    places = [windows[image.tobytes()] for image in changed("crop", X[0])]
    assert chisquare(np.bincount(places, minlength=35)).pvalue > 1e-4


@pytest.mark.parametrize("channels", [1, 3])
def test_colour_against_numpy(channels):
    """Factors of brightness, contrast and saturation within a fifth, each of them different from 1."""
    factors = np.asarray(jax.random.uniform(jax.random.key(5), (3,), minval=0.8, maxval=1.2), np.float64)
    assert np.all(np.abs(factors - 1) > 0.01)
    x = X[0, :, :, :channels].astype(np.float64)
    expected = 0.5 + factors[1] * (factors[0] * x - 0.5)
    if channels == 3:
        grey = expected.mean(-1, keepdims=True)
        expected = grey + factors[2] * (expected - grey)
    found = augmentation.colour(jax.random.key(5), jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, np.clip(expected, 0, 1), atol=1e-6)
    assert np.any(expected > 1) or np.any(expected < 0)


def test_augmentations_are_a_function_of_the_key_and_the_index_of_the_example():
    names = ("crop",)
    whole = batch(X)
    found = seen(names, whole)
    part = whole.replace(x=whole.x[4:], y=whole.y[4:], index=whole.index[4:], weight=whole.weight[4:])
    assert equal(seen(names, part), found[4:])
    assert equal(seen(names, whole), found)
    assert not np.any(np.all(np.asarray(seen(names, whole, key=1)) == np.asarray(found), axis=(1, 2, 3)))
    same = batch(np.broadcast_to(X[:1], X.shape))
    assert len({image.tobytes() for image in np.asarray(seen(names, same))}) == 6


def test_augmentations_are_applied_in_order_with_different_keys():
    part = batch(X)
    keys = part.keys(jax.random.split(new_key())[0])

    def expected(key, x):
        first, second = (jax.random.fold_in(jax.random.clone(key), number) for number in (0, 1))
        return augmentation.flip(second, augmentation.crop(first, x))

    assert equal(seen(("crop", "flip"), part), jax.vmap(expected)(keys, part.x))


def test_microbatches_of_a_reproducible_reduction_have_the_same_images():
    names, whole = ("flip", "crop", "colour"), batch(X)
    ordered = whole.replace(layout=Layout(microbatches=3, ordered=True))
    np.testing.assert_allclose(seen(names, ordered), seen(names, whole), atol=1e-6)


@pytest.mark.parametrize(
    ("info", "says"),
    [
        (Info((7,), 6), r"augment=colour needs complete images \[H, W, C\], not examples of shape \(7,\); omit it"),
        (Info((8, 8, 1), 6, missing=True), "not examples with missing pixels"),
        (Info((8, 8, 1), 6, real=True), "colour needs pixels in .*, but the data are real numbers"),
    ],
)
def test_data_that_cannot_be_augmented_raise(info, says):
    with pytest.raises(ValueError, match=says):
        seen(("colour",), batch(X), info=info)


@pytest.mark.slow
def test_augmented_run_resumes_bit_for_bit_and_evaluates_images_as_they_are(tmp_path):
    x = rng.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    fields = {"hidden": (), "latent": 3, "batch_size": 8, "augment": ("flip", "crop", "colour"), "progress": False}
    images = data.from_arrays(x, test=x[:8])
    whole = jaxae.fit("dense", images, epochs=4, **fields)
    jaxae.fit("dense", images, epochs=2, workdir=tmp_path / "run", **fields)
    resumed = jaxae.fit("dense", images, epochs=4, workdir=tmp_path / "run", **fields)
    assert all(map(equal, *map(jax.tree.leaves, (whole.params, resumed.params))))
    plain = jaxae.fit("dense", images, epochs=4, **{**fields, "augment": ()})
    assert not all(map(equal, *map(jax.tree.leaves, (whole.params, plain.params))))
    errors = np.mean((np.asarray(whole.reconstruct(x[:8])) - x[:8] / 255) ** 2)
    assert whole.history[-1]["mse"] == pytest.approx(errors, rel=1e-5)
