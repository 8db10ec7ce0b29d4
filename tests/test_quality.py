import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import block_diag, sqrtm

from conftest import call
from jaxae import data, load, run
from jaxae.errors import InputError
from jaxae.experiments import dense, vae
from jaxae.measure import classifier, mixture, quality
from jaxae.measure import images as similarity

rng = np.random.default_rng(0)
A = np.array([[2.0, 0.3, 0.0], [0.3, 1.0, -0.4], [0.0, -0.4, 0.5]])
B = np.array([[0.7, -0.2, 0.1], [-0.2, 3.0, 0.9], [0.1, 0.9, 1.2]])  # does not commute with A


def normal(n, mean, covariance):
    """n samples, transformed to exactly this mean and unbiased covariance."""
    z = rng.normal(size=(n, len(mean)))
    z -= z.mean(0)[None]
    z = z @ np.linalg.inv(np.linalg.cholesky(np.cov(z, rowvar=False))).T
    return z @ np.linalg.cholesky(covariance).T + np.asarray(mean)[None]


def rotation(size):
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


def test_frechet_distance_of_two_normals_against_closed_forms():
    """The covariances commute in one of the cases."""
    a, b = normal(50, [1.0, 2.0, 3.0], A), normal(80, [1.5, 0.0, 3.0], B)
    expected = 0.25 + 4 + np.trace(A + B - 2 * sqrtm(A @ B).real)
    np.testing.assert_allclose(quality.frechet(a, b), expected, rtol=1e-10)
    np.testing.assert_allclose(quality.frechet(b, a), expected, rtol=1e-10)
    s, t = np.array([1.0, 2.0, 0.5]), np.array([3.0, 0.1, 0.5])
    turn = rotation(3)
    a, b = (normal(40, mean, turn * scale[None] ** 2 @ turn.T) for mean, scale in (([0, 0, 0], s), ([0, 3, 4], t)))
    np.testing.assert_allclose(quality.frechet(a, b), 25 + np.sum((s - t) ** 2), rtol=1e-10)


def test_identical_sets_have_distance_0_and_precision_and_recall_1():
    for shape in ((200, 5), (4, 9)):  # more and fewer examples than features
        a = rng.normal(size=shape) + 7
        assert 0 <= quality.frechet(a, a[::-1]) < 1e-10
        assert quality.precision_recall(a, a[::-1]) == (1, 1)


def test_distance_precision_and_recall_are_invariant_to_rotation():
    a, b, turn = rng.normal(size=(60, 4)), 0.5 + rng.normal(size=(70, 4)) ** 2, rotation(4)
    np.testing.assert_allclose(quality.frechet(a @ turn, b @ turn), quality.frechet(a, b), rtol=1e-10)
    before, after = quality.precision_recall(a, b), quality.precision_recall(a @ turn, b @ turn)
    assert before == after
    assert 0.1 < before[0] < 0.9


def test_frechet_distance_supports_singular_covariances():
    """Constant features add their squared difference, duplicated ones their distance again; also with few examples."""
    a, b = normal(30, [0.0, 0, 0], A), normal(30, [1.0, 1, 1], B)
    alone = quality.frechet(a, b)
    wide = [np.concatenate([x, np.full((30, 1), c), np.zeros((30, 2))], axis=1) for x, c in ((a, 2.0), (b, 5.0))]
    np.testing.assert_allclose(quality.frechet(*wide), alone + 9, rtol=1e-10)
    np.testing.assert_allclose(quality.frechet(np.hstack([a, a]), np.hstack([b, b])), 2 * alone, rtol=1e-10)
    few, many = rng.normal(size=(4, 6)), rng.normal(size=(9, 6))
    f, m = (np.cov(x, rowvar=False) for x in (few, many))
    root = np.sqrt(np.maximum(np.linalg.eigvals(f @ m).real, 0)).sum()
    expected = np.sum((few.mean(0) - many.mean(0)) ** 2) + np.trace(f + m) - 2 * root
    np.testing.assert_allclose(quality.frechet(few, many), expected, rtol=1e-6)


def brute(real, made, k):
    """Equations 1 and 2, from all pairwise distances."""

    def distances(points, others):
        return np.sqrt(np.sum((points[:, None] - others[None]) ** 2, axis=2))

    def inside(points, of):
        radii = np.sort(distances(of, of), axis=1)[:, k]  # the nearest neighbour of each point is itself
        return np.mean(np.any(distances(points, of) <= radii[None], axis=1))

    return inside(made, real), inside(real, made)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("sizes", [(40, 31), (1200, 2300)])  # includes sets larger than one chunk
def test_precision_and_recall_equal_the_brute_force_over_all_pairs(k, sizes):
    real, made = (rng.normal(size=(size, 3)) + mean for size, mean in zip(sizes, (0, 2), strict=True))
    assert sizes[0] < 100 or min(sizes) > quality.CHUNK
    found = quality.precision_recall(real, made, k)
    np.testing.assert_allclose(found, brute(real, made, k))
    assert 0 < min(found) < max(found) < 1


def test_recall_of_a_subset_is_its_fraction_of_the_data():
    """Two distant groups of 30 and 10; also for a group of identical points."""
    near, far = rng.normal(size=(30, 5)), 100 + rng.normal(size=(10, 5))
    for part in (near, np.zeros_like(near)):
        real = np.concatenate([part, far])
        assert quality.precision_recall(real, part) == (1, 0.75)
        assert quality.precision_recall(part, real) == (0.75, 1)


