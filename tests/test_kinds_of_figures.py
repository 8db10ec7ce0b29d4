"""Figures, report and words follow the kind of data: tables, series, colour, missing entries."""

import dataclasses
import io
import json
from base64 import b64decode

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_rgb, to_rgba
from PIL import Image

import jaxae
from conftest import call, trained
from jaxae import data
from jaxae.commands import compare
from jaxae.core.divergences import DiagonalNormal
from jaxae.core.experiment import Experiment
from jaxae.core.step import Transition
from jaxae.core.types import Scale
from jaxae.data.dataset import VALUES
from jaxae.measure import images as quality
from jaxae.report import figures, wall
from jaxae.report.figures import errors, series, table
from jaxae.report.figures.base import COLOURS, MISSING, encoded
from jaxae.training import records
from jaxae.training.trained import Trained

rng = np.random.default_rng(0)
PINK = np.array(to_rgb(MISSING), np.float32)


class Half(nn.Module):
    """The code is the example itself, flat; the decoded example is half of it."""

    shape: tuple[int, ...]

    def __call__(self, x, mask=None):
        return self.decode(self.encode(x))

    def encode(self, x, mask=None):
        return x.reshape(len(x), -1)

    def decode(self, z):
        return z.reshape(-1, *self.shape) / 2


def half(shape, **fields):
    net = Half(shape)
    return dataclasses.replace(
        trained(Experiment(net, Transition(dict, dict), absolute, **fields), {}, {}, shape), real=True
    )


def absolute(variables, batch, key):
    """A loss: the sum of |x|."""
    return {"loss": jnp.abs(batch.x).reshape(len(batch.x), -1).sum(1)}, {}


def rows(count=30):
    """A table of three columns in model units, with a scale; entry 1 of row 4 is missing."""
    x = rng.normal(size=(count, 3)).astype(np.float32)
    observed = np.ones(x.shape, np.uint8)
    x[4, 1] = observed[4, 1] = 0
    split = data.Split(x, np.full(count, -1), observed=observed)
    scale = Scale(np.array([10.0, -5.0, 0.0]), np.array([2.0, 3.0, 0.5]))
    return data.Dataset(split, split, (), "table", scale, real=True, features=("a", "b$", "<c>"))


