"""Pictures as users have them: orientation, transparency, 16 bits, sizes, damaged files, folders of splits."""

import numpy as np
import pytest
from PIL import Image

from conftest import MNIST
from jaxae import data
from jaxae.data import pictures
from jaxae.errors import InputError

rng = np.random.default_rng(0)
PIXELS = rng.integers(0, 256, (12, 9, 6, 3)).astype(np.uint8)


def save(folder, images, name="{:02}.png", **options):
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / name.format(i), **options)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_rotated_by_their_exif_orientation(tmp_path, orientation):
    """The stored pixels give the picture when they are turned by the EXIF orientation."""
    inverse = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    note = Image.Exif()
    note[0x0112] = orientation
    save(tmp_path / "p", [np.ascontiguousarray(inverse(image)) for image in PIXELS], exif=note)
    found = pictures.decode(sorted((tmp_path / "p").iterdir()))
    np.testing.assert_array_equal(found.x, PIXELS)
    assert found.notes == (() if orientation == 1 else ("12 pictures rotated (EXIF orientation)",))


@pytest.mark.parametrize(("background", "behind"), [("white", 255), ("black", 0)])
def test_transparent_pixels_are_composed_onto_the_background(tmp_path, background, behind):
    """Black ink on transparent paper: everything visible is in the alpha channel."""
    alpha = PIXELS[..., :1]
    save(tmp_path / "p", np.concatenate([np.zeros_like(PIXELS), alpha], axis=3))
    if background == "black":
        with pytest.raises(InputError, match="all pixels of all images are 0: there is nothing to learn"):
            data.load(str(tmp_path / "p"), background=background)
        return
    found = data.load(str(tmp_path / "p"), background=background)
    x = np.concatenate([found.train.x, found.test.x])[..., 0]
    expected = np.round(behind * (1 - alpha[..., 0] / 255.0))
    order = [np.flatnonzero((np.abs(expected - image) <= 1).all((1, 2)))[0] for image in x.astype(float)]
    assert sorted(order) == list(range(12))
    assert f"composited onto {background}" in data.summary(found)


def test_16_bits_become_8(tmp_path):
    deep = rng.integers(0, 65536, (12, 9, 6)).astype(np.uint16)
    save(tmp_path / "p", deep)
    found = pictures.decode(sorted((tmp_path / "p").iterdir()))
    np.testing.assert_array_equal(found.x[..., 0], np.round(deep / 257))
    assert found.x.shape[3] == 1


def test_resizing_is_antialiased():
    """A checkerboard of single pixels becomes grey."""
    board = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8))
    small = np.asarray(pictures._resized(board, pictures.Layout(8)))
    assert np.abs(small[2:-2, 2:-2].astype(float) - 127.5).max() < 8


@pytest.mark.parametrize(("fit", "left"), [("crop", 255), ("pad", 0), ("stretch", 0)])
def test_pictures_of_other_shapes_become_square(tmp_path, fit, left):
    """Black columns on both sides of a wide white picture."""
    wide = np.zeros((20, 60), np.uint8)
    wide[:, 20:40] = 255
    save(tmp_path / "p", [wide] * 12)
    found = pictures.decode(sorted((tmp_path / "p").iterdir()), pictures.Layout(20, fit, "black"))
    assert found.x.shape[1:] == (20, 20, 1)
    assert abs(int(found.x[0, 10, 1, 0]) - left) < 30


def test_pictures_of_different_sizes_name_the_fix(tmp_path):
    save(tmp_path / "p", [PIXELS[0], PIXELS[1][:5]])
    with pytest.raises(InputError, match="resize them, for example by size=64"):
        data.load(str(tmp_path / "p"))