def test_too_few_examples_raise():
    a = rng.normal(size=(3, 2))
    with pytest.raises(InputError, match="at least 2"):
        quality.frechet(a, a[:1])
    for real, made in ((a, np.zeros((9, 2))), (np.zeros((9, 2)), a)):
        with pytest.raises(InputError, match="3 examples have no 3 neighbours each; use at least 4"):
            quality.precision_recall(real, made)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_held_out_digits_have_a_smaller_distance_than_noise(digits, digit_weights):
    real = classifier.features(digit_weights, digits.test.x)

    def measured(images):
        made = classifier.features(digit_weights, images)
        return quality.frechet(real, made), *quality.precision_recall(real, made)

    near, precision, recall = measured(digits.train.x[::4])
    assert min(precision, recall) > 0.8
    uniform = rng.random((360, 28, 28, 1), np.float32)
    stirred = rng.permuted(digits.test.x.reshape(-1, 784), axis=1).reshape(-1, 28, 28, 1)  # the pixels of digits
    for noise in (uniform, stirred):
        far, *inside = measured(noise)
        assert inside == [0, 0]
        assert far > 100 * near
    zeros, precision, recall = measured(digits.train.x[digits.train.y == 0])  # realistic images, but of a single class
    assert precision > 0.8
    assert recall < 0.3
    assert zeros > 10 * near


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run with a prior, one without."""
    folder = tmp_path_factory.mktemp("runs")
    small = {"epochs": 1, "batch_size": 100, "hidden": (8,), "latent": 2, "figures": "none"}
    return [
        run.train(module.Config(**small, workdir=str(folder / name)), module.build, name)
        for name, module in (("vae", vae), ("dense", dense))
    ]


@pytest.mark.slow
def test_quality_table_has_the_metrics_of_each_kind_of_sample(runs, digits, digit_weights, tmp_path, capsys):
    classifier.save(tmp_path / "weights", digit_weights)
    before = sorted(path for workdir in runs for path in workdir.rglob("*"))
    options = ("--samples", 300, "--seed", 5, "--components", 5, "--classifier", tmp_path / "weights")
    assert call("quality", *runs, *options) == 0
    assert sorted(path for workdir in runs for path in workdir.rglob("*")) == before
    first, _, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("300 test images; ")
    assert first.endswith(f" {classifier.accuracy(digit_weights, digits.test):.2%}")
    rows = [line.rsplit(maxsplit=5) for line in lines]
    names = [" ".join(name.split()) for name, *_ in rows]
    assert names == [
        "data training images",
        "data noise",
        f"{runs[0]} prior",
        f"{runs[0]} mixture of 5",
        f"{runs[0]} reconstructions",
        f"{runs[1]} mixture of 5",
        f"{runs[1]} reconstructions",
    ]
    test = digits.test.x[np.linspace(0, len(digits.test.x) - 1, 300).astype(int)]
    seen = digits.train.x[np.linspace(0, len(digits.train.x) - 1, 300).astype(int)]
    noise = np.random.default_rng(5).random((300, 28, 28, 1), np.float32)
    first, second = (load(path) for path in runs)
    mixed = [m.sample(jax.random.key(5), 300, mixture.fit(m.encode(seen), 5, 5)) for m in (first, second)]
    images = [seen, noise, first.sample(jax.random.key(5), 300), mixed[0], first.reconstruct(test), mixed[1]]
    images.append(second.reconstruct(test))
    for row, made in zip(rows, images, strict=True):
        a, b = (classifier.features(digit_weights, x) for x in (test, made))
        assert float(row[1]) == pytest.approx(quality.frechet(a, b), abs=6e-5)
        assert [float(value) for value in row[2:4]] == pytest.approx(quality.precision_recall(a, b), abs=6e-4)

    for row, model in ((rows[4], first), (rows[6], second)):
        pair = jnp.asarray(test / np.float32(255)), model.reconstruct(test)
        assert float(row[4]) == pytest.approx(float(similarity.psnr(*pair).mean()), abs=6e-3)
        assert float(row[5]) == pytest.approx(float(similarity.ssim(*pair).mean()), abs=6e-5)
    assert [row[4:] for row in rows[:4]] == [["-", "-"]] * 4


@pytest.mark.slow
def test_quality_rejects_bad_arguments_with_a_one_line_error(runs, tmp_path, capsys):
    other, coloured = tmp_path / "other", tmp_path / "coloured"
    other.mkdir()
    net = classifier.Classifier(2, (3,))
    classifier.save(coloured, net.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))["params"])
    text = (runs[1] / "config.json").read_text()
    fingerprint = data.load("digits").fingerprint()
    (other / "config.json").write_text(text.replace(fingerprint, "0" * 64))
    for arguments, said in (
        ((runs[0], other), "its data differ from those of"),
        ((other,), "has changed since"),
        ((tmp_path / "none",), "none"),
        ((runs[0], "--samples", 3), "--samples"),
        ((runs[0], "--classifier", tmp_path / "none"), "holds no classifier"),
        ((runs[0], "--classifier", coloured), "is for images with 3 channels, not examples (28, 28, 1)"),
        ((runs[0], "--module", "no.such"), "--module"),
    ):
        assert call("quality", *arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert said in error


def test_distances_of_independent_features_add_up():
    """For independent groups of features the distance is the sum of the groups' distances."""
    means = ([1.0, 0, 0], [0.0, 0, 2])
    one, two = quality.frechet(normal(40, means[0], A), normal(40, means[1], B)), 3.0**2 + (2 - 0.5) ** 2
    a = normal(40, [*means[0], 0.0], block_diag(A, [[4.0]]))
    b = normal(40, [*means[1], 3.0], block_diag(B, [[0.25]]))
    np.testing.assert_allclose(quality.frechet(a, b), one + two, rtol=1e-10)