def test_pair_plot_shows_rows_and_reconstructions_in_the_users_units():
    found = rows()
    model = dataclasses.replace(half((3,)), scale=found.scale)
    figure = table.pairs(model, found, np.array([0, 1, 2]), "title")
    axes = np.array(figure.axes[:9]).reshape(3, 3)
    x = found.scale.offset + found.scale.factor * found.test.x
    y = found.scale.offset + found.scale.factor * found.test.x / 2
    others = np.arange(len(x)) != 4
    for i, j, filled in ((1, 0, True), (2, 0, False), (2, 1, True)):
        original, decoded, pink = (np.asarray(part.get_offsets()) for part in axes[i, j].collections[:3])
        known = others if filled else np.ones(len(x), bool)
        np.testing.assert_allclose(original[known], x[known][:, [j, i]], rtol=1e-5)
        np.testing.assert_allclose(decoded, y[known][:, [j, i]], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(pink, y[~known][:, [j, i]], rtol=1e-5)
        assert np.isnan(original[4]).any() == filled
        colours = [part.get_facecolor()[0, :3] for part in axes[i, j].collections[:2]]
        np.testing.assert_allclose(colours, [to_rgb(colour) for colour in COLOURS[:2]], atol=1e-6)
        np.testing.assert_allclose(axes[i, j].collections[2].get_facecolor()[0, :3], PINK, atol=1e-6)
    assert [axis.get_xlabel() for axis in axes[2]] == ["a", "b$", "<c>"]
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["a", "b$", "<c>"]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["test rows", "their reconstructions", "reconstructions of entries that were not measured"]


def test_worst_rows_name_the_columns_that_contribute_most():
    """The error of row 4 is in column <c> and column a; column b$ was not measured."""
    found = rows()
    found.test.x[4] = [6, 0, 8]
    model = dataclasses.replace(half((3,)), scale=found.scale)
    cells = table.worst_rows(model, found, "title").axes[0].tables[0].get_celld()
    width = 1 + max(column for _, column in cells)
    lines = [[cells[line, column].get_text().get_text() for column in range(width)] for line in range(4)]
    assert lines[0] == [
        "test row",
        "mean squared error",
        "column",
        "original",
        "reconstruction",
        "share of the error",
    ]
    assert lines[1] == ["4", "12.5", "<c>", "4", "2", "64%"]  # (3^2 + 4^2) / 2; 0 + 0.5 * 8
    assert lines[2] == ["", "", "a", "22", "16", "36%"]
    assert lines[3] == ["", "", "b$", "not measured", "-5", ""]
    pink = [place for place, cell in cells.items() if cell.get_facecolor() == to_rgba(MISSING, 0.35)]
    assert pink == [(3, 3)]


def test_rows_of_the_highest_scores_have_p_values_and_the_columns_that_contribute_most():
    """The score of a row is the sum of its absolute values."""
    found = rows()
    found.test.x[4], found.test.x[7] = [60, 0, 80], [-50, 10, 0]
    training = found.train._replace(x=np.repeat(np.arange(30, dtype=np.float32)[:, None] + 60, 3, axis=1))
    model = dataclasses.replace(half((3,)), scale=found.scale)
    cells = table.highest_scores(model, found._replace(train=training), "title").axes[0].tables[0].get_celld()
    width = 1 + max(column for _, column in cells)
    lines = [[cells[line, column].get_text().get_text() for column in range(width)] for line in range(7)]
    assert lines[0][:4] == ["test row", "score", "p-value", "column"]
    assert lines[1][:4] == ["4", "140", "1", "<c>"]
    assert lines[1][-1] == "64%"
    (row,) = [line for line in lines[1:] if line[0] == "7"]
    assert row[1:4] == ["60", "1", "a"]
    training = training._replace(x=training.x / 3 - 10)  # sums from 30 to 59
    cells = table.highest_scores(model, found._replace(train=training), "title").axes[0].tables[0].get_celld()
    assert {cells[line, 2].get_text().get_text() for line in (1, 4)} == {"0.032"}  # 1 / 31


@pytest.mark.slow
def test_rows_of_a_table_are_written_as_numbers_only(tmp_path, capsys):
    jaxae.fit("dense", rng.normal(size=(60, 4)), epochs=1, batch_size=20, hidden=(4,), latent=2).save(tmp_path / "run")
    np.save(tmp_path / "x.npy", rng.normal(size=(5, 4)))
    capsys.readouterr()
    assert call("reconstruct", tmp_path / "run", tmp_path / "x.npy", "--out", tmp_path / "x.png") == 2
    assert "rows of a table are not images; use .csv" in capsys.readouterr().err
    assert call("score", tmp_path / "run", tmp_path / "x.npy") == 0
    said = capsys.readouterr().out.splitlines()
    assert (said[0], [line.split(",")[0] for line in said[1:]]) == ("name,loss", ["0", "1", "2", "3", "4"])


def test_errors_exclude_missing_entries_and_padding():
    x = rng.normal(size=(3, 4, 2)).astype(np.float32)
    observed = np.ones(x.shape, np.uint8)
    observed[0, 1, 0] = 0
    split = data.Split(x, np.full(3, -1), np.array([4, 2, 4]), observed=observed)
    wrong = x + 0.5
    wrong[0, 1, 0] = wrong[1, 2:] = 100
    found = errors.squared_errors(data.Dataset(split, split, (), "series"), np.arange(3), wrong)
    np.testing.assert_allclose(found, 0.25, rtol=1e-5)


def test_traversal_of_a_table_has_a_line_for_each_column():
    found = rows()
    figure = table.traversal(half((3,)), found, "title")
    z = found.test.x.astype(np.float64)
    order = np.argsort(-z.std(0))
    for axis, moved in zip(figure.axes, order, strict=False):
        assert axis.get_title() == f"z{moved + 1}"
        for column, line in enumerate(axis.lines):
            still = np.full(21, z[0, column] / 2)
            expected = (z[:, moved].mean() + line.get_xdata() * z[:, moved].std()) / 2 if column == moved else still
            np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-4, atol=1e-5)
            assert line.get_label() == found.features[column]


