import gzip
import io
import json
import os
import socket
import sys
import urllib.request
import zipfile

import numpy as np
import pytest
from PIL import Image

from conftest import MNIST
from jaxae import data
from jaxae.data import cache, files, idx, rows, tfds
from jaxae.data.splits import RawDataset
from jaxae.errors import InputError

rng = np.random.default_rng(0)
GREY = rng.integers(0, 256, (30, 5, 4), dtype=np.uint8)
COLOUR = rng.integers(0, 256, (30, 5, 4, 3), dtype=np.uint8)


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def everything(dataset):
    """Images of both splits, sorted."""
    x = np.concatenate([dataset.train.x, dataset.test.x])
    return x[np.lexsort(x.reshape(len(x), -1).T)]


def same_images(dataset, x):
    x = x if x.ndim == 4 else x[..., None]
    np.testing.assert_array_equal(everything(dataset), x[np.lexsort(x.reshape(len(x), -1).T)])


def write_folder(folder, images):
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03}.png")


def test_digits_are_resized_and_stratified():
    from sklearn.datasets import load_digits

    d = data.load("digits")
    assert d.shape == (28, 28, 1)
    assert d.train.x.dtype == d.test.x.dtype == np.uint8
    assert len(d.train.x) + len(d.test.x) == 1797
    counts = [np.bincount(part.y, minlength=10) for part in (d.train, d.test)]
    assert np.abs(counts[1] - sum(counts) / 5).max() < 1  # stratified: a fifth of each class
    original = load_digits().images[0] * 255 / 16  # the first digit is a training example
    shrunk = np.asarray(Image.fromarray(d.train.x[0, ..., 0]).resize((8, 8), Image.Resampling.BOX), np.float64)
    assert np.corrcoef(original.ravel(), shrunk.ravel())[0, 1] > 0.97
    assert d.fingerprint() == data.load("digits").fingerprint()


def test_cache_is_used_and_a_damaged_file_is_replaced(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXAE_CACHE", str(tmp_path))
    made = []

    def make():
        made.append(1)
        parts = {"train": data.Split(COLOUR[:20], y[:20]), "valid": data.Split(COLOUR[20:], y[20:])}
        return RawDataset(parts, ("only",), notes=("a note",), names=tuple(map(str, range(30))))

    y = np.zeros(30, np.int32)
    first, second = (cache.cached("key", make) for _ in range(2))
    assert len(made) == 1
    assert second[1:] == first[1:]
    for name, split in first.splits.items():
        np.testing.assert_array_equal(second.splits[name].x, split.x)
        np.testing.assert_array_equal(second.splits[name].y, split.y)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-50])
    assert cache.cached("key", make)[1:] == first[1:]
    assert len(made) == 2
    cache.cached("another key", make)
    assert len(made) == 3


def test_cache_that_cannot_be_written_only_logs_a_warning(monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXAE_CACHE", str(tmp_path / "file"))
    raw = cache.cached("key", lambda: RawDataset({"train": data.Split(COLOUR, np.zeros(30, np.int32))}))
    np.testing.assert_array_equal(raw.splits["train"].x, COLOUR)
    assert "not cached" in caplog.text


def test_hold_out_is_stratified_and_fixed():
    y = np.array([0] * 40 + [1] * 20 + [2] * 5)
    x = np.arange(65).reshape(65, 1, 1, 1).astype(np.uint8)
    d = data.hold_out(x, y, ("a", "b", "c"))
    assert np.bincount(d.test.y).tolist() == [4, 2]
    assert sorted([*d.train.x.ravel(), *d.test.x.ravel()]) == list(range(65))
    assert d.fingerprint() == data.hold_out(x, y, ()).fingerprint()
    assert len(data.hold_out(x[:2], y[:2], ()).test.x) == 1
    assert len(data.hold_out(x[:60], np.arange(60) % 20, ()).test.x) == 6  # also with three examples of each class


@pytest.mark.slow
def test_npy_above_a_gigabyte_is_memory_mapped(tmp_path):
    """Its splits equal those in memory."""
    count = rows.LARGE // 4096 + 1
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, (count, 64, 64))
    x[::1000] = rng.integers(0, 256, (64, 64), dtype=np.uint8)
    x.flush()
    mapped = data.load(str(tmp_path / "x.npy"))
    assert isinstance(mapped.train.x, rows.Rows)
    assert isinstance(mapped.test.x, rows.Rows)
    assert mapped.fingerprint() == data.hold_out(x[..., None], np.full(count, -1, np.int32), ()).fingerprint()
    (tmp_path / "x.npy").unlink()


