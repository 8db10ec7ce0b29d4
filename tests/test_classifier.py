import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import apply, batch, call, equal, evaluated, new_key
from jaxae import data, nets
from jaxae.data import Dataset, Split, binary
from jaxae.errors import InputError
from jaxae.measure import classifier

rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def small():
    """Twenty colour images of odd size, and three classes."""
    x, y = rng.integers(0, 256, (20, 9, 7, 3), np.uint8), np.arange(20, dtype=np.int32) % 3
    return Dataset(Split(x[:15], y[:15]), Split(x[15:], y[15:]), ("a", "b", "c"))


@pytest.fixture(scope="module")
def params(small):
    return jax.tree.map(jnp.asarray, classifier.train(small))


@pytest.mark.slow
def test_accuracy_on_held_out_digits_exceeds_96_percent(digits, digit_weights):
    assert classifier.accuracy(digit_weights, digits.test) > 0.96


@pytest.mark.slow
def test_accuracy_on_mnist_exceeds_99_percent(mnist, tmp_path):
    images = data.load("mnist", str(tmp_path), str(mnist))
    assert classifier.accuracy(classifier.train(images), images.test) > 0.99


def test_loss_against_numpy(small, params):
    model = classifier.network(params)
    x, y = jnp.asarray(small.train.x / np.float32(255)), small.train.y
    seen = batch(x, training=False).replace(y=jnp.asarray(y))
    terms, updates = evaluated(classifier.loss(model, reach=2), {"params": params}, seen)  # in evaluation, not shifted
    logits = np.asarray(apply(model, {"params": params}, x), np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(terms["loss"], -np.log(probabilities[np.arange(15), y]), rtol=1e-5)
    np.testing.assert_array_equal(terms["accuracy"], logits.argmax(1) == y)
    assert set(terms) == {"loss", "accuracy"}
    assert updates == {}


def test_training_images_are_shifted_by_the_keys_of_their_examples(small, params):
    model, x = classifier.network(params), jnp.asarray(small.train.x / np.float32(255))
    seen = batch(x).replace(y=jnp.asarray(small.train.y), index=jnp.arange(7, 22))
    terms = evaluated(classifier.loss(model, reach=2), {"params": params}, seen)[0]
    moved = classifier.shifted(x, seen.keys(new_key()), 2)
    expected = evaluated(classifier.loss(model), {"params": params}, seen.replace(x=moved), jax.random.key(1))[0]
    np.testing.assert_allclose(terms["loss"], expected["loss"], rtol=1e-6)
    assert not np.allclose(moved, x)


def test_shifts_are_uniform():
    """The shift is measured on a single pixel that is not black."""
    image = jnp.zeros((5, 7, 2)).at[2, 3].set(jnp.array([0.25, 1.0]))
    moved = np.asarray(classifier.shifted(jnp.tile(image, (5000, 1, 1, 1)), jax.random.split(new_key(), 5000), 1))
    np.testing.assert_allclose(moved.sum((1, 2)), np.tile([0.25, 1.0], (5000, 1)))
    places = moved[..., 1].reshape(5000, -1).argmax(1)
    counts = np.bincount(places, minlength=35).reshape(5, 7)
    assert counts[1:4, 2:5].sum() == 5000
    assert abs(counts[1:4, 2:5] - 5000 / 9).max() < 4 * np.sqrt(5000 * 8 / 81)


def test_shifted_images_are_padded_with_zeros():
    x = jnp.asarray(rng.random((200, 4, 4, 1)), jnp.float32)
    moved = np.asarray(classifier.shifted(x, jax.random.split(new_key(), 200), 2))
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    shifts = [padded[:, i : i + 4, j : j + 4] for i in range(5) for j in range(5)]
    assert all(any(np.array_equal(shift[n], moved[n]) for shift in shifts) for n in range(200))
    assert equal(classifier.shifted(x, jax.random.split(new_key(), 200), 0), x)


@pytest.mark.slow
def test_same_seed_is_bit_exact(small, params):
    assert equal(classifier.train(small), params)
    assert not equal(classifier.train(small, seed=1), params)


def test_features_and_logits_against_numpy(small, params):
    x = small.train.x
    scaled = jnp.asarray(x / np.float32(255))
    convolutions = nets.Conv((32, 64, 128), pools=(2,))
    maps = np.asarray(apply(convolutions, {"params": params["maps"]}, scaled), np.float64)
    features = classifier.features(params, x)
    np.testing.assert_allclose(features, maps.mean((1, 2)), rtol=1e-5, atol=1e-7)
    hidden, last = (params["head"][f"Dense_{i}"] for i in (0, 1))
    units = maps.reshape(15, -1) @ np.asarray(hidden["kernel"]) + np.asarray(hidden["bias"])[None]
    units = np.where(units > 0, units, np.expm1(units))
    logits = units @ np.asarray(last["kernel"]) + np.asarray(last["bias"])[None]
    found = apply(classifier.network(params), {"params": params}, scaled)
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-5)
    assert classifier.accuracy(params, small.train) == np.mean(logits.argmax(1) == small.train.y)
    for images in (x / np.float32(255), scaled):
        np.testing.assert_allclose(classifier.features(params, images), features, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_features_of_many_images_are_computed_in_chunks(small, params):
    """Two full chunks and a partial one."""
    count = 2 * classifier.CHUNK + 10
    many = np.resize(small.train.x, (count, *small.shape))
    expected = np.resize(classifier.features(params, small.train.x), (count, 128))
    np.testing.assert_allclose(classifier.features(params, many), expected, rtol=1e-5, atol=1e-6)


def test_saved_weights_are_bit_exact(small, params, tmp_path):
    classifier.save(tmp_path / "weights", params)
    assert equal(classifier.load(tmp_path / "weights", small), params)


def test_file_without_classifier_weights_raises(small, params, digits, tmp_path):
    path = tmp_path / "weights"
    classifier.save(path, params)
    with pytest.raises(InputError, match="other images or classes"):
        classifier.load(path, digits)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[:-100], whole[: len(whole) // 2], whole.replace(b"NUMPY", b"NUMBY", 1)):
        path.write_bytes(content)
        with pytest.raises(InputError, match="holds no classifier"):
            classifier.load(path, small)
    for arrays in ({"maps": np.zeros(3)}, {"maps/a": np.array([{}])}, {"head": np.zeros(3), "head/a": np.zeros(3)}):
        with path.open("wb") as file:
            np.savez(file, **arrays)
        with pytest.raises(InputError, match="holds"):
            classifier.load(path, small)
    with pytest.raises(InputError, match="none"):
        classifier.load(tmp_path / "none", small)


@pytest.mark.slow
def test_cache_is_filled_once_and_a_damaged_file_is_replaced(small, params, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("JAXAE_CACHE", str(tmp_path / "cache"))
    caplog.set_level(logging.INFO, "jaxae")
    for trained, content in ((True, None), (False, None), (True, b"half of it"), (False, None)):
        if content:
            classifier.cache_path(small).write_bytes(content)
        caplog.clear()
        assert equal(classifier.load_or_train(small), params)
        assert ("training a classifier of these images" in caplog.text) == trained
        assert equal(classifier.load(classifier.cache_path(small), small), params)
    other = small._replace(train=Split(small.train.x[::-1], small.train.y))
    assert classifier.cache_path(other) != classifier.cache_path(small)


@pytest.mark.slow
def test_cache_that_cannot_be_written_is_reported(small, params, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXAE_CACHE", str(tmp_path / "file"))
    assert equal(classifier.load_or_train(small), params)
    assert f"the classifier is not cached in {tmp_path / 'file'}" in caplog.text


def test_data_without_images_or_classes_raises(small, tmp_path):
    sequences = small._replace(train=Split(np.zeros((4, 6, 2), np.float32), np.zeros(4, np.int32)))
    nameless = small._replace(classes=())
    for wrong, said in ((sequences, "are not images"), (nameless, "have no classes")):
        for refused in (
            classifier.train,
            classifier.load_or_train,
            lambda images: classifier.load(tmp_path / "w", images),
        ):
            with pytest.raises(InputError, match=said):
                refused(wrong)


@pytest.fixture
def few(digits, tmp_path):
    """A file of 200 digits of three classes."""
    chosen = np.flatnonzero(digits.train.y < 3)[:200]
    np.savez(tmp_path / "few.npz", x=digits.train.x[chosen], y=digits.train.y[chosen])
    return tmp_path / "few.npz"


@pytest.mark.parametrize(
    ("cached", "binarize"), [(False, "none"), (False, "dynamic"), pytest.param(True, "none", marks=pytest.mark.slow)]
)
def test_command_writes_the_weights_that_it_trains(few, tmp_path, monkeypatch, capsys, cached, binarize):
    """The weights are written to a file, or with the defaults to the cache."""
    monkeypatch.setenv("JAXAE_CACHE", str(tmp_path / "cache"))
    images = binary.as_in_training(data.load(str(few), binarize=binarize), binarize)
    fields = {} if cached else {"epochs": 1, "seed": 2}
    to = classifier.cache_path(images) if cached else tmp_path / "weights"
    given = () if cached else ("--out", to, "--epochs", 1, "--seed", 2)
    assert call("classifier", "--data", few, "--binarize", binarize, *given) == 0
    expected = classifier.train(images, **fields)
    said = f"test accuracy {classifier.accuracy(expected, images.test):.2%}\nweights: {to}\n"
    assert capsys.readouterr().out == said
    assert equal(classifier.load(to, images), expected)


def test_command_rejects_bad_arguments_with_a_one_line_error(few, tmp_path, capsys):
    for arguments, said in (
        (("--data", "sprites/none"), "--data sprites/none"),
        (("--data", few, "--epochs", -1), "--epochs -1 must be at least 0"),
        (("--data", few, "--seed", -1), "--seed -1 must be at least 0"),
        (("--data", few, "--epochs", 1, "--out", tmp_path / "none" / "weights"), "cannot be written"),
        (("--data", few, "--seed", 1), "the cache holds only the weights of the default epochs"),
    ):
        assert call("classifier", *arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert said in error
