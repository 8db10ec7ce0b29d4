"""Sprites: images match their factors, and factors have the documented distribution."""

import jax
import numpy as np
import pytest
from scipy import stats

from conftest import new_key
from jaxae import data
from jaxae.data import sprites
from jaxae.errors import InputError

SQUARE, ELLIPSE, HEART = range(3)


@pytest.fixture(scope="module")
def drawn():
    return data.load("sprites")


@pytest.fixture(scope="module")
def some():
    """Factors of every shape and scale, and their images of 64x64 pixels, in [0, 1]."""
    rows = np.random.default_rng(0).integers(0, sprites.COUNTS, (2000, 5))
    return rows, sprites.images(rows, 64)[..., 0] / 255


def image(size=64, **factors):
    """One image; other factors have middle values."""
    names = ("shape", "scale", "rotation", "x", "y")
    row = [factors.get(name, count // 2) for name, count in zip(names, sprites.COUNTS, strict=True)]
    return sprites.images(np.array([row]), size)[0, ..., 0]


def centre(x):
    """Centre of mass of images [N, H, W], in pixels from the left and the upper edge: [N, 2]."""
    at = np.arange(x.shape[1]) + 0.5
    return np.stack([x.sum(1) @ at, x.sum(2) @ at], 1) / x.sum((1, 2))[:, None]


def test_splits_have_their_sizes_and_images_match_their_factors(drawn):
    assert drawn.classes == ("square", "ellipse", "heart")
    for split, count in ((drawn.train, 60_000), (drawn.test, 10_000)):
        assert split.x.shape == (count, 32, 32, 1)
        assert split.x.dtype == np.uint8
        assert split.y.dtype == np.int32
        assert split.lengths is None
        np.testing.assert_array_equal(split.y, split.factors[:, 0])
        for i in (0, 9_999, count - 1):
            np.testing.assert_array_equal(split.x[i], sprites.images(split.factors[i : i + 1])[0])


@pytest.mark.slow
def test_both_sizes_have_the_same_factors_at_another_resolution(drawn):
    large = data.load("sprites/64")
    assert large.shape == (64, 64, 1)
    for small, other in ((drawn.train, large.train), (drawn.test, large.test)):
        np.testing.assert_array_equal(small.factors, other.factors)
        means = other.x[:500].reshape(500, 32, 2, 32, 2).mean((2, 4))
        assert abs(small.x[:500, ..., 0] - means).max() <= 1
    assert large.fingerprint() != drawn.fingerprint()


def test_same_bits_every_time_and_factors_are_part_of_the_fingerprint(drawn):
    assert data.load("sprites").fingerprint() == drawn.fingerprint()
    without = drawn._replace(test=drawn.test._replace(factors=None))
    changed = drawn.test.factors.copy()
    changed[7, 3] ^= 1
    other = drawn._replace(test=drawn.test._replace(factors=changed))
    assert len({d.fingerprint() for d in (drawn, without, other)}) == 3


@pytest.mark.parametrize("name", ["sprites/32", "sprites/", "sprites/64/", "sprites/my.npy"])
def test_unknown_size_raises_a_one_line_error(name):
    with pytest.raises(InputError, match=rf"data={name} is unknown; use .* or sprites/64 .*, or \./{name}") as caught:
        data.load(name)
    assert "\n" not in str(caught.value)


def test_factors_and_sizes_out_of_range_raise():
    with pytest.raises(ValueError, match="must be a divisor of 64"):
        sprites.images(np.zeros((1, 5), np.int32), 48)
    for column, count in enumerate(sprites.COUNTS):
        for value in (-1, count):
            row = np.zeros((1, 5), np.int32)
            row[0, column] = value
            with pytest.raises(ValueError, match="out of range"):
                sprites.images(row)


def test_factors_are_uniform_and_independent(drawn):
    for split in (drawn.train, drawn.test):
        for column, count in zip(split.factors.T, sprites.COUNTS, strict=True):
            assert stats.chisquare(np.bincount(column, minlength=count)).pvalue > 1e-3
        for i in range(5):
            for j in range(i):
                table = np.zeros((sprites.COUNTS[i], sprites.COUNTS[j]))
                np.add.at(table, (split.factors[:, i], split.factors[:, j]), 1)
                assert stats.chi2_contingency(table).pvalue > 1e-3
        follow = np.corrcoef(split.factors[:-1].T, split.factors[1:].T)[:5, 5:]
        assert abs(follow).max() < 4.5 / np.sqrt(len(split.factors))


def test_splits_are_sampled_independently(drawn):
    """The number of test sprites that are also training sprites is that expected by chance."""
    train, test = (np.ravel_multi_index(tuple(split.factors.T), sprites.COUNTS) for split in (drawn.train, drawn.test))
    expected = 1 - (1 - 1 / np.prod(sprites.COUNTS)) ** len(train)
    assert 1 / 13 < expected < 1 / 12
    assert abs(np.isin(test, train).mean() - expected) < 4 * np.sqrt(expected / len(test))
    assert abs(np.mean(train[: len(test)] == test)) < 1e-3


def test_another_key_gives_other_factors():
    a, b = (np.asarray(sprites.sample(key, 100)) for key in jax.random.split(new_key()))
    assert (a != b).any(axis=1).sum() > 95


def test_centre_of_mass_is_at_x_and_y(some):
    """Up to a fraction of a pixel: a step of x or y is one of 64 pixels, from 16.5 to 47.5."""
    rows, x = some
    np.testing.assert_allclose(centre(x), rows[:, 3:] + 16.5, atol=0.15)
    np.testing.assert_allclose(centre(sprites.images(rows)[..., 0] / 255), (rows[:, 3:] + 16.5) / 2, atol=0.1)


def test_area_grows_with_the_square_of_scale_whatever_the_shape(some):
    rows, x = some
    scale = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])[rows[:, 1]]
    np.testing.assert_allclose(x.sum((1, 2)), np.pi * 16 * 8 * scale**2, rtol=0.04)