@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
def test_npy_of_uint8_and_of_floats_give_the_same_images(tmp_path, images):
    np.save(tmp_path / "a.npy", images)
    np.save(tmp_path / "b.npy", (images / 255).astype(np.float32))
    for name in ("a.npy", "b.npy"):
        d = data.load(str(tmp_path / name))
        same_images(d, images)
        assert (d.train.y == -1).all()
        assert d.classes == ()
        assert len(d.test.x) == 3


def test_npz_is_read_with_and_without_classes(tmp_path):
    y = np.arange(30) % 3
    np.savez(tmp_path / "a.npz", x=GREY, y=y)
    np.savez_compressed(tmp_path / "b.npz", x=GREY)
    labelled, plain = (data.load(str(tmp_path / name)) for name in ("a.npz", "b.npz"))
    same_images(labelled, GREY)
    same_images(plain, GREY)
    assert labelled.classes == ("0", "1", "2")
    for part in (labelled.train, labelled.test):
        for image, label in zip(part.x, part.y, strict=True):
            assert y[np.flatnonzero((GREY[..., None] == image).all((1, 2, 3)))[0]] == label


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_idx_files_are_read_alone_with_labels_and_as_a_folder_of_four(tmp_path, packed):
    write = gzip.compress if packed else bytes
    end = ".gz" if packed else ""
    y = np.arange(30) % 2
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte{end}").write_bytes(write(idx_bytes(GREY)))
        (tmp_path / f"{part}-labels-idx1-ubyte{end}").write_bytes(write(idx_bytes(y)))
    one = data.load(str(tmp_path / f"t10k-images-idx3-ubyte{end}"))
    same_images(one, GREY)
    assert sorted([*one.train.y, *one.test.y]) == sorted(y)
    four = data.load(str(tmp_path))
    np.testing.assert_array_equal(four.train.x[..., 0], GREY)
    np.testing.assert_array_equal(four.test.y, y)
    (tmp_path / "alone").write_bytes(write(idx_bytes(GREY)))
    assert data.load(str(tmp_path / "alone")).classes == ()


def test_folder_of_images_is_read_with_and_without_classes(tmp_path):
    write_folder(tmp_path / "flat", GREY)
    flat = data.load(str(tmp_path / "flat"))
    same_images(flat, GREY)
    assert flat.classes == ()
    write_folder(tmp_path / "sorted" / "cat", COLOUR[:20])
    write_folder(tmp_path / "sorted" / "dog", COLOUR[20:])
    (tmp_path / "sorted" / "notes.txt").write_text("not an image")
    classes = data.load(str(tmp_path / "sorted"))
    same_images(classes, COLOUR)
    assert classes.classes == ("cat", "dog")
    assert np.bincount(classes.train.y).tolist() == [18, 9]
    Image.fromarray(COLOUR[0]).save(tmp_path / "flat" / "zz.png")  # a changed folder is decoded again
    assert data.load(str(tmp_path / "flat")).shape == (5, 4, 3)


