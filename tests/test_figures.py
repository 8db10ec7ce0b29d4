import html
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
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


def test_latent_plane_shows_every_code_under_its_class():
    axis = figures.latent(model(), DATA, "title").axes[0]
    z = np.asarray(model().encode(DATA.test.x))
    for label, points in enumerate(axis.collections):
        np.testing.assert_allclose(points.get_offsets(), z[DATA.test.y == label], rtol=1e-6)
        assert points.get_label() == DATA.classes[label]
    assert len({tuple(points.get_facecolor()[0]) for points in axis.collections}) == 3
    assert axis.get_legend() is not None


def test_more_dimensions_are_shown_on_their_principal_plane():
    axis = figures.latent(model(codes=4), DATA, "title").axes[0]
    z = np.asarray(model(codes=4).encode(DATA.test.x), np.float64)
    values = np.linalg.eigvalsh(np.cov(z.T))[::-1]
    shown = np.concatenate([points.get_offsets() for points in axis.collections])
    np.testing.assert_allclose(np.sort(shown.var(0, ddof=1))[::-1], values[:2], rtol=1e-4)
    assert f"{values[0] / values.sum():.0%}" in axis.get_xlabel()


def test_loss_curves_show_the_lines_and_their_band():
    lines = [
        log.record(e, e * 10, split, {"loss": np.array([1.0, 3.0]) / e + k, "mse": np.array([1.0, 1.0])})
        for e in (1, 2, 4)
        for k, split in enumerate(("train", "test"))
    ]
    axis = figures.loss(lines, "title").axes[0]
    for k, curve in enumerate(axis.lines):
        np.testing.assert_array_equal(curve.get_xdata(), [1, 2, 4])
        np.testing.assert_allclose(curve.get_ydata(), np.array([2, 1, 0.5]) + k)
    band = axis.collections[0].get_paths()[0].vertices
    deviation = np.sqrt(2)
    assert band[:, 1].max() == pytest.approx(2 + deviation, rel=1e-6)
    assert band[:, 1].min() == pytest.approx(0.5 - deviation / 4, rel=1e-5)
    assert axis.get_ylabel() == "nats per image"


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
