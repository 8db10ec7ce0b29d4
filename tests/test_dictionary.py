"""Metrics of dictionary learning against definitions in NumPy, by hand, and under changes that must not matter."""

from types import SimpleNamespace

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxae.core.experiment import MeasuredData, SparseData
from jaxae.measure import dictionary

RNG = np.random.default_rng(0)


class Linear(nn.Module):
    """Codes relu(x encoder + encoder_bias) and their linear decoder."""

    def encode(self, x):
        params = self.variables["params"]
        return nn.relu(x @ params["encoder"] + params["encoder_bias"][None])

    def decode(self, z):
        params = self.variables["params"]
        return z @ params["decoder"] + params["decoder_bias"][None]

    def __call__(self, x):
        return self.decode(self.encode(x))


def trained(encoder, decoder, encoder_bias=0.0, decoder_bias=0.0):
    params = {
        "encoder": encoder,
        "encoder_bias": np.broadcast_to(encoder_bias, len(decoder)),
        "decoder": decoder,
        "decoder_bias": np.broadcast_to(decoder_bias, decoder.shape[1]),
    }
    params = {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}
    model = Linear()
    return SimpleNamespace(
        experiment=SimpleNamespace(model=model),
        variables={"params": params},
        encode=lambda x: model.apply({"params": params}, x, method="encode"),
    )


def dataset(x, truth=None, firing=None):
    test = SimpleNamespace(x=x, y=None, context=None, observed=None, factors=None, firing=firing)
    return SimpleNamespace(test=test, classes=(), covariates=(), dictionary=truth)


def world(count=400, features=6, dim=6):
    """Examples of an orthonormal dictionary, by default; magnitudes between 1 and 2 where a feature fires."""
    truth = (
        np.linalg.qr(RNG.normal(size=(dim, dim)))[0][:features] if features <= dim else RNG.normal(size=(features, dim))
    )
    firing = RNG.random((count, features)) < np.linspace(0.05, 0.5, features)
    return truth, firing, (firing * RNG.uniform(1, 2, firing.shape)) @ truth


def test_identity_recovers_everything():
    truth, firing, x = world()
    found = dictionary.measure(trained(truth.T, truth, encoder_bias=-1e-4, decoder_bias=0.0), dataset(x, truth, firing))
    one = ("explained_variance", "mcc", "uniqueness", "precision", "recall", "f1")
    np.testing.assert_allclose([found[name] for name in one], 1, atol=1e-6)
    assert found["fvu"] < 1e-6
    assert found["l0"] == found["true_l0"] == firing.sum() / len(x)
    assert found["coherence"] < 1e-6


def test_permutation_signs_and_lengths_of_latents_do_not_matter():
    truth, firing, x = world()
    order, length = RNG.permutation(6), RNG.uniform(0.5, 3, (6, 1))
    same = trained(truth.T, truth, encoder_bias=-1e-4)
    other = trained((truth[order] / length).T, truth[order] * length, encoder_bias=-1e-5)
    first, second = (dictionary.measure(model, dataset(x, truth, firing)) for model in (same, other))
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_allclose(second[name], value, rtol=2e-3, atol=1e-5, err_msg=name)
    assert dictionary.mcc(-truth[order], truth) == pytest.approx(1)


def test_zero_dictionary_scores_zero():
    truth, firing, x = world()
    found = dictionary.measure(trained(np.zeros((6, 4)), np.zeros((4, 6))), dataset(x, truth, firing))
    for name in ("l0", "l1", "shrinkage", "mcc", "precision", "recall", "f1", "coherence", "dense"):
        assert found[name] == 0, name
    assert found["dead"] == 1
    assert found["uniqueness"] == 1 / 4
    centred = x - x.mean(0)
    np.testing.assert_allclose(found["fvu"], np.sum(x**2) / np.sum(centred**2), rtol=1e-6)


def test_duplicate_latents_share_a_feature():
    truth, firing, x = world()
    rows = [0, 1, 2, 3, 4, 4]
    found = dictionary.measure(trained(truth[rows].T, truth[rows], encoder_bias=-1e-4), dataset(x, truth, firing))
    assert found["uniqueness"] == 5 / 6
    np.testing.assert_allclose(found["mcc"], 5 / 6, atol=1e-6)  # the second of them is left with an orthogonal feature
    np.testing.assert_allclose([found["coherence"], found["mean_coherence"]], [1, 2 / 6], atol=1e-6)
    np.testing.assert_allclose(found["f1"], 1, atol=1e-9)