def test_tables_have_their_own_figures_and_no_decoded_latent_space(tmp_path):
    lines = [records.record(1, 10, split, {"loss": np.float32(1)}) for split in ("train", "test")]
    paths = figures.draw(tmp_path, half((3,)), rows(), lines, "title")
    names = {"loss", "pairs", "columns", "worst", "scores", "traversal", "activity", "latent"}
    assert {path.stem for path in paths} == names
    assert wall.wall(half((3,)), rows()) is None


@pytest.mark.slow
def test_comparison_draws_tables_and_series_as_figures():
    """One figure for each run, with the name of the run, and no strip of originals."""
    for model, found in ((half((3,)), rows()), (half((6, 2), sequences=True), sequences())):
        strips = compare.strips({"$a^$": model, "b": model}, found)
        assert [label for label, _ in strips] == ["$a^$", "b"]
        with Image.open(io.BytesIO(b64decode(strips[0][1].split(",")[1]))) as picture:
            assert min(picture.size) > 400


class Gaussian(nn.Module):
    """q(z|x) = N(x, 0.5^2) in each of the 40 steps, decoded as 3 z."""

    def __call__(self, x):
        return self.decode(self.encode(x))

    def posterior(self, x):
        mean = x[..., 0]
        return DiagonalNormal(mean, jnp.full_like(mean, np.log(0.5)))

    def encode(self, x):
        return self.posterior(x).mean

    def decode(self, z):
        return 3 * z[..., None]


def test_band_has_the_quantiles_of_the_decoded_posterior():
    """In the user's units, 7 + 2 x, the quantiles are those of N(7 + 6 x, 3^2)."""
    x = rng.normal(size=(20, 40, 1)).astype(np.float32)
    split, scale = data.Split(x, np.full(20, -1)), Scale(np.array([7.0]), np.array([2.0]))
    net = trained(Experiment(Gaussian(), Transition(dict, dict), dict), {}, {}, (40, 1))
    model = dataclasses.replace(net, real=True, scale=scale)
    low, high = (series.posterior_band(model, split) - (7 + 6 * x)) / 3
    assert low.mean() == pytest.approx(-1.645, abs=0.03)
    assert high.mean() == pytest.approx(1.645, abs=0.03)
    assert series.posterior_band(half((40, 1)), split) is None
    figure = series.curves(model, data.Dataset(split, split, (), "series", scale, real=True), "title")
    drawn = figure.axes[0].collections[0].get_paths()[0].vertices
    band = series.posterior_band(model, split.take(np.linspace(0, 19, 10).astype(int)))[:, 0]
    np.testing.assert_allclose([drawn[:, 1].min(), drawn[:, 1].max()], [band[0].min(), band[1].max()], rtol=1e-6)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), 7 + 2 * x[0, :, 0], rtol=1e-5)
    np.testing.assert_allclose(figure.axes[0].lines[1].get_ydata(), 7 + 6 * x[0, :, 0], rtol=1e-5)


class Shared:
    """q(z|x), an `iwae.Posterior`: the same noise for all steps, with standard deviation 0.5."""

    size = 1

    def __init__(self, mean):
        self.mean = mean

    def samples(self, eps):
        return self.mean[:, None] + 0.5 * eps

    def log_prob(self, z):
        raise NotImplementedError


