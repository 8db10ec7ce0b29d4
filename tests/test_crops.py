"""Random crops of pictures of any size."""

import tarfile

import jax
import numpy as np
import pytest
from PIL import Image
from scipy.stats import chisquare

import jaxae
from conftest import equal, new_key
from jaxae import data
from jaxae.data import crops
from jaxae.errors import InputError

rng = np.random.default_rng(0)
SIZES = {"a": (9, 7), "b": (4, 12), "c": (5, 4), "d": (13, 8)}  # height, width
PICTURES = {name: rng.integers(0, 256, (*size, 3)).astype(np.uint8) for name, size in SIZES.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of four sizes, those of split/ with the last one in test/."""
    root = tmp_path_factory.mktemp("pictures")
    for part in ("all", "split/train", "split/test"):
        (root / part).mkdir(parents=True)
    for name, picture in PICTURES.items():
        Image.fromarray(picture).save(root / "all" / f"{name}.png")
        Image.fromarray(picture).save(root / "split" / ("test" if name == "d" else "train") / f"{name}.png")
    return root


def windows(picture, size=4):
    h, w = (side - size + 1 for side in picture.shape[:2])
    return {picture[i : i + size, j : j + size].tobytes() for i in range(h) for j in range(w)}


def test_crops_are_uniform_over_pictures_and_over_places(folder):
    found = data.load(str(folder / "split"), size=4, fit="random")
    generator = found.train.x.generator
    keys = jax.random.split(new_key(), 3000)
    images = np.asarray(jax.jit(jax.vmap(generator.draw, in_axes=(0, None)))(keys, generator.arrays))
    assert (images.shape, images.dtype) == ((3000, 4, 4, 3), np.uint8)
    places = {name: windows(PICTURES[name]) for name in "abc"}
    drawn = [next(name for name, known in places.items() if image.tobytes() in known) for image in images]
    assert chisquare([drawn.count(name) for name in "abc"]).pvalue > 1e-4
    of_a = [image.tobytes() for image, name in zip(images, drawn, strict=True) if name == "a"]
    counts = [of_a.count(window) for window in places["a"]]
    assert len(counts) == 24
    assert chisquare(counts).pvalue > 1e-4


def test_tiles_are_a_centred_grid():
    picture = PICTURES["d"]  # 13 x 8: three tiles high, one pixel over at the bottom
    found = crops.tiles(picture, 4)
    expected = [picture[i : i + 4, j : j + 4] for i in (0, 4, 8) for j in (0, 4)]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(crops.tiles(PICTURES["a"], 4)[0], PICTURES["a"][:4, 1:5])


def test_test_split_is_the_tiles_of_other_pictures(folder):
    """They are those in test/, a tenth or a number of all pictures, those of another folder, or training pictures."""
    expected = crops.tiles(PICTURES["d"], 4)
    found = data.load(str(folder / "split"), size=4, fit="random")
    np.testing.assert_array_equal(found.test.x, expected)
    assert len(found.train.x) == 2 + 3 + 1  # as many as tiles
    other = data.load(str(folder / "split" / "train"), size=4, fit="random", test=str(folder / "split" / "test"))
    np.testing.assert_array_equal(other.test.x, expected)
    assert other.fingerprint() == found.fingerprint()
    held = data.load(str(folder / "all"), size=4, fit="random", test="1", valid="1")
    total = sum(len(crops.tiles(picture, 4)) for picture in PICTURES.values())
    assert len(held.train.x) + len(held.test.x) + len(held.valid.x) == total
    inside = [any(image.tobytes() in windows(picture) for picture in PICTURES.values()) for image in held.test.x]
    assert all(inside)
    every = data.load(str(folder / "all"), size=4, fit="random", test="0")
    assert len(every.test.x) == len(every.train.x) == total


def test_small_pictures_are_enlarged_and_a_tar_is_read_as_a_folder(folder, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(folder / "split", arcname="")
    a, b = (data.load(str(path), size=8, fit="random") for path in (folder / "split", tmp_path / "x.tar"))
    assert a.fingerprint() == b.fingerprint()
    sizes = a.train.x.generator.arrays.sizes
    assert sizes.tolist() == [[10, 8], [8, 24], [10, 8]]
    assert a.shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"size": 0}, "fit=random needs the width of the crops in pixels; set size=64"),
        (
            {"target_pattern": "x"},
            "target_pattern=x has no effect on random crops, which are images without classes; omit it",
        ),
        ({"binarize": "static"}, "binarize=static"),
        ({"window": 5}, "window=5 has no effect on random crops"),
        ({"kind": "table"}, "kind=table has no effect on random crops"),
        ({"test": "4"}, "test=4 holds out all 4 pictures; use fewer"),
        ({"data": "digits"}, "fit=random needs a folder or a tar of pictures, not data=digits; omit it"),
    ],
)
def test_options_without_effect_raise(folder, fields, says):
    options = {"data": str(folder / "all"), "size": 4, "fit": "random", **fields}
    with pytest.raises(InputError, match=says):
        data.load(options.pop("data"), **options)


@pytest.mark.slow
def test_run_on_random_crops_resumes_bit_for_bit(folder, tmp_path):
    fields = {"size": 4, "fit": "random", "hidden": (), "latent": 2, "batch_size": 3, "progress": False}
    source = str(folder / "all")
    whole = jaxae.fit("dense", source, epochs=4, workdir=tmp_path / "whole", **fields)
    jaxae.fit("dense", source, epochs=2, workdir=tmp_path / "part", **fields)
    resumed = jaxae.fit("dense", source, epochs=4, workdir=tmp_path / "part", **fields)
    assert all(map(equal, *map(jax.tree.leaves, (whole.params, resumed.params))))
    again = jaxae.load(tmp_path / "part")
    assert again.encode(PICTURES["d"][None, :4, :4]).shape == (1, 2)
