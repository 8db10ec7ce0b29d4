import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from scipy import stats

from conftest import trained
from jaxae import data
from jaxae.core.experiment import Experiment
from jaxae.core.step import Transition
from jaxae.report import figures
from jaxae.training import records

rng = np.random.default_rng(0)


class Plain(nn.Module):
    """The code is the first two pixels; the decoded image has the code in both rows."""

    codes: int = 2

    def __call__(self, x):
        return self.decode(self.encode(x))

    def encode(self, x):
        return x.reshape(len(x), -1)[:, : self.codes]

    def decode(self, z):
        return jnp.broadcast_to(nn.sigmoid(z[:, None, :2, None]), (len(z), 2, 2, 1))


def model(codes=2, prior=True):
    draw = (lambda variables, key, n: jax.random.normal(key, (n, codes))) if prior else None
    return trained(Experiment(Plain(codes), Transition(dict, dict), dict, draw), {}, {}, (2, 2, 1))


DATA = data.hold_out(rng.integers(0, 256, (200, 2, 2, 1), dtype=np.uint8), np.arange(200) % 3, ("a", "b$^$", "<c>"))


def painted(figure, axis=0):
    """The array of the image on an axis."""
    return np.asarray(figure.axes[axis].images[0].get_array())


def test_manifold_is_the_decoded_grid_of_normal_quantiles():
    """Left to right z1 grows, bottom to top z2, through the middles of 15 intervals of equal probability."""
    image = painted(figures.walks.manifold(model(), "title"))
    assert image.shape == (60, 60)
    probability = (np.arange(15) + 0.5) / 15
    for row, column in ((0, 0), (0, 14), (14, 0), (7, 7), (3, 11)):
        z = stats.norm.ppf([probability[column], probability[14 - row]])
        tile = image[4 * row + 1 : 4 * row + 3, 4 * column + 1 : 4 * column + 3]
        np.testing.assert_allclose(tile, np.tile(1 / (1 + np.exp(-z)), (2, 1)), rtol=1e-5)


def test_reconstructions_are_below_their_originals():
    figure = figures.images.reconstructions(model(), DATA, "title")
    for i in range(10):
        number = i * (len(DATA.test.x) - 1) // 9  # evenly spaced, including the first and the last
        np.testing.assert_allclose(painted(figure, i), DATA.test.x[number, ..., 0] / 255, rtol=1e-6)
        expected = model().reconstruct(DATA.test.x[number : number + 1])[0, ..., 0]
        np.testing.assert_allclose(painted(figure, 10 + i), expected, rtol=1e-6)
        assert figure.axes[i].get_title() == DATA.classes[DATA.test.y[number]]


def test_curves_end_at_the_lengths_of_the_sequences():
    class Half(Plain):
        def encode(self, x, mask=None):
            return (x if mask is None else x * mask[..., None]).reshape(len(x), -1)

        def decode(self, z):
            return z.reshape(-1, 3, 2) / 2

        def __call__(self, x, mask):
            return None

    x, lengths = rng.random((20, 3, 2), np.float32), np.arange(20) % 3 + 1
    part = data.Split(x, np.full(20, -1), lengths)
    halves = trained(Experiment(Half(), Transition(dict, dict), dict, sequences=True), {}, {}, (3, 2))
    axes = figures.series.curves(halves, data.Dataset(part, part, (), "series"), "title").axes
    assert len(axes) == 10
    for number, axis in zip(np.linspace(0, 19, 10).astype(int), axes, strict=True):
        expected = x[number, : lengths[number]]
        drawn = [line.get_ydata() for line in axis.lines]
        np.testing.assert_allclose(drawn, [expected[:, 0], expected[:, 0] / 2, expected[:, 1], expected[:, 1] / 2])


def test_spatial_codes_are_images_with_a_column_per_position():
    class Three(Plain):
        def encode(self, x):
            return jnp.stack([x[..., 0], 2 * x[..., 0], 3 * x[..., 0]], -1)

    pictures = trained(Experiment(Three(), Transition(dict, dict), dict), {}, {}, (2, 2, 1))
    figure = figures.codes(pictures, DATA, "title")
    top, bottom = DATA.test.x[0, ..., 0] / np.float32(255)
    expected = [np.outer(row, [1, 2, 3]).ravel() for row in (top, bottom)]  # 2 columns of 2 x 3 values
    np.testing.assert_allclose(painted(figure, 10).T, expected, rtol=1e-6)