def bad_inputs(folder):
    """Every kind of bad input: (value of `data`, expected part of the error)."""
    folder.mkdir()

    def file(name, content):
        (folder / name).write_bytes(content)
        return str(folder / name)

    def npy(name, array, **options):
        np.save(folder / name, array, **options)
        return str(folder / name)

    os.mkfifo(folder / "pipe.npy")
    write_folder(folder / "program", GREY[:2])
    (folder / "program" / "000.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 5\n%%EndComments\nshowpage\n"
    )
    with zipfile.ZipFile(folder / "text.npz", "w") as archive:
        archive.writestr("x.npy", "hello")
    (folder / "loop").mkdir()
    (folder / "loop" / "a.png").symlink_to("a.png")
    (folder / "empty").mkdir()
    write_folder(folder / "sizes", [GREY[0], GREY[1, :3]])
    write_folder(folder / "broken", GREY[:2])
    (folder / "broken" / "000.png").write_bytes((folder / "broken" / "001.png").read_bytes()[:60])
    write_folder(folder / "mixed" / "class", GREY[:2])
    Image.fromarray(GREY[0]).save(folder / "mixed" / "loose.png")
    raw, packed = idx_bytes(GREY), gzip.compress(idx_bytes(GREY))
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 0xFF
    np.savez(folder / "pickled.npz", x=np.array([{}, 1], dtype=object))
    np.savez(folder / "nothing.npz", pictures=GREY)
    np.savez(folder / "labels.npz", x=GREY, y=np.arange(29))
    np.savez(folder / "whole.npz", x=GREY)
    good = bytearray((folder / "whole.npz").read_bytes())
    np.savez_compressed(folder / "packed.npz", x=GREY)
    packed_npz = bytearray((folder / "packed.npz").read_bytes())
    packed_npz[200] ^= 0xFF
    huge = (
        np.lib.format.magic(1, 0)
        + b"\x76\x00"
        + b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 28, 28), }"
    )
    huge = huge.ljust(127) + b"\n"
    (folder / "link").mkdir()
    (folder / "link" / "a.png").symlink_to(folder / "nowhere.png")
    np.savez(folder / "far.npz", x=np.eye(2)[np.arange(10_001) % 2][:, None], y=np.arange(10_001))
    nan = np.full((3, 4, 4), np.nan, np.float32)
    return {
        "pipe": (str(folder / "pipe.npy"), "is neither a file nor a folder"),
        "a program as a picture": (str(folder / "program"), "cannot be read"),
        "npz of text": (str(folder / "text.npz"), "truncated or damaged"),
        "link to itself": (str(folder / "loop"), "cannot be read"),
        "IDX without images": (file("none", raw[:4] + bytes(4) + b"\xff" * 8), "has no examples"),
        "unknown name": ("mnits", "did you mean mnist"),
        "unknown configuration": ("emnist/leters", "did you mean emnist/letters"),
        "no such file or data set": ("qqqqqqqqqq", "no such file or data set"),
        "no name": ("", "data='' is empty"),
        "missing file": (str(folder / "none.npy"), "no such file"),
        "truncated npy": (file("cut.npy", (folder / npy("cut.npy", GREY)).read_bytes()[:-9]), "truncated"),
        "truncated npz": (file("cut.npz", (folder / "whole.npz").read_bytes()[:-99]), "truncated"),
        "empty file": (file("empty.npy", b""), "truncated"),
        "truncated IDX": (file("cut", raw[:-1]), "bytes where the header says 600"),
        "truncated IDX header": (file("head", raw[:9]), "ends within its header"),
        "IDX with trailing bytes": (file("long", raw + b"x"), "more bytes"),
        "truncated gzip": (file("cut.gz", packed[:-20]), "truncated or damaged"),
        "corrupt gzip": (file("bad.gz", bytes(damaged)), "damaged"),
        "wrong magic number": (file("magic", b"\0\0\x0d\x03" + raw[4:]), "magic number 00000d03"),
        "labels instead of images": (file("labels", idx_bytes(np.arange(9))), "magic number 00000801"),
        "sizes differ": (str(folder / "sizes"), "001.png has 4x3 pixels, but 000.png has 4x5"),
        "truncated picture": (str(folder / "broken"), "000.png cannot be read"),
        "picture beside classes": (str(folder / "mixed"), "beside folders"),
        "folder without images": (str(folder / "empty"), "has no pictures"),
        "NaN": (npy("nan.npy", nan), "all pixels are NaN"),
        "infinite": (npy("inf.npy", np.full((3, 4, 4), np.inf)), "has infinite values; replace them"),
        "text": (npy("words.npy", np.array(["a", "b"])), "x has dtype <U1; convert it to numbers"),
        "empty set": (npy("none.npy.npy", GREY[:0]), "has no examples"),
        "channels first": (npy("first.npy", COLOUR.transpose(0, 3, 2, 1)), "pass x.transpose(0, 2, 3, 1)"),
        "all black": (npy("black.npy", 0 * GREY), "all pixels of all images are 0"),
        "bytes of 0 and 1": (npy("bits.npy", GREY // 128), "almost black in 0 to 255; pass x * 255"),
        "divided twice": (npy("twice.npy", GREY / 255 / 255), "were they divided by 255 twice?"),
        "a column without entries": (npy("column.npy", np.array([[1, np.nan], [2, np.nan]])), "has no entry"),
        "one image": (npy("one.npy", GREY[:1]), "at least 2"),
        "wrong rank": (npy("rank.npy", GREY[None, None, None]), "not [N, H, W]"),
        "two channels": (npy("two.npy", COLOUR[..., :2]), "C = 1, 3 or 4"),
        "pickled npy": (npy("pickled.npy", np.array([{}, 1], dtype=object), allow_pickle=True), "pickled"),
        "text as npy": (file("text.npy", b"hello, not numbers at all"), "is not a .npy file"),
        "zip as npy": (file("zip.npy", bytes(good)), "is not a .npy file"),
        "npy as npz": (file("npy.npz", (folder / "rank.npy").read_bytes()), "is not a .npz file"),
        "corrupt npz": (file("bad.npz", bytes(packed_npz)), "truncated or damaged"),
        "npy with a huge declared shape": (file("huge.npy", huge), "cannot be read"),
        "IDX with a huge declared shape": (file("vast", raw[:4] + b"\xff" * 12), "bytes where the header says"),
        "gzip IDX with a huge declared shape": (file("vast.gz", gzip.compress(raw[:4] + b"\xff" * 12)), "header says"),
        "more labels than classes": (str(folder / "far.npz"), "more than 10,000; pass classes or omit y"),
        "dangling link": (str(folder / "link"), "cannot be read"),
        "no such user": ("~nosuchuser/x.npy", "cannot be a path"),
        "overlong name": ("x" * 300, "cannot be a path"),
        "configuration of a set that has none": ("mnist/zzz", "did you mean mnist"),
        "pickled npz": (str(folder / "pickled.npz"), "pickled"),
        "npz without x": (str(folder / "nothing.npz"), "has no array of examples (found: pictures)"),
        "npz with too few classes": (str(folder / "labels.npz"), "y has shape (29,), not (30,)"),
    }


def test_bad_inputs_raise_one_line_errors(tmp_path):
    for name, (given, says) in bad_inputs(tmp_path / "bad").items():
        with pytest.raises(InputError) as caught:
            data.load(given)
        message = str(caught.value)
        assert says in message, name
        assert "\n" not in message, name


def test_nothing_is_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    np.save(tmp_path / "bomb.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "bomb.npz", x=np.array([Bomb()], dtype=object))
    for name in ("bomb.npy", "bomb.npz"):
        with pytest.raises(InputError, match="never loaded"):
            data.load(str(tmp_path / name))
    assert not (tmp_path / "exploded").exists()


Y = (np.arange(30) % 10).astype(np.uint8)
LARGE = rng.integers(0, 256, (30, 28, 28), dtype=np.uint8)
MNIST_PARTS = {
    f"{part}-{kind}-ubyte.gz": gzip.compress(idx_bytes(array))
    for part in ("train", "t10k")
    for kind, array in (("images-idx3", LARGE), ("labels-idx1", Y))
}


def emnist_zip():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for part in ("train", "test"):
            for kind, array in (("images-idx3", LARGE), ("labels-idx1", Y)):
                archive.writestr(f"gzip/emnist-digits-{part}-{kind}-ubyte.gz", gzip.compress(idx_bytes(array)))
    return packed.getvalue()


EMNIST_PARTS = {"gzip.zip": emnist_zip()}


@pytest.fixture
def accept(monkeypatch):
    """Register the checksums of these files with TFDS in place of those of the original archives."""
    from tensorflow_datasets.core.download import checksums

    def expect(folder, url, parts):
        folder.mkdir()
        infos = {}
        for name, content in parts.items():
            (folder / name).write_bytes(content)
            info = checksums.compute_url_info(folder / name)
            infos[url(name)] = checksums.UrlInfo(size=info.size, checksum=info.checksum, filename=name)
        monkeypatch.setattr(checksums, "get_all_url_infos", lambda: infos)

    return expect


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist", "emnist/digits"])
def test_mnist_family_is_prepared_without_tensorflow_and_tfds_reads_it(name, tmp_path, accept):
    import tensorflow_datasets
    from tensorflow_datasets.image_classification import mnist

    base = getattr(mnist, tfds.FAMILY[name.split("/")[0]]).URL
    parts = EMNIST_PARTS if "/" in name else MNIST_PARTS
    accept(tmp_path / "manual", lambda file: base if "/" in name else base + file, parts)
    ours = data.load(name, str(tmp_path / "tfds"), str(tmp_path / "manual"))
    same_images(ours, np.concatenate([LARGE, LARGE]))
    theirs = tensorflow_datasets.builder(name, data_dir=tmp_path / "tfds")
    for split, part in (("train", ours.train), ("test", ours.test)):
        examples = list(theirs.as_data_source(split=split))
        np.testing.assert_array_equal([e["image"] for e in examples], part.x)
        np.testing.assert_array_equal([e["label"] for e in examples], part.y)
    assert theirs.info.splits["train"].num_examples == 30
    assert ours.classes == tuple(theirs.info.features["label"].names)
    assert "tensorflow" not in sys.modules
    (tmp_path / "manual").rename(tmp_path / "gone")  # prepared once
    assert data.load(name, str(tmp_path / "tfds")).fingerprint() == ours.fingerprint()


def test_wrong_checksum_and_wrong_manual_dir_raise(tmp_path):
    (tmp_path / "manual").mkdir()
    for name, content in MNIST_PARTS.items():
        (tmp_path / "manual" / name).write_bytes(content)
    with pytest.raises(InputError, match="wrong checksum"):
        data.load("mnist", str(tmp_path / "tfds"), str(tmp_path / "manual"))
    with gzip.open(tmp_path / "manual" / "train-images-idx3-ubyte.gz") as whole:
        (tmp_path / "manual" / "train-images-idx3-ubyte.gz").write_bytes(whole.read()[:100])
    with pytest.raises(InputError, match="wrong checksum"):
        data.load("mnist", str(tmp_path / "tfds"), str(tmp_path / "manual"))
    (tmp_path / "manual" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match=r"lacks t10k-labels-idx1-ubyte\.gz; download from https"):
        data.load("mnist", str(tmp_path / "tfds"), str(tmp_path / "manual"))
    with pytest.raises(InputError, match="manual_dir=.*nowhere: there is no such folder"):
        data.load("mnist", str(tmp_path / "tfds"), str(tmp_path / "nowhere"))
    assert not (tmp_path / "tfds" / "mnist" / "3.0.1").exists()


def test_download_without_internet_raises_at_once(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz, .* and set manual_dir=FOLDER"):
        data.load("kmnist", str(tmp_path / "tfds"))
    with pytest.raises(InputError, match=r"download gzip\.zip elsewhere"):
        data.load("emnist/letters", str(tmp_path / "tfds"))


def other_set(folder, file_format="array_record", shape=(4, 4, 3), sizes=(4, 4)):
    """A data set outside the MNIST family, prepared by TFDS without TensorFlow."""
    import tensorflow_datasets as tf

    class SmallSet(tf.core.GeneratorBasedBuilder, skip_registration=True):
        name = "cifar10"
        pkg_dir_path = folder
        VERSION = tf.core.Version("3.0.2")

        def _info(self):
            features = {"image": tf.features.Image(shape=shape), "label": tf.features.ClassLabel(names=["a", "b"])}
            return self.dataset_info_from_configs(features=tf.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(20)}

        def _generate_examples(self, n):
            for i in range(n):
                png = io.BytesIO()
                Image.fromarray(COLOUR[i, : sizes[i % 2], :4]).save(png, "png")
                yield i, {"image": png.getvalue(), "label": i % 2}

    SmallSet(data_dir=folder, file_format=file_format).download_and_prepare()


def test_other_prepared_set_is_read_without_tensorflow(tmp_path):
    other_set(tmp_path)
    d = data.load("cifar10", str(tmp_path))
    same_images(d, COLOUR[:20, :4, :4])
    assert d.classes == ("a", "b")
    assert len(d.test.x) == 2  # it has no test split: a tenth of each class is held out
    assert "tensorflow" not in sys.modules


def test_error_for_a_set_that_is_not_prepared_names_the_extra(tmp_path):
    with pytest.raises(InputError, match=r"not prepared in .*pip install 'jaxae\[tf\]'"):
        data.load("cifar10", str(tmp_path))


def test_set_with_images_of_several_sizes_raises(tmp_path):
    other_set(tmp_path, shape=(None, None, 3), sizes=(4, 3))
    with pytest.raises(InputError, match="one size is needed"):
        data.load("cifar10", str(tmp_path))


@pytest.mark.slow
def test_full_mnist_from_tfds_equals_the_original_files(mnist, tmp_path):
    ours = data.load("mnist", str(tmp_path), str(mnist))
    original = data.load(str(mnist))
    for part, other in ((ours.train, original.train), (ours.test, original.test)):
        assert part.x.shape == other.x.shape
        order, theirs = (np.lexsort(split.x.reshape(len(split.x), -1)[:, 200:600].T) for split in (part, other))
        np.testing.assert_array_equal(part.x[order], other.x[theirs])
        np.testing.assert_array_equal(part.y[order], other.y[theirs])
    info = json.loads((tmp_path / "mnist" / "3.0.1" / "dataset_info.json").read_text())
    assert [split["shardLengths"] for split in info["splits"]] == [["60000"], ["10000"]]


def test_idx_reader_finds_the_known_first_digits_of_mnist(mnist):
    labels = idx.read(MNIST / "train-labels-idx1-ubyte.gz", 1)
    assert labels[:5].tolist() == [5, 0, 4, 1, 9]


def test_examples_are_all_images_of_a_path_in_order(tmp_path):
    """Names are those of the images in a folder, otherwise numbers. A named data set gives its test split."""
    x = GREY[..., None]
    np.save(tmp_path / "floats.npy", GREY.astype(np.float64) / 255)
    np.savez(tmp_path / "classes.npz", x=GREY, y=np.arange(30) % 3)
    np.savez(tmp_path / "one.npz", x=GREY[:1])
    (tmp_path / "x-images-idx3-ubyte").write_bytes(idx_bytes(GREY))
    for i, name in enumerate(("b", "a", "c")):
        write_folder(tmp_path / "folder" / name, GREY[10 * i : 10 * i + 10])
    four = tmp_path / "four"
    four.mkdir()
    for name, array in zip(files.MNIST, (GREY[:20], np.zeros(20), GREY[20:], np.zeros(10)), strict=True):
        (four / name).write_bytes(idx_bytes(array))
    numbers = [*range(30)]
    in_folder = [f"{name}/{i:03}.png" for name in "abc" for i in range(10)]
    for name, images, names in (
        ("floats.npy", x, numbers),
        ("classes.npz", x, numbers),
        ("one.npz", x[:1], [0]),
        ("x-images-idx3-ubyte", x, numbers),
        ("folder", np.concatenate([x[10:20], x[:10], x[20:]]), in_folder),
        ("four", x, numbers),
    ):
        split, found, *_ = data.examples(data.Options(str(tmp_path / name)))
        np.testing.assert_array_equal(split.x, images)
        assert ([*found], split.lengths) == (names, None)
    digits = data.load("digits", binarize="static").test
    split, found, *_ = data.examples(data.Options("digits", binarize="static"))
    np.testing.assert_array_equal(split.x, digits.x)
    assert found == range(len(digits.x))


def test_examples_of_a_large_file_are_memory_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "LARGE", 100)
    np.save(tmp_path / "large.npy", GREY)
    split, *_ = data.examples(data.Options(str(tmp_path / "large.npy")))
    assert isinstance(split.x, rows.Rows)
    np.testing.assert_array_equal(np.asarray(split.x)[..., 0], GREY)


def test_unsupported_file_raises_and_lists_the_formats(tmp_path):
    Image.fromarray(GREY[0]).save(tmp_path / "one.png")
    (tmp_path / "t.zip").write_bytes(b"x")
    for name in ("one.png", "t.zip"):
        with pytest.raises(InputError, match="unsupported format; supported: .npy, .npz, .csv"):
            data.load(str(tmp_path / name))
    np.save(tmp_path / "x.npy", GREY)
    (tmp_path / "x.npy").rename(tmp_path / "X.NPY")
    assert data.load(str(tmp_path / "X.NPY")).shape == (8, 8, 1) or data.load(str(tmp_path / "X.NPY")).shape[2] == 1


def test_arrays_with_other_names_are_reported(tmp_path):
    np.savez(tmp_path / "a.npz", x=GREY, weights=np.ones(3))
    assert "left out: the arrays weights" in data.load(str(tmp_path / "a.npz")).notes
    np.savez(tmp_path / "b.npz", faces=GREY)
    with pytest.raises(InputError, match="has no array of examples .found: faces."):
        data.load(str(tmp_path / "b.npz"))
    np.savez(tmp_path / "c.npz", GREY, np.arange(30))
    with pytest.raises(InputError, match=r"np.savez\(path, x=x, y=y\)"):
        data.load(str(tmp_path / "c.npz"))