def test_no_position_crops_a_sprite():
    """At the extremes of x and y a sprite has the same pixels as in the middle."""
    for rows in np.indices(sprites.COUNTS[:3]).reshape(3, -1).T.reshape(6, 120, 3):
        at = [sprites.images(np.pad(rows, ((0, 0), (0, 2)), constant_values=v), 64)[..., 0] for v in (0, 16, 31)]
        middle = np.roll(at[1], (-16, -16), axis=(1, 2))
        np.testing.assert_array_equal(at[0], middle)
        np.testing.assert_array_equal(at[2], np.roll(middle, (31, 31), axis=(1, 2)))
        assert not at[1][:, [0, -1]].any()
        assert not at[1][:, :, [0, -1]].any()


def moments(x):
    """Second central moments of images [N, H, W], over the squared area: [N, 3] of xx, xy, yy (y upwards)."""
    at = np.arange(x.shape[1]) + 0.5
    right, up = (at[None] - centre(x)[:, :1]), -(at[None] - centre(x)[:, 1:])
    rows = [np.einsum("nhw,nw,nw->n", x, right, right), np.einsum("nhw,nw,nh->n", x, right, up)]
    return np.stack([*rows, np.einsum("nhw,nh,nh->n", x, up, up)], 1) / x.sum((1, 2))[:, None] ** 2


def test_long_axis_of_an_ellipse_has_the_angle_of_its_rotation():
    """The second moments of a filled ellipse are its squared semi-axes over 4, along either of them."""
    rows = np.array([[ELLIPSE, 5, k, 10, 20] for k in range(40)])
    cos, sin = np.cos(2 * np.pi * np.arange(40) / 40), np.sin(2 * np.pi * np.arange(40) / 40)
    a, b, area = 16**2 / 4, 8**2 / 4, np.pi * 16 * 8
    exact = np.stack([a * cos**2 + b * sin**2, (a - b) * cos * sin, a * sin**2 + b * cos**2], 1) / area
    np.testing.assert_allclose(moments(sprites.images(rows, 64)[..., 0] / 255), exact, atol=0.01 * a / area)


@pytest.mark.parametrize(("shape", "period"), [(SQUARE, 10), (ELLIPSE, 20), (HEART, 40)])
def test_rotations_repeat_after_the_period_of_the_shape(shape, period):
    """They do not repeat earlier."""
    start = image(shape=shape, rotation=3, scale=5).astype(float)
    for step in range(1, 40):
        change = abs(image(shape=shape, rotation=(3 + step) % 40, scale=5) - start).sum() / start.sum()
        assert change < 0.01 if step % period == 0 else change > 0.05


@pytest.mark.parametrize("shape", [SQUARE, ELLIPSE, HEART])
def test_ten_steps_are_a_quarter_turn_anticlockwise(shape):
    for scale in range(6):
        for rotation in (0, 7, 15):
            here = image(shape=shape, scale=scale, rotation=rotation)[16:49, 16:49]
            turned = image(shape=shape, scale=scale, rotation=rotation + 10)[16:49, 16:49]
            assert abs(np.rot90(here).astype(int) - turned).sum() < 0.01 * turned.sum(dtype=int)


def test_heart_at_rotation_0_has_its_tip_below():
    """Widest above the centre, narrow below, and symmetric."""
    heart = image(shape=HEART, scale=5, rotation=0)[16:49, 16:49] / 255
    np.testing.assert_array_equal(heart, heart[:, ::-1])
    filled = np.flatnonzero(heart.sum(1))
    width = heart.sum(1)[filled[0] : filled[-1] + 1]
    assert width.argmax() < len(width) / 2
    assert width[-1] < 3
    notch = heart[filled[0] : filled[0] + 2, 16]
    assert notch[0] == 0
    assert heart.max() == 1


def test_edges_are_antialiased():
    """Grey levels are those of 4 x 4 sample points, or of four times as many at half the size."""
    for size, points in ((64, 16), (32, 64)):
        rows = np.random.default_rng(1).integers(0, sprites.COUNTS, (500, 5))
        levels = np.unique(sprites.images(rows, size))
        assert set(levels) <= {(510 * k + points) // (2 * points) for k in range(points + 1)}
        assert len(levels) > 0.9 * (points + 1)
