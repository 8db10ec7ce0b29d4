"""`scripts/inpainting.py` on small images, without its training."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from conftest import script
from jaxae import data

inpainting = script("inpainting")
X = data.load("digits").test.x[:20]


def test_half_of_the_pixels_are_missing_and_the_others_are_in_the_unit_interval():
    pixels = inpainting.half(X, 1)
    missing = np.isnan(pixels)
    assert abs(missing.mean() - 0.5) < 4 * np.sqrt(0.25 / missing.size)
    np.testing.assert_allclose(pixels[~missing], X[..., 0][~missing] / 255, rtol=1e-6)
    np.testing.assert_array_equal(inpainting.half(X, 1), pixels)
    assert (np.isnan(inpainting.half(X, 2)) != missing).mean() > 0.4


def test_rmse_is_over_the_missing_pixels():
    x = np.array([[0.1, 0.2], [0.3, 0.4]])
    missing = np.array([[np.nan, 0.2], [np.nan, 0.4]])
    filled = np.array([[0.4, 9.0, 0.7, 9.0]])
    assert inpainting.rmse(x, missing, filled) == pytest.approx(np.sqrt((0.3**2 + 0.4**2) / 2))


def test_methods_are_compared_on_the_removed_pixels_of_test_images(monkeypatch, tmp_path, capsys):
    """The model in place of `miwae` knows the images."""
    given = {}

    def fit(name, train, **options):
        given.update(options, name=name, train=train)
        found = SimpleNamespace(x=X[..., 0] / np.float32(255), ess=np.array([2.0, 8.0, 4.0]))
        return SimpleNamespace(impute=lambda test, samples: found, history=[{"loss": 1.0}, {"loss": -7.0}])

    monkeypatch.setattr(inpainting.jaxae, "fit", fit)
    inpainting.main(inpainting.Options(runs=tmp_path, mnist=Path("digits"), images=20, neighbours=50))
    lines = capsys.readouterr().out.splitlines()
    errors = {name: float(value) for name, value in (line.strip("| ").split(" | ") for line in lines[:4])}
    assert (np.isnan(given["train"]).mean().round(1), given["name"]) == (0.5, "miwae")
    removed = np.isnan(given["test"])
    assert errors["zero"] == pytest.approx(np.sqrt(np.mean((X[..., 0][removed] / 255) ** 2)), abs=1e-4)
    means = np.nanmean(given["train"], axis=0)[None].repeat(20, 0)
    assert errors["mean"] == pytest.approx(np.sqrt(np.mean((X[..., 0] / 255 - means)[removed] ** 2)), abs=1e-4)
    assert 0 < errors["5 neighbours"] < errors["zero"]
    assert errors["miwae"] == 0
    assert lines[4].endswith("7.00 nats; median ess 4.0")
    with Image.open(tmp_path / "inpainting.png") as picture:
        width, height = picture.size
    assert width * 6 == height * 10  # originals, those with missing pixels, and four methods
