from math import inf, isnan, log, pi, sqrt, tanh

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate, optimize, stats
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from conftest import trained
from jaxae import data
from jaxae.core.batch import Batch
from jaxae.core.experiment import Experiment
from jaxae.core.step import descend
from jaxae.data import idx
from jaxae.experiments import vae
from jaxae.measure import images, plane
from jaxae.training.start import TEST, keys

rng = np.random.default_rng(0)
NORMAL = rng.normal(size=(3000, 2)) @ np.array([[2.0, 1.0], [0.0, 0.5]]) + np.array([3.0, -1.0])


def random_images(n, h, w, c):
    return rng.random((n, h, w, c)).astype(np.float32)


def reference(x, y):
    """Structural similarity by scikit-image, in float64."""
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    pairs = zip(x.astype(np.float64), y.astype(np.float64), strict=True)
    return [structural_similarity(a, b, channel_axis=-1, **options) for a, b in pairs]


def ring(n, radius=1.0):
    """n codes evenly on a circle: mean 0, covariance radius^2 / 2 exactly."""
    angle = 2 * pi * np.arange(n) / n
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def test_mse_against_numpy():
    x, y = random_images(3, 5, 7, 2), random_images(3, 5, 7, 2)
    np.testing.assert_allclose(images.mse(jnp.asarray(x), jnp.asarray(y)), ((x - y) ** 2).mean((1, 2, 3)), 1e-5)


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (11, 11, 1), (11, 40, 2), (37, 12, 3)])
def test_ssim_against_scikit_image(shape):
    x = random_images(3, *shape)
    smooth = np.broadcast_to(np.linspace(0.9, 1, shape[1], dtype=np.float32)[:, None], x.shape)
    for y in (random_images(3, *shape), np.clip(x + 0.1 * random_images(3, *shape), 0, 1), 1 - x, smooth):
        np.testing.assert_allclose(images.ssim(jnp.asarray(x), jnp.asarray(y)), reference(x, y), atol=1e-6)