class OfShared(Gaussian):
    """The same decoder with this posterior."""

    def posterior(self, x):
        return Shared(x[..., 0])


def test_band_of_a_posterior_that_is_not_diagonal_normal_has_the_quantiles_of_its_samples():
    x = rng.normal(size=(20, 40, 1)).astype(np.float32)
    net = trained(Experiment(OfShared(), Transition(dict, dict), dict), {}, {}, (40, 1))
    model = dataclasses.replace(net, real=True)
    low, high = (series.posterior_band(model, data.Split(x, np.full(20, -1))) - 3 * x) / 1.5
    assert low.mean() == pytest.approx(-1.645, abs=0.15)
    assert high.mean() == pytest.approx(1.645, abs=0.15)
    assert np.ptp(low, axis=1).max() < 1e-4


def sequences():
    """Twenty series of up to 6 steps in two dimensions; one dimension of step 1 of the first is missing."""
    x, lengths = rng.random((20, 6, 2), np.float32), np.arange(20) % 4 + 3
    x *= (np.arange(6) < lengths[:, None])[..., None]
    observed = np.ones(x.shape, np.uint8)
    x[0, 1, 1] = observed[0, 1, 1] = 0
    split = data.Split(x, np.full(20, -1), lengths, observed=observed)
    return data.Dataset(split, split, (), "series", sample_rate=100)


def test_missing_steps_are_gaps_and_shaded():
    figure = series.curves(half((6, 2), sequences=True), sequences(), "title")
    first, others = figure.axes[0], figure.axes[1:10]
    gaps = [np.isnan(line.get_ydata()).nonzero()[0].tolist() for line in first.lines]
    assert gaps == [[], [], [1], []]
    shaded = first.patches[0]
    assert shaded.get_facecolor() == to_rgba(MISSING, 0.25)
    assert (shaded.get_x(), shaded.get_width()) == pytest.approx((0.005, 0.01))  # half a step around 0.01 s
    assert not any(axis.patches for axis in others)
    assert "pink: not measured" in figure.get_suptitle()
    assert {axis.get_xlabel() for axis in figure.axes} == {"", "time in seconds"}


def test_padding_of_series_is_not_drawn():
    found = sequences()
    model = half((6, 2), sequences=True)
    for figure in (series.curves(model, found, "title"), series.extremes(model, found, "title")):
        for axis in figure.axes[:10]:
            assert len({len(line.get_xdata()) for line in axis.lines}) == 1
    best = errors.extremes(model, found, 5, 5)
    drawn = [len(axis.lines[0].get_xdata()) for axis in figure.axes[:10]]
    assert drawn == found.test.lengths[best.places].tolist()
    panels = series.interpolation(model, found, "title").axes[:21]
    chosen = np.linspace(0, 19, 10).astype(int)
    for row, (a, b) in enumerate(zip(chosen[:3], chosen[-3:], strict=True)):
        lengths = found.test.lengths[[a, b]]
        known = [int((~np.isnan(axis.lines[0].get_ydata())).sum()) for axis in panels[7 * row : 7 * row + 7]]
        assert known == [lengths[0], *5 * [lengths.max()], lengths[1]]
    pictures = series.sketch(found.test.x, found.test.lengths)
    for picture, length in zip(pictures, found.test.lengths, strict=True):
        steps = np.linspace(0, 5, 64)
        assert (picture[:, steps > length - 1] == 1).all()
        assert (picture[:, steps <= length - 1] < 1).any((0, 2)).all()


def test_sketch_is_a_curve_from_low_to_high():
    ramp = np.linspace(0, 1, 64, dtype=np.float32)[None, :, None]
    picture = series.sketch(ramp, None, height=64)[0]
    expected = np.array(to_rgb(COLOURS[0]), np.float32)
    for step in range(63):
        np.testing.assert_allclose(picture[63 - step, step], expected)
        assert (picture[: max(0, 61 - step), step] == 1).all()
        assert (picture[65 - step :, step] == 1).all()