def test_few_damaged_pictures_are_left_out_with_a_note(tmp_path):
    save(tmp_path / "p", PIXELS)
    (tmp_path / "p" / "05.png").write_bytes((tmp_path / "p" / "05.png").read_bytes()[:99])
    found = data.load(str(tmp_path / "p"))
    assert len(found.train.x) + len(found.test.x) == 11
    assert found.notes == ("1 damaged picture left out (05.png)",)
    (tmp_path / "p" / "06.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"0[56].png cannot be read"):
        data.load(str(tmp_path / "p"))


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "TESTING")])
def test_train_and_test_folders_are_splits_not_classes(tmp_path, names):
    for name, part in zip(names, (PIXELS[:8], PIXELS[8:]), strict=True):
        save(tmp_path / "flat" / name, part)
        save(tmp_path / "classes" / name / "a", part[::2])
        save(tmp_path / "classes" / name / "b", part[1::2])
    flat = data.load(str(tmp_path / "flat"))
    np.testing.assert_array_equal(flat.train.x, PIXELS[:8])
    np.testing.assert_array_equal(flat.test.x, PIXELS[8:])
    assert flat.classes == ()
    classes = data.load(str(tmp_path / "classes"))
    assert classes.classes == ("a", "b")
    np.testing.assert_array_equal(classes.test.x, PIXELS[[8, 10, 9, 11]])
    assert classes.test.y.tolist() == [0, 0, 1, 1]


def test_hidden_files_are_ignored_and_others_counted(tmp_path):
    save(tmp_path / "p" / "cat", PIXELS)
    for name in ("cat/.DS_Store", "cat/Thumbs.db", "cat/._00.png", "cat/notes.txt", "cat/more.txt", "cat/a.xml"):
        (tmp_path / "p" / name).write_bytes(b"x")
    (tmp_path / "p" / "__MACOSX").mkdir()
    (tmp_path / "p" / ".git").mkdir()
    found = data.load(str(tmp_path / "p"))
    assert found.classes == ("cat",)
    assert found.notes == ("files left out: 1 of .xml, 2 of .txt",)


def test_folders_of_splits_need_training_pictures(tmp_path):
    save(tmp_path / "p" / "test", PIXELS)
    (tmp_path / "p" / "train").mkdir()
    with pytest.raises(InputError, match="its folder of training examples is empty"):
        data.load(str(tmp_path / "p"))
    save(tmp_path / "q" / "test", PIXELS)
    save(tmp_path / "q" / "val", PIXELS)
    with pytest.raises(InputError, match="has test and val, but no train"):
        data.load(str(tmp_path / "q"))


def test_folders_below_the_class_folders_are_left_out_with_a_note(tmp_path):
    save(tmp_path / "p" / "a", PIXELS)
    save(tmp_path / "p" / "b" / "deep", PIXELS)
    assert data.load(str(tmp_path / "p")).notes == ("files left out: 1 below the class folders",)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"background": "reddish"}, "background=reddish is not a colour, such as white"),
        ({"fit": "pad"}, "fit=pad has no effect without size"),
    ],
)
def test_invalid_options_of_pictures_raise(tmp_path, fields, says):
    save(tmp_path / "p", PIXELS)
    with pytest.raises(InputError, match=says):
        data.load(str(tmp_path / "p"), **fields)


def test_masks_of_zeros_and_ones_raise(tmp_path):
    save(tmp_path / "p", (PIXELS[..., 0] > 128).astype(np.uint8))
    with pytest.raises(InputError, match="bytes from 0 to 1 are almost black"):
        data.load(str(tmp_path / "p"))
    assert data.load(str(tmp_path / "p"), kind="image").train.x.max() == 1


PHOTOS = MNIST.parent / "photos" / "pictures"


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="no photographs in JAXAE_DATA")
def test_photographs_have_classes_and_a_note_on_a_damaged_one():
    found = data.load(str(PHOTOS), size=48)
    assert (len(found.train.x) + len(found.test.x), found.shape) == (60, (48, 48, 3))
    assert found.classes == ("Häuser und Blüten", "cat", "things")
    assert "1 damaged picture left out (broken.jpg)" in found.notes