def test_noise_is_shown_between_original_and_denoised():
    noisy = dataclasses.replace(model().experiment, corrupt=lambda key, batch: 1 - batch.x)
    figure = figures.images.reconstructions(dataclasses.replace(model(), experiment=noisy), DATA, "title")
    assert [axis.get_ylabel() for axis in figure.axes[::10]] == ["original", "noisy", "denoised"]
    original, seen, denoised = (painted(figure, i) for i in (0, 10, 20))
    np.testing.assert_allclose(seen, 1 - original, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(denoised, model().reconstruct(np.asarray(seen)[None])[0, ..., 0], rtol=1e-5)


def test_reconstructions_during_training_are_below_the_originals_in_order(tmp_path):
    for step in (50, 100, 150, 200):
        figures.strip(tmp_path, step, model(), DATA)
    figure = figures.images.training(sorted(tmp_path.iterdir()), DATA, "title", rows=2)
    names = [axis.get_yticklabels()[0].get_text() for axis in figure.axes]
    assert names == ["original", "step 50", "step 200"]
    chosen = DATA.test.x[np.linspace(0, len(DATA.test.x) - 1, 10).astype(int)]
    strip = painted(figure, 2)
    for number, image in enumerate(np.asarray(model().reconstruct(chosen))):
        tile = strip[1:3, 4 * number + 1 : 4 * number + 3] / 255
        np.testing.assert_allclose(tile, image[..., 0], atol=0.5 / 255 + 1e-6)


def test_constant_codes_have_no_principal_components(tmp_path):
    class Dead(Plain):
        def encode(self, x):
            return jnp.zeros((len(x), 3))

    many = data.Dataset(*(data.Split(np.tile(s.x, (6, 1, 1, 1)), np.tile(s.y, 6)) for s in DATA[:2]), DATA.classes)
    assert len(many.test.x) > 100
    lines = [records.record(1, 10, split, {"loss": np.float32(1)}) for split in ("train", "test")]
    dead = trained(Experiment(Dead(), Transition(dict, dict), dict), {}, {}, (2, 2, 1))
    names = {path.stem for path in figures.draw(tmp_path, dead, many, lines, "title")}
    assert names == {"loss", "reconstructions", "extremes", "activity", "interpolation", "traversal"}


def test_latent_plane_shows_every_code_in_the_colour_of_its_class():
    figure = figures.latent(*figures.codes_of(model(), DATA, 10_000), DATA.classes, "title")
    points = figure.axes[0].collections[0]
    z, colours = np.asarray(model().encode(DATA.test.x)), [to_rgb(colour) for colour in figures.COLOURS]
    shown = {
        (*offset, *colour[:3]) for offset, colour in zip(points.get_offsets(), points.get_facecolor(), strict=True)
    }
    expected = {(*code, *colours[label]) for code, label in zip(z.astype(float), DATA.test.y, strict=True)}
    np.testing.assert_allclose(sorted(shown), sorted(expected), rtol=1e-6)
    bar = figure.axes[1]
    assert bar.get_ylabel() == "class"
    assert [text.get_text() for text in bar.get_yticklabels()] == list(DATA.classes)


def test_latent_codes_are_projected_on_their_first_two_principal_components():
    axis = figures.latent(*figures.codes_of(model(codes=4), DATA, 10_000), DATA.classes, "title").axes[0]
    z = np.asarray(model(codes=4).encode(DATA.test.x), np.float64)
    values = np.linalg.eigvalsh(np.cov(z.T))[::-1]
    shown = np.asarray(axis.collections[0].get_offsets())
    np.testing.assert_allclose(np.sort(shown.var(0, ddof=1))[::-1], values[:2], rtol=1e-4)
    assert f"{values[0] / values.sum():.0%}" in axis.get_xlabel()


def test_loss_curves_show_the_mean_and_a_band_of_one_standard_deviation():
    lines = [
        records.record(e, e * 10, split, {"loss": np.array([1.0, 3.0]) / e + k, "mse": np.array([1.0, 1.0])})
        for e in (1, 2, 4)
        for k, split in enumerate(("train", "test"))
    ]
    axis = figures.loss(lines, "nats per {value}", "title", "table").axes[0]
    for k, curve in enumerate(axis.lines):
        np.testing.assert_array_equal(curve.get_xdata(), [1, 2, 4])
        np.testing.assert_allclose(curve.get_ydata(), np.array([2, 1, 0.5]) + k)
    band = axis.collections[0].get_paths()[0].vertices
    deviation = np.sqrt(2)
    assert band[:, 1].max() == pytest.approx(2 + deviation, rel=1e-6)
    assert band[:, 1].min() == pytest.approx(0.5 - deviation / 4, rel=1e-5)
    assert axis.get_ylabel() == "nats per value"


@pytest.mark.parametrize(("losses", "scale"), [([3.0, 2.0, 2500.0], "log"), ([3.0, 2.0, 1900.0], "linear")])
def test_loss_that_grew_by_more_than_a_thousand_has_a_logarithmic_axis(losses, scale):
    lines = [{"epoch": i, "step": i, "split": "test", "loss": loss} for i, loss in enumerate(losses)]
    assert figures.loss(lines, "", "", "image").axes[0].get_yscale() == scale


def test_draw_writes_the_figures_that_apply_to_the_model(tmp_path):
    lines = [records.record(1, 10, split, {"loss": np.float32(1)}) for split in ("train", "test")]
    always = {"loss", "reconstructions", "extremes", "activity", "interpolation", "traversal"}
    for codes, prior, more in (
        (2, True, {"latent", "manifold", "samples"}),
        (2, False, {"latent"}),
        (1, False, set()),
    ):
        folder = tmp_path / f"{codes}{prior}"
        paths = figures.draw(folder, model(codes, prior), DATA, lines, "title")
        assert {path.stem for path in paths} == always | more == {path.stem for path in folder.iterdir()}


def tiles(figure, columns):
    """Images of a figure of 2 x 2 images, [rows, columns, 2, 2]."""
    pixels = painted(figure)
    return pixels.reshape(-1, 4, columns, 4).swapaxes(1, 2)[:, :, 1:3, 1:3]


def sigmoid(z):
    return 1 / (1 + np.exp(-np.asarray(z, np.float64)))


def test_interpolation_is_a_straight_line_of_codes_between_originals():
    sheet = tiles(figures.walks.interpolation(model(), DATA, "title"), 12)
    chosen = np.linspace(0, len(DATA.test.x) - 1, 10).astype(int)
    for row, (a, b) in enumerate(zip(chosen[:5], chosen[5:], strict=True)):
        x = DATA.test.x[[a, b], ..., 0] / 255
        np.testing.assert_allclose(sheet[row, [0, 11]], x, atol=1e-6)
        for column, part in enumerate(np.linspace(0, 1, 10)):
            z = (1 - part) * x[0, 0] + part * x[1, 0]  # the code is the first row
            np.testing.assert_allclose(sheet[row, 1 + column], np.tile(sigmoid(z), (2, 1)), atol=1e-5)


def test_traversal_varies_one_latent_dimension_the_largest_variance_first():
    class Uneven(Plain):
        def encode(self, x):
            return x.reshape(len(x), -1)[:, :2] * jnp.array([[1.0, 3.0]])

    uneven = trained(Experiment(Uneven(), Transition(dict, dict), dict), {}, {}, (2, 2, 1))
    figure = figures.walks.traversal(uneven, DATA, "title")
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["z2", "z1"]
    z = DATA.test.x.reshape(-1, 4)[:, :2] / 255 * [1, 3]
    for row, unit in enumerate((1, 0)):
        for column, offset in enumerate(np.linspace(-2, 2, 9)):
            moved = z[0].copy()
            moved[unit] = z[:, unit].mean() + offset * z[:, unit].std()
            tile = tiles(figure, 9)[row, column]
            np.testing.assert_allclose(tile, np.tile(sigmoid(moved), (2, 1)), atol=1e-5)


def test_extremes_are_the_smallest_and_the_largest_errors():
    figure = figures.images.extremes(model(), DATA, "title")
    x = DATA.test.x[..., 0] / 255
    decoded = np.repeat(sigmoid(x[:, :1]), 2, axis=1)
    errors = ((x - decoded) ** 2).mean((1, 2))
    order = np.argsort(errors)
    for column, number in enumerate([*order[:5], *order[-5:]]):
        np.testing.assert_allclose(painted(figure, column), x[number], rtol=1e-5)
        np.testing.assert_allclose(painted(figure, 10 + column), decoded[number], rtol=1e-5)
        assert figure.axes[column].get_title() == f"{'best' if column < 5 else 'worst'}\n{errors[number]:.2g}"


def test_squared_errors_of_sequences_exclude_padding():
    x, lengths = rng.random((4, 3, 2), np.float32), np.array([1, 2, 3, 3])
    part = data.Split(x, np.full(4, -1), lengths)
    wrong = x + 0.1
    wrong[0, 1:] = wrong[1, 2:] = 7
    np.testing.assert_allclose(
        figures.errors.squared_errors(data.Dataset(part, part, ()), np.arange(4), wrong), np.full(4, 0.01), rtol=1e-3
    )


def test_activity_shows_code_values_and_active_dimensions():
    figure = figures.activity(figures.codes_of(model(), DATA, 10_000)[0], "title")
    values, units = figure.axes
    z = DATA.test.x.reshape(-1, 4)[:, :2] / 255
    assert sum(bar.get_height() for bar in values.patches) == z.size
    np.testing.assert_allclose([bar.get_height() for bar in units.patches], np.sort(z.std(0))[::-1], rtol=1e-5)
    assert units.get_xlabel() == "latent dimension, sorted: 2 of 2 active"
