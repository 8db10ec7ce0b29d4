import dataclasses
import html
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from scipy import stats

from jaxae import data, figures, log, report
from jaxae.experiment import Experiment, Model
from jaxae.step import Transition

rng = np.random.default_rng(0)


class Plain(nn.Module):
    """A code is the first two pixels; an image is the code, repeated over its two rows."""

    codes: int = 2

    def encode(self, x):
        return x.reshape(len(x), -1)[:, : self.codes]

    def decode(self, z):
        return jnp.broadcast_to(nn.sigmoid(z[:, None, :2, None]), (len(z), 2, 2, 1))


def model(codes=2, prior=True):
    draw = (lambda key, n: jax.random.normal(key, (n, codes))) if prior else None
    return Model(Experiment(Plain(codes), Transition(dict, dict), dict, draw), {}, {}, (2, 2, 1))


DATA = data.hold_out(rng.integers(0, 256, (200, 2, 2, 1), dtype=np.uint8), np.arange(200) % 3, ("a", "b$^$", "<c>"))


def painted(figure, axis=0):
    """The array that an axis shows."""
    return np.asarray(figure.axes[axis].images[0].get_array())


def test_manifold_is_the_decoded_grid_of_normal_quantiles():
    """Left to right z1 grows, bottom to top z2, through the middles of 15 intervals of equal probability."""
    image = painted(figures.manifold(model(), "title"))
    assert image.shape == (60, 60)
    probability = (np.arange(15) + 0.5) / 15
    for row, column in ((0, 0), (0, 14), (14, 0), (7, 7), (3, 11)):
        z = stats.norm.ppf([probability[column], probability[14 - row]])
        tile = image[4 * row + 1 : 4 * row + 3, 4 * column + 1 : 4 * column + 3]
        np.testing.assert_allclose(tile, np.tile(1 / (1 + np.exp(-z)), (2, 1)), rtol=1e-5)


def test_reconstructions_stand_under_their_originals():
    figure = figures.reconstructions(model(), DATA, "title")
    for i in range(10):
        number = i * (len(DATA.test.x) - 1) // 9  # evenly spread, the first and the last among them
        np.testing.assert_array_equal(painted(figure, i), DATA.test.x[number, ..., 0])
        expected = model().reconstruct(DATA.test.x[number : number + 1])[0, ..., 0]
        np.testing.assert_allclose(painted(figure, 10 + i), expected, rtol=1e-6)
        assert figure.axes[i].get_title() == DATA.classes[DATA.test.y[number]]


def test_sequences_are_drawn_up_to_their_ends():
    class Half(Plain):
        def encode(self, x, mask=None):
            return (x if mask is None else x * mask[..., None]).reshape(len(x), -1)

        def decode(self, z):
            return z.reshape(-1, 3, 2) / 2

        def __call__(self, x, mask):
            return None

    x, lengths = rng.random((20, 3, 2), np.float32), np.arange(20) % 3 + 1
    part = data.Split(x, np.full(20, -1), lengths)
    halves = Model(Experiment(Half(), Transition(dict, dict), dict), {}, {}, (3, 2))
    axes = figures.curves(halves, data.Dataset(part, part, ()), "title").axes
    assert len(axes) == 10
    for number, axis in zip(np.linspace(0, 19, 10).astype(int), axes, strict=True):
        expected = x[number, : lengths[number]]
        drawn = [line.get_ydata() for line in axis.lines]
        np.testing.assert_allclose(drawn, [expected[:, 0], expected[:, 0] / 2, expected[:, 1], expected[:, 1] / 2])


def test_codes_are_painted_as_columns():
    class Three(Plain):
        def encode(self, x):
            return jnp.stack([x[..., 0], 2 * x[..., 0], 3 * x[..., 0]], -1)

    pictures = Model(Experiment(Three(), Transition(dict, dict), dict), {}, {}, (2, 2, 1))
    figure = figures.codes(pictures, DATA, "title")
    top, bottom = DATA.test.x[0, ..., 0] / np.float32(255)
    expected = [np.outer(row, [1, 2, 3]).ravel() for row in (top, bottom)]  # 2 columns of 2 x 3 values
    np.testing.assert_allclose(painted(figure, 10).T, expected, rtol=1e-6)