def test_all_metrics_against_their_definitions():
    truth, firing, x = world(count=301, features=9)
    encoder, decoder = RNG.normal(size=(6, 5)), RNG.normal(size=(5, 6))
    bias = RNG.normal(size=6)
    model = trained(encoder, decoder, encoder_bias=-0.7, decoder_bias=bias)
    found = dictionary.measure(model, dataset(x, truth, firing))
    z = np.maximum(x @ encoder - 0.7, 0)
    back = z @ decoder + bias
    cos = np.abs([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in truth] for a in decoder])
    matched = cos.argmax(1)
    f1, precision, recall = [], [], []
    for latent, feature in enumerate(matched):
        both = np.sum((z[:, latent] > 0) & firing[:, feature])
        precision.append(both / np.sum(z[:, latent] > 0))
        recall.append(both / np.sum(firing[:, feature]))
        f1.append(2 / (1 / precision[-1] + 1 / recall[-1]) if both else 0)
    among = np.abs([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in decoder] for a in decoder]) - np.eye(5)
    moved = x[np.any(x != 0, 1)]
    expected = {
        "fvu": np.sum((x - back) ** 2) / np.sum((x - x.mean(0)) ** 2),
        "explained_variance": 1 - np.sum((x - back) ** 2) / np.sum((x - x.mean(0)) ** 2),
        "l0": np.mean(np.sum(z > 0, 1)),
        "l1": np.mean(np.sum(z * np.linalg.norm(decoder, axis=1), 1)),
        "shrinkage": np.mean(
            np.linalg.norm(np.maximum(moved @ encoder - 0.7, 0) @ decoder + bias, axis=1)
            / np.linalg.norm(moved, axis=1)
        ),
        "dead": np.mean(~np.any(z > 0, 0)),
        "dense": np.mean(np.mean(z > 0, 0) > 0.1),
        "mcc": np.mean(cos[linear_sum_assignment(-cos)]),
        "uniqueness": len(set(matched)) / 5,
        "precision": np.mean(precision),
        "recall": np.mean(recall),
        "f1": np.mean(f1),
        "true_l0": np.mean(firing.sum(1)),
        "coherence": among.max(),
        "mean_coherence": among.max(1).mean(),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-6, err_msg=name)


def test_examples_of_zeros_have_no_shrinkage():
    x = np.array([[0, 0], [3, 4], [0, 2]], float)
    model = trained(np.eye(2), np.diag([2.0, 0.5]), decoder_bias=[0.0, 1.0])
    found = dictionary.measure(model, dataset(x))
    np.testing.assert_allclose(found["shrinkage"], np.mean([np.hypot(6, 3) / 5, 2 / 2]), rtol=1e-6)


def test_classification_against_a_calculation_by_hand():
    # Of four latents: one fires with its feature twice of three and three times; one never; one whose feature never
    # fires; one that fires only where its feature does not.
    sums = dictionary.Totals(
        10, 0.0, 1.0, 0, 0.0, 0.0, 10, np.array([3, 0, 2, 4]), 9, np.array([5, 4, 0, 3]), np.array([2, 0, 0, 0])
    )
    found = dictionary.classification(sums)
    assert found == pytest.approx({"precision": 2 / 3 / 4, "recall": 2 / 5 / 4, "f1": 2 * 2 / 8 / 4})
    with pytest.raises(ValueError, match="true feature"):
        dictionary.classification(sums._replace(hits=None))


@pytest.mark.parametrize("size", [1, 7, 100, 1000])
def test_no_metric_depends_on_the_evaluation_batch_size(size):
    truth, firing, x = world(count=100)
    model = trained(RNG.normal(size=(6, 5)).round(2), RNG.normal(size=(5, 6)), encoder_bias=-0.3)
    data = dataset(x + 5, truth, firing)
    expected, found = dictionary.measure(model, data, 50), dictionary.measure(model, data, size)
    np.testing.assert_allclose([*found.values()], [*expected.values()], rtol=1e-6)