def test_missing_steps_of_a_sketch_are_shaded():
    x = np.full((1, 64, 1), 0.5, np.float32)
    x[0, 10:20] = np.nan
    picture = series.sketch(x, np.array([40]))[0]
    shaded = np.isclose(picture, 1 - 0.25 * (1 - PINK)).all(2).all(0)
    assert shaded.nonzero()[0].tolist() == list(range(10, 20))
    assert (picture[:, [*range(10), *range(20, 40)]] < 1).any((0, 2)).all()
    assert (picture[:, 40:] == 1).all()


def faces(channels=1):
    """Images in [0, 1] of which two pixels of the first are missing."""
    x = rng.random((12, 3, 4, channels), np.float32)
    observed = np.ones(x.shape, np.uint8)
    x[0, 1, 2] = observed[0, 1, 2] = 0
    x[0, 2, 0, -1] = observed[0, 2, 0, -1] = 0
    split = data.Split(x, np.full(12, -1), observed=observed)
    return data.Dataset(split, split, ())


@pytest.mark.parametrize("channels", [1, 3])
def test_missing_pixels_have_a_colour_and_the_others_their_own(channels):
    found, model = faces(channels), dataclasses.replace(half((3, 4, channels)), real=False)
    figure = figures.images.reconstructions(model, found, "title")
    image = np.asarray(figure.axes[0].images[0].get_array())
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = mask[2, 0] = True
    np.testing.assert_allclose(image[mask], [PINK, PINK])
    np.testing.assert_allclose(image[~mask], np.broadcast_to(found.test.x[0], (3, 4, 3))[~mask], rtol=1e-6)
    decoded = np.asarray(figure.axes[10].images[0].get_array())
    np.testing.assert_allclose(decoded, found.test.x[0].squeeze() / 2, rtol=1e-6)
    assert "pink: not measured" in figure.get_suptitle()
    whole = found.each(lambda split: split._replace(observed=None))
    assert "pink" not in figures.images.reconstructions(model, whole, "title").get_suptitle()
    sheet = np.asarray(figures.walks.interpolation(model, found, "title").axes[0].images[0].get_array())
    np.testing.assert_allclose(sheet[1 + 1, 1 + 2], PINK)


def test_masked_patches_are_named_and_marked():
    class Hiding(Half):
        hidden = -1.0

    def corrupt(key, batch):
        return batch.x.at[:, 0].set(-1.0)

    base = dataclasses.replace(half((3, 4, 1)), real=False)
    hiding = dataclasses.replace(base.experiment, model=Hiding((3, 4, 1)), corrupt=corrupt)
    figure = figures.images.reconstructions(dataclasses.replace(base, experiment=hiding), faces(), "title")
    assert [axis.get_ylabel() for axis in figure.axes[::10]] == ["original", "masked", "decoded"]
    image = np.asarray(figure.axes[10].images[0].get_array())
    np.testing.assert_allclose(image[0], 4 * [PINK])
    assert not (image[1:] == PINK).all(-1).any()


def decoded_sheet(text, height, width):
    """The first 32 images of a sheet, [32, height, width, C]."""
    pixels = np.asarray(Image.open(io.BytesIO(b64decode(text.split(",")[1]))).convert("RGB"))
    return pixels[:height].reshape(height, 32, width, 3).swapaxes(0, 1)


def test_wall_of_series_has_a_row_of_values_for_each_dimension():
    found = sequences()
    shown = wall.wall(half((6, 2), sequences=True), found)
    assert (shown["size"], shown["steps"], shown["missing"]) == ([2, 6], 6, True)
    place = shown["codes"]["numbers"].index(0)
    assert shown["codes"]["lengths"][place] == found.test.lengths[0]
    image = decoded_sheet(shown["codes"]["originals"], 2, 6)[place] / 255
    np.testing.assert_allclose(image[1, 1], PINK, atol=0.51 / 255)
    np.testing.assert_allclose(image[0, :, 0], found.test.x[0, :, 0], atol=0.51 / 255)
    assert json.dumps(shown)