def test_noise_is_shown_between_original_and_denoised():
    noisy = dataclasses.replace(model().experiment, corrupt=lambda key, batch: 1 - batch.x)
    figure = figures.reconstructions(dataclasses.replace(model(), experiment=noisy), DATA, "title")
    assert [axis.get_ylabel() for axis in figure.axes[::10]] == ["original", "noisy", "denoised"]
    original, seen, denoised = (painted(figure, i) for i in (0, 10, 20))
    np.testing.assert_allclose(seen, 1 - original / 255, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(denoised, model().reconstruct(np.asarray(seen)[None])[0, ..., 0], rtol=1e-5)


def test_training_pictures_stand_under_the_originals_in_order(tmp_path):
    for step in (50, 100, 150, 200):
        figures.strip(tmp_path, step, model(), DATA)
    figure = figures.training(sorted(tmp_path.iterdir()), model(), DATA, "title", rows=2)
    assert [axis.get_ylabel() for axis in figure.axes] == ["original", "step 50", "step 200"]
    chosen = DATA.test.x[np.linspace(0, len(DATA.test.x) - 1, 10).astype(int)]
    strip = painted(figure, 2)
    for number, image in enumerate(np.asarray(model().reconstruct(chosen))):
        tile = strip[1:3, 4 * number + 1 : 4 * number + 3] / 255
        np.testing.assert_allclose(tile, image[..., 0], atol=0.5 / 255 + 1e-6)


def test_codes_without_any_spread_have_no_tsne(tmp_path):
    class Dead(Plain):
        def encode(self, x):
            return jnp.zeros((len(x), 3))

    many = data.Dataset(*(data.Split(np.tile(s.x, (6, 1, 1, 1)), np.tile(s.y, 6)) for s in DATA[:2]), DATA.classes)
    assert len(many.test.x) > 100
    lines = [log.record(1, 10, split, {"loss": np.float32(1)}) for split in ("train", "test")]
    dead = Model(Experiment(Dead(), Transition(dict, dict), dict), {}, {}, (2, 2, 1))
    names = {path.stem for path in figures.draw(tmp_path, dead, many, lines, "title")}
    assert names == {"loss", "reconstructions", "latent"}


def test_latent_plane_shows_every_code_in_the_colour_of_its_class():
    figure = figures.latent(model(), DATA, "title")
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


def test_more_dimensions_are_shown_on_their_principal_plane():
    axis = figures.latent(model(codes=4), DATA, "title").axes[0]
    z = np.asarray(model(codes=4).encode(DATA.test.x), np.float64)
    values = np.linalg.eigvalsh(np.cov(z.T))[::-1]
    shown = np.asarray(axis.collections[0].get_offsets())
    np.testing.assert_allclose(np.sort(shown.var(0, ddof=1))[::-1], values[:2], rtol=1e-4)
    assert f"{values[0] / values.sum():.0%}" in axis.get_xlabel()


def test_loss_curves_show_the_lines_and_their_band():
    lines = [
        log.record(e, e * 10, split, {"loss": np.array([1.0, 3.0]) / e + k, "mse": np.array([1.0, 1.0])})
        for e in (1, 2, 4)
        for k, split in enumerate(("train", "test"))
    ]
    axis = figures.loss(lines, "nats per pixel", "title").axes[0]
    for k, curve in enumerate(axis.lines):
        np.testing.assert_array_equal(curve.get_xdata(), [1, 2, 4])
        np.testing.assert_allclose(curve.get_ydata(), np.array([2, 1, 0.5]) + k)
    band = axis.collections[0].get_paths()[0].vertices
    deviation = np.sqrt(2)
    assert band[:, 1].max() == pytest.approx(2 + deviation, rel=1e-6)
    assert band[:, 1].min() == pytest.approx(0.5 - deviation / 4, rel=1e-5)
    assert axis.get_ylabel() == "nats per pixel"


def test_pictures_suit_the_model(tmp_path):
    lines = [log.record(1, 10, split, {"loss": np.float32(1)}) for split in ("train", "test")]
    for codes, prior, names in (
        (2, True, {"loss", "reconstructions", "latent", "manifold", "samples"}),
        (2, False, {"loss", "reconstructions", "latent"}),
        (1, False, {"loss", "reconstructions"}),
    ):
        folder = tmp_path / f"{codes}{prior}"
        paths = figures.draw(folder, model(codes, prior), DATA, lines, "title")
        assert {path.stem for path in paths} == names == {path.stem for path in folder.iterdir()}


def test_report_escapes_and_asks_nothing_of_the_network(tmp_path):
    hostile = "</title><script>alert('x')</script>\"&"
    (tmp_path / "config.json").write_text(json.dumps({"data": hostile, hostile: [1, 2]}))
    (tmp_path / "loss.png").write_bytes(b"picture")
    report.write(tmp_path, hostile, {"metrics": {"loss": 1.5, hostile: hostile}}, [tmp_path / "loss.png"])
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert page.count(html.escape(hostile)) == 6  # two titles; two names and two values
    assert "default-src 'none'" in page
    assert "data:image/png;base64,cGljdHVyZQ==" in page
    assert "http://" not in page
    assert "https://" not in page
    assert "1.5" in page