def test_psnr_against_scikit_image():
    """100 dB for equal images, whose error is 0."""
    x, y = np.random.default_rng(0).random((2, 3, 5, 4, 3), np.float32)
    expected = [peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(images.psnr(jnp.asarray(x), jnp.asarray(y)), expected, rtol=1e-5)
    np.testing.assert_allclose(images.psnr(jnp.asarray(x), jnp.asarray(x)), 100, rtol=1e-6)


def test_ssim_of_bright_smooth_images_has_no_cancellation_error():
    """With variances as E x^2 - (E x)^2 the float32 result would be off by 2e-4."""
    x = np.full((1, 16, 16, 1), 0.97, np.float32)
    y = x + np.linspace(0, 0.03, 16, dtype=np.float32)[:, None]
    np.testing.assert_allclose(images.ssim(jnp.asarray(x), jnp.asarray(y)), reference(x, y), atol=1e-6)


def test_ssim_is_one_only_for_identical_images():
    x = jnp.asarray(random_images(4, 20, 20, 3))
    np.testing.assert_allclose(images.ssim(x, x), 1, rtol=1e-6)
    assert images.ssim(x, x.at[:, 10, 10, 0].add(0.1)).max() < 0.9999


@pytest.mark.parametrize("measure", [images.mse, images.shift_mse, images.ssim])
def test_memory_of_a_comparison_is_at_most_ten_times_its_images(measure):
    x = jax.ShapeDtypeStruct((15, 128, 128, 3), jnp.float32)
    used = measure.lower(x, x).compile().memory_analysis().temp_size_in_bytes
    assert used < 10 * 4 * x.size


class Sums(nn.Module):
    """Codes are the sums over pixels; records the numbers of examples."""

    def encode(self, x):
        SIZES.append(len(x))
        return x.sum((1, 2))

    def decode(self, z):
        SIZES.append(len(z))
        return jnp.broadcast_to(z[:, None, None] / 128**2, (len(z), 128, 128, 3))

    def __call__(self, x):
        return self.decode(self.encode(x))


SIZES = []


def test_large_images_are_processed_in_chunks():
    """At most 15 images of 128 x 128 x 3; noise depends on the index among all examples."""

    def loss(variables, batch, key):
        SIZES.append(len(batch.x))
        return {"loss": batch.x.mean((1, 2, 3)) + batch.noise(key, (1,))[:, 0]}, {}

    def corrupt(key, batch):
        SIZES.append(len(batch.x))
        return batch.x + batch.noise(key, (1,))[:, :, None, None]

    x = rng.integers(0, 256, (40, 128, 128, 3), dtype=np.uint8)
    pixels = x / np.float32(255)
    experiment = Experiment(Sums(), descend(loss, optax.sgd(0.1)), loss, corrupt=corrupt)
    model = trained(experiment, {}, {}, (128, 128, 3))
    SIZES.clear()
    np.testing.assert_allclose(model.encode(x), pixels.sum((1, 2)), rtol=1e-4)
    mean = np.broadcast_to(pixels.mean((1, 2), keepdims=True), x.shape)
    np.testing.assert_allclose(model.reconstruct(x), mean, rtol=1e-4)
    every = Batch(jnp.asarray(pixels), jnp.arange(40), jnp.ones(40), jnp.int32(0))
    np.testing.assert_allclose(model.corrupted(x), corrupt(jax.random.key(0), every), rtol=1e-4)
    assert SIZES.pop() == 40
    key = keys(model.seeds, TEST)
    np.testing.assert_allclose(model.terms(x)["loss"], loss({}, every, key)[0]["loss"], rtol=1e-4)
    assert SIZES.pop() == 40
    one = every.replace(index=jnp.zeros(40, jnp.int32))
    draws = [loss({}, one, jax.random.fold_in(keys(model.seeds, TEST), draw))[0]["loss"] for draw in range(3)]
    np.testing.assert_allclose(model.score(x, samples=3), np.mean(draws, axis=0), rtol=1e-4)
    assert set(SIZES) == {1, 10, 15, 40}  # one example for the shape of a code
    assert SIZES.count(40) == 3


def test_reconstruction_quality_decodes_a_limited_number_of_pixels():
    """The number of images held at once does not grow with the number of images; the means are over all."""
    x = rng.integers(0, 256, (17, 128, 128, 3), dtype=np.uint8)
    y = np.clip(x / 255 + 0.1 * random_images(*x.shape), 0, 1).astype(np.float32)
    sizes = []

    def decode(z):
        sizes.append(len(z))
        return jnp.asarray(y[z])

    found = images.reconstruction_quality(decode, np.arange(17), x)
    assert sizes == [15, 2]
    assert max(sizes) * x[0].size <= images.VALUES
    np.testing.assert_allclose(found["mse"], ((x / 255 - y) ** 2).mean(), rtol=1e-5)
    first = images.reconstruction_quality(lambda z: jnp.asarray(y[z]), np.arange(2), x[:2])
    np.testing.assert_allclose(first["ssim"], np.mean(reference(x[:2] / 255, y[:2])), rtol=1e-5)


def test_image_above_the_limit_is_measured_alone():
    x = rng.integers(0, 256, (1, 600, 700, 2), dtype=np.uint8)
    assert x.size > images.VALUES
    decoded = jnp.asarray(x.astype(np.float32) / 255)
    assert images.reconstruction_quality(lambda z: decoded[z], np.arange(1), x)["mse"] == 0


def test_ssim_rejects_images_smaller_than_its_window():
    x = jnp.zeros((1, 28, 10, 1))
    with pytest.raises(ValueError) as info:  # noqa: PT011
        images.ssim(x, x)
    assert str(info.value) == "images of 28 x 10 pixels are smaller than structural similarity's window of 11 x 11"


def stray(x):
    """Add two stray pixels in the empty corners."""
    return x.at[:, 3, 3].set(1.0).at[:, 24, 24].set(1.0)


def shifted(x, rows=0, columns=0):
    return jnp.roll(x, (rows, columns), (1, 2))


def digit(name, request):
    if name == "digits":
        x = data.load("digits").test.x[1:2]
    else:
        x = idx.read(request.getfixturevalue("mnist") / "t10k-images-idx3-ubyte.gz", 3)[:1, ..., None]
    return jnp.asarray(x, jnp.float32) / 255


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_mse_ranks_a_shifted_digit_below_one_with_stray_pixels(name, request):
    """Structural similarity ranks them the same way, `shift_mse` the other way."""
    x = digit(name, request)
    assert (
        x[:, :, -2:].max() == x[:, 3, 3].max() == x[:, 24, 24].max() == 0
    )  # margins for the shift and the stray pixels
    spots, moved = stray(x), shifted(x, columns=2)
    assert images.mse(x, moved) > 10 * images.mse(x, spots) > 0
    assert images.ssim(x, spots) > 0.95
    assert images.ssim(x, moved) < 0.7
    assert images.shift_mse(x, moved) == 0
    assert images.shift_mse(x, spots) == images.mse(x, spots)


def test_shift_mse_is_zero_for_shifts_within_reach_only():
    x = jnp.asarray(np.pad(random_images(2, 6, 5, 2), ((0, 0), (3, 3), (3, 3), (0, 0))))
    for rows in range(-3, 4):
        for columns in range(-3, 4):
            error = images.shift_mse(x, shifted(x, rows, columns))
            assert ((error == 0) == (max(abs(rows), abs(columns)) <= 2)).all()
    far = shifted(x, 3)
    assert (images.shift_mse(x, far, reach=3) == 0).all()
    np.testing.assert_allclose(images.shift_mse(x, far, reach=0), images.mse(x, far), rtol=1e-6)


def test_shift_mse_pads_with_zeros():
    """Pixels shifted out of the image are lost, as in this single row of three pixels."""
    one, none = jnp.ones((1, 1, 3, 1)), jnp.zeros((1, 1, 3, 1))
    assert images.shift_mse(none, one) == 0  # a vertical shift by 1 leaves only zeros
    assert images.shift_mse(one, none) == 1
    last = none.at[0, 0, 2].set(1.0)
    np.testing.assert_allclose(images.shift_mse(one, last, reach=1), 2 / 3, rtol=1e-6)
    assert images.shift_mse(last, one, reach=2) == 0


def test_reconstruction_quality_is_the_mean_over_all_images():
    """Bytes are compared with pixels in [0, 1]."""
    x = np.random.default_rng(0).integers(0, 256, (5, 12, 13, 2)).astype(np.uint8)
    z = jnp.arange(5.0)[:, None]

    def decode(z):
        return jnp.asarray(x, jnp.float32)[z[:, 0].astype(int)] / 255 * (0.9 - 0.2 * z.reshape(-1, 1, 1, 1))

    found = images.reconstruction_quality(decode, z, x)
    original, decoded = jnp.asarray(x / np.float32(255)), decode(z)
    assert found.keys() == {"mse", "shift_mse", "psnr", "ssim"}
    np.testing.assert_allclose(found["mse"], np.mean((decoded - original) ** 2), rtol=1e-5)
    np.testing.assert_allclose(found["shift_mse"], images.shift_mse(original, decoded).mean(), rtol=1e-5)
    np.testing.assert_allclose(found["ssim"], np.mean(reference(np.asarray(original), np.asarray(decoded))), atol=1e-6)


def crosses(radii):
    """Classes of 4 codes at +-a on one axis and +-b on the other: covariance diag(a^2, b^2) / 2, area pi a b / 2."""
    z = np.array([[(a, 0), (-a, 0), (0, b), (0, -b)] for a, b in radii], np.float64).reshape(-1, 2)
    y = np.repeat(np.arange(len(radii)), 4)
    return z + np.stack([10.0 * y, 5.0 - y], 1), y


def test_unequal_areas_of_crosses_against_the_closed_form():
    assert plane.unequal_areas(*crosses([(1, 4), (2, 2), (8, 0.5)])) == pytest.approx(0, abs=1e-12)
    z, y = crosses([(1, 1), (1, 3), (3, 3)])  # log areas 0, log 3, 2 log 3 and a constant
    expected = sqrt(2 / 3) * log(3)
    assert plane.unequal_areas(z, y) == pytest.approx(expected)
    assert plane.unequal_areas(jnp.asarray(7 * z, jnp.float32), jnp.asarray(5 - y)) == pytest.approx(expected, rel=1e-5)
    solid = np.concatenate([np.eye(3), -np.eye(3)])
    assert plane.unequal_areas(np.concatenate([solid, 2 * solid]), np.repeat([0, 1], 6)) == pytest.approx(1.5 * log(2))


def test_unequal_areas_of_a_flat_class_is_infinite():
    z, y = crosses([(1, 1), (1, 0)])
    assert plane.unequal_areas(z, y) == inf
    assert plane.unequal_areas(z[:5], y[:5]) == inf


def test_asymmetry_against_a_calculation_by_hand():
    """Codes 0 and 1: of four pairs, |z - z'| is 0 1 1 0, |z + z'| is 0 1 1 2. Legs 3 and 4: 0 5 5 0, 6 5 5 8."""
    assert plane.asymmetry(np.array([[0.0], [1.0]])) == pytest.approx(1 / 2)
    z = np.array([[3.0, 0.0], [0.0, 4.0]])
    assert plane.asymmetry(z) == pytest.approx(1 - 10 / 24)
    assert plane.asymmetry(jnp.asarray(1e-3 * z, jnp.float32)) == pytest.approx(1 - 10 / 24)
    assert plane.asymmetry(np.ones((5, 3))) == 1


def test_asymmetry_is_zero_for_every_set_equal_to_its_negation():
    z = rng.exponential(size=(300, 2))
    assert plane.asymmetry(z) > 0.3
    assert plane.asymmetry(np.concatenate([z, -z])) == pytest.approx(0, abs=1e-12)
    skew = np.concatenate([z, np.full((300, 2), -1.0)])
    assert plane.asymmetry(skew - skew.mean(0)) > 0.01  # a mean of 0 does not imply symmetry


def test_asymmetry_is_the_energy_distance_to_the_negation_over_its_upper_bound():
    z = rng.exponential(size=(400, 1)) - 1
    total = np.abs(z + z.T).mean()
    assert plane.asymmetry(z) == pytest.approx(stats.energy_distance(z[:, 0], -z[:, 0]) ** 2 / (2 * total))


def test_asymmetry_of_many_codes_uses_evenly_spaced_ones():
    z = rng.exponential(size=(6000, 2))
    z[3000:] *= -1  # symmetric as a set; the first 2,000 codes are not
    assert plane.asymmetry(z) < 0.01


def beyond(distance, n):
    """Probability that a 2-D standard normal sample is farther than this from all of n such codes."""

    def density(s):
        return s * np.exp(-(s**2) / 2) * (1 - stats.ncx2.cdf(distance**2, 2, s**2)) ** n

    return integrate.quad(density, 0, 10, limit=200)[0]


@pytest.mark.parametrize("n", [500, 3000])
def test_holes_of_normal_codes_are_one_percent(n):
    shares = [plane.holes(np.random.default_rng(100 + k).normal(size=(n, 2)), seed=k) for k in range(10)]
    assert np.mean(shares) == pytest.approx(0.01, abs=0.003)
    assert plane.holes(NORMAL) == pytest.approx(0.01, abs=0.006)


def test_holes_of_a_ring_against_the_integral():
    """Whitened, its radius is sqrt 2, and the normal's radius has distribution function 1 - exp(-s^2 / 2)."""
    n = 3000
    nearby = optimize.brentq(lambda t: beyond(t, n) - 0.01, 0.01, 2)
    expected = 1 - np.exp(-((sqrt(2) - nearby) ** 2) / 2) + np.exp(-((sqrt(2) + nearby) ** 2) / 2)
    assert 0.3 < expected < 0.95
    assert plane.holes(ring(n, radius=5.0)) == pytest.approx(expected, abs=0.03)


def test_holes_are_invariant_to_linear_maps_of_the_codes():
    z = ring(500)
    slanted = z @ np.array([[3.0, 0.0], [1.0, 0.2]]).T + np.array([5.0, -7.0])
    assert plane.holes(z) == pytest.approx(plane.holes(slanted), abs=1e-3)
    assert plane.holes(NORMAL) == pytest.approx(plane.holes(7 * NORMAL), abs=1e-3)
    assert plane.holes(z, seed=0) != plane.holes(z, seed=1)


def pixels(function):
    """A decoder to images of a single row: function of codes [N, Z] -> [N, D]."""
    return lambda z: function(z)[:, None, :, None]


@pytest.mark.parametrize(("z", "d"), [(1, 1), (2, 784), (5, 3)])
def test_roughness_of_a_linear_decoder_is_one(z, d):
    own = np.random.default_rng(0)  # codes much smaller than their mean of 5 would lose digits in float32
    codes = own.normal(size=(100, z)) @ own.normal(size=(z, z)) + 5
    weights = jnp.asarray(own.normal(size=(z, d)), jnp.float32)
    assert plane.roughness(pixels(lambda v: v @ weights + 0.3), codes) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("k", [0.5, 1.0, 2.0])
def test_roughness_of_waves_against_the_integral(k):
    """E cos^2 kw = (1 + q) / 2 and E sin^2 kw = (1 - q) / 2 with q = exp(-2 k^2); (E cos kw)^2 = exp(-k^2)."""
    codes = 3 * NORMAL[:, :1] + 2
    mean, scale = codes.mean().astype(np.float32), codes.std().astype(np.float32)

    def angle(z):
        return k * (z - mean) / scale

    sine = plane.roughness(pixels(lambda z: jnp.sin(angle(z))), codes)
    assert sine == pytest.approx(k**2 / tanh(k**2), rel=0.08)
    circle = pixels(lambda z: jnp.concatenate([jnp.sin(angle(z)), jnp.cos(angle(z))], 1))
    assert plane.roughness(circle, codes) == pytest.approx(k**2 / (1 - np.exp(-(k**2))), rel=0.02)


def test_roughness_is_invariant_to_affine_maps_of_the_codes():
    lower, offset = np.array([[3.0, 0.0], [1.0, 0.2]]), np.array([5.0, -7.0])
    back = jnp.asarray(np.linalg.inv(lower).T, jnp.float32)

    def decode(z):
        return jnp.sin(2 * z) + z[:, ::-1] ** 2

    value = plane.roughness(pixels(decode), NORMAL)
    mapped = pixels(lambda z: decode((z - jnp.asarray(offset, jnp.float32)[None]) @ back))
    assert value > 1.1
    assert plane.roughness(mapped, NORMAL @ lower.T + offset) == pytest.approx(value, rel=1e-3)
    assert plane.roughness(pixels(decode), NORMAL, seed=1) != value


def test_roughness_of_a_constant_decoder_is_nan():
    assert isnan(plane.roughness(jnp.zeros_like, NORMAL))


def test_codes_on_a_line_raise():
    line = ring(10)[:, :1] * np.ones((1, 2))
    for measure in (plane.holes, lambda z: plane.roughness(pixels(jnp.sin), z)):
        with pytest.raises(
            ValueError, match="^10 codes of 2 dimensions lie in a subspace: they have no normal density$"
        ):
            measure(line)


def test_defects_of_a_trained_model_are_the_four_measures():
    experiment = vae.build(vae.Config(hidden=(16,)), data.Info((12, 12, 1), 60))
    x = jnp.asarray(random_images(60, 12, 12, 1))
    model = trained(experiment, experiment.model.init(jax.random.key(0), x)["params"], {}, (12, 12, 1))
    z, y = model.encode(x), np.arange(60) % 3
    assert plane.defects(model.decode, z, y) == {
        "unequal_areas": plane.unequal_areas(z, y),
        "asymmetry": plane.asymmetry(z),
        "holes": plane.holes(z),
        "roughness": plane.roughness(model.decode, z),
    }
    assert 1 <= plane.roughness(model.decode, z) < 2