def test_explained_variance_is_about_the_mean():
    x = RNG.normal(size=(500, 4)) + 100  # about zero, the mean alone explains 0.9999
    mean = dictionary.measure(trained(np.zeros((4, 3)), np.zeros((3, 4)), decoder_bias=x.mean(0)), dataset(x))
    np.testing.assert_allclose(mean["explained_variance"], 0, atol=1e-6)
    half = dictionary.measure(
        trained(np.eye(4), np.eye(4) / 2, decoder_bias=x.mean(0) / 2), dataset(x)
    )  # x^ - mean = (x - mean) / 2
    np.testing.assert_allclose(half["explained_variance"], 3 / 4, atol=1e-4)


def test_variance_survives_a_distant_mean():
    x = RNG.normal(size=(64, 3)) + 1e7
    sums = dictionary.totals(Linear(), trained(np.eye(3), np.eye(3)).variables, dataset(x).test, size=10)
    np.testing.assert_allclose(sums.squares, np.sum((x - x.mean(0)) ** 2), rtol=1e-6)


def test_images_of_bytes_are_measured_as_pixels_in_0_1():
    pixels = RNG.integers(0, 256, (20, 6), np.uint8)
    model = trained(np.eye(6), np.eye(6) / 2)
    first, second = (dictionary.measure(model, dataset(x)) for x in (pixels, pixels / 255))
    np.testing.assert_allclose([*first.values()], [*second.values()], rtol=1e-5)
    np.testing.assert_allclose(first["l1"], np.mean(pixels.sum(1)) / 255 / 2, rtol=1e-5)


def test_dead_and_dense_latents_are_counted():
    x = np.zeros((100, 4))
    x[:1, 1] = x[:10, 2] = x[:11, 3] = 1.0
    found = dictionary.measure(trained(np.eye(4), np.eye(4)), dataset(x))
    assert (found["dead"], found["dense"]) == (1 / 4, 1 / 4)
    sums = dictionary.totals(Linear(), trained(np.eye(4), np.eye(4)).variables, dataset(x).test)
    np.testing.assert_array_equal(dictionary.frequencies(sums), [0, 0.01, 0.1, 0.11])


def test_a_single_latent_has_no_coherence_and_random_ones_that_of_the_gram_matrix():
    assert dictionary.coherence(np.ones((1, 3))) == {"coherence": 0, "mean_coherence": 0}
    rows = RNG.normal(size=(1100, 5))  # more than a block of rows
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    gram = np.abs(unit @ unit.T)
    np.fill_diagonal(gram, 0)
    expected = {"coherence": gram.max(), "mean_coherence": gram.max(1).mean()}
    assert dictionary.coherence(rows) == pytest.approx(expected)


@pytest.mark.parametrize(("latents", "features"), [(3, 5), (5, 3)])
def test_mcc_of_unequal_numbers_matches_the_smaller_number(latents, features):
    truth = np.eye(6)[:features]
    assert dictionary.mcc(np.eye(6)[:latents] * 3, truth) == pytest.approx(1)
    mixed = np.array([[1.0, 0.9], [0.9, 0.0]])  # the greedy matching takes (0, 0) first
    cos = dictionary.cosines(mixed, np.eye(2))
    assert dictionary.mcc(mixed, np.eye(2)) == pytest.approx(max(np.trace(cos), cos[0, 1] + cos[1, 0]) / 2)


def test_data_without_a_known_dictionary_are_measured_without_it():
    truth, firing, x = world()
    assert isinstance(dataset(x), MeasuredData)
    assert isinstance(dataset(x, truth, firing), SparseData)
    del (data := dataset(x)).dictionary
    assert "mcc" not in dictionary.measure(trained(truth.T, truth), data)
    assert "mcc" not in dictionary.measure(trained(truth.T, truth), dataset(x, truth, None))


def test_models_without_a_matrix_of_latents_raise():
    model, x = trained(np.eye(3), np.eye(3)), np.ones((4, 3))
    model.variables["params"]["encoder"] = jnp.ones((3, 2))
    model.variables["params"]["encoder_bias"] = jnp.ones(2)
    with pytest.raises(ValueError, match=r"codes have shape \(4, 2\), not \[N, 3\]"):
        dictionary.measure(model, dataset(x))
    model.variables["params"].pop("decoder")
    with pytest.raises(ValueError, match="a parameter named decoder"):
        dictionary.measure(model, dataset(x))
    with pytest.raises(ValueError, match="0 examples"):
        dictionary.measure(trained(np.eye(3), np.eye(3)), dataset(x[:0]))