@dataclasses.dataclass(frozen=True)
class Watched(Trained):
    """A model that records the number of values in every call of `encode` and `decode`."""

    sizes: list[int] = dataclasses.field(default_factory=list)

    def encode(self, x, lengths=None):
        self.sizes.append(x.x.size if isinstance(x, data.Split) else x.size)
        return super().encode(x, lengths)

    def decode(self, z):
        self.sizes.append(len(z) * int(np.prod(self.shape)))
        return super().decode(z)


class Mean(nn.Module):
    """The code is the mean of an image, which is decoded as a constant image."""

    def __call__(self, x):
        return self.decode(self.encode(x))

    def encode(self, x):
        return x.mean((1, 2))

    def decode(self, z):
        return jnp.broadcast_to(z[:, None, None], (len(z), 256, 256, 3))


def test_large_images_are_evaluated_and_drawn_in_parts():
    images = np.repeat(np.arange(120, dtype=np.uint8), 256 * 256 * 3).reshape(120, 256, 256, 3)
    images[7, :10] = 255
    split = data.Split(images, np.arange(120) % 2)
    found = data.Dataset(split, split, ("a", "b"))
    plain = trained(Experiment(Mean(), Transition(dict, dict), dict), {}, {}, (256, 256, 3))
    model = Watched(**{field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)})
    extremes = errors.extremes(model, found, 1, 1)
    assert extremes.places[-1] == 7
    figures.codes_of(model, found, 10_000)
    assert max(model.sizes) <= VALUES < images.size


def test_slices_hold_a_limited_number_of_values():
    assert list(data.slices(5, 3, 6)) == [slice(0, 2), slice(2, 4), slice(4, 6)]
    assert list(data.slices(2, 100, 6)) == [slice(0, 1), slice(1, 2)]
    assert [part.start for part in data.slices(7000, 1, 3500)] == [0, 3000, 6000]  # multiples of 1,000
    assert list(data.slices(0, 3)) == []


def test_noise_does_not_depend_on_the_parts():
    def corrupt(key, batch):
        return batch.x + batch.noise(key, batch.x.shape[1:])

    base = half((3,))
    noisy = dataclasses.replace(base, experiment=dataclasses.replace(base.experiment, corrupt=corrupt))
    x = rng.normal(size=(9, 3)).astype(np.float32)
    whole = np.asarray(noisy.corrupted(x))
    np.testing.assert_array_equal(noisy.corrupted(x[5:], 5), whole[5:])
    assert np.ptp(whole - x) > 0.1
    split = data.Split(x, np.full(9, -1))
    np.testing.assert_array_equal(encoded(noisy, split, np.arange(9), corrupted=True), whole)


def test_quality_of_pixels_in_unit_range_equals_that_of_bytes():
    bytes_ = rng.integers(0, 256, (4, 12, 12, 1), dtype=np.uint8)
    y = rng.random((4, 12, 12, 1), np.float32)
    found = [
        quality.reconstruction_quality(lambda z: y[z], np.arange(4), x) for x in (bytes_, bytes_ / np.float32(255))
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("image", "nats per image, images/s, per pixel"),
        ("table", "nats per row, rows/s, per value"),
        ("series", "nats per series, series/s, per value"),
        ("counts", "nats per row, rows/s, per value"),
    ],
)
def test_nouns_of_units_follow_the_kind_of_data(kind, expected):
    assert data.worded("nats per {example}, {examples}/s, per {value}", kind) == expected


def test_progress_of_a_table_counts_rows(capsys):
    jaxae.fit("dense", rng.normal(size=(60, 4)), epochs=1, batch_size=20, hidden=(4,), latent=2)
    said = capsys.readouterr().out
    assert "rows/s" in said
    assert "image" not in said
