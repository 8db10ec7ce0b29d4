"""Shards: every epoch is a permutation, hosts read only their files, and a resumed run has the same bits."""

import dataclasses
import itertools
import json
import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from conftest import equal
from jaxae import data, run
from jaxae.core.step import descend
from jaxae.data import array_records, lanes, row_groups, shard_folders, sources
from jaxae.data.lanes import Deal, Lanes
from jaxae.data.shards import Shards
from jaxae.devices.plan import plan
from jaxae.errors import InputError
from jaxae.experiments import vae
from jaxae.training import epoch, feed, records
from jaxae.training.checkpoint import newest_digests
from jaxae.training.iterate import Programs, compiled, iterate
from test_hosts import done, free_port, same_metrics, started, wait_for

pytest.importorskip("grain")
FORMATS = ("array_record", "parquet")
COUNT, CUTS = 203, (0, 40, 81, 142, 203)  # rows; those of four files
X = np.arange(COUNT * 6, dtype=np.float32).reshape(COUNT, 2, 3)
BATCH, STEPS = 12, 51  # three epochs


def shards(folder, how, window=1 << 20, x=X):
    """The rows of X in files."""
    module = {"array_record": array_records, "parquet": row_groups}[how]
    paths = [folder / f"{number}.{how}" for number in range(len(CUTS) - 1)]
    for path, (first, last) in zip(paths, itertools.pairwise(CUTS), strict=True):
        if not path.exists():
            shard_folders.WRITERS[how][1](path, x[first:last], 9)
    files = tuple(map(module.index, paths))
    return Shards(how, files, module.layout(paths[0]), 0, COUNT, x[:5], window)


def numbers(batches):
    """The rows of X in batches [T, B, 2, 3]."""
    np.testing.assert_array_equal(batches, X[batches[..., 0, 0].astype(int) // 6])
    return batches[..., 0, 0].astype(int) // 6


@pytest.mark.parametrize(("examples", "batch", "parts"), [(60, 12, 12), (61, 12, 4), (35, 6, 3), (7, 7, 7), (9, 5, 1)])
def test_deal_gives_every_row_to_one_lane_in_every_epoch(examples, batch, parts):
    """The lanes' rows of an epoch follow each other, and full batches take as many of each lane."""
    deal = Deal(examples, batch, parts)
    assert deal.part == batch // parts
    numbers = np.arange(5 * examples)
    lane, place = numbers % parts, numbers // parts
    for now in range(5):
        ends = [0]
        for of in range(parts):
            first, last = deal.rows(now, of)
            mine = place[(lane == of) & (numbers // examples == now)]
            assert first == ends[-1]
            assert last - first == len(mine)
            assert deal.first(now, of) == mine[0]
            assert {deal.epoch(of, int(number)) for number in mine} == {now}
            ends.append(last)
        assert ends[-1] == examples


@pytest.mark.parametrize("how", FORMATS)
def test_epochs_are_permutations_and_reading_may_begin_at_any_step(tmp_path, how):
    """Windows of several row groups; parts of lanes; another seed gives another order."""
    found = shards(tmp_path, how, 6 * 9 * 24)
    whole = Lanes(found, BATCH, 3)
    count = whole.deal.lanes
    assert count == {"array_record": 12, "parquet": 6}[how]
    order = numbers(whole.read(0, STEPS, [range(BATCH)]))
    stream = order.reshape(STEPS, count, -1).swapaxes(1, 2).ravel()  # as they are dealt
    epochs = [stream[first : first + COUNT].tolist() for first in (0, COUNT, 2 * COUNT)]
    assert all(sorted(now) == list(range(COUNT)) for now in epochs)
    assert len({*map(tuple, epochs)}) == 3
    for begin in (1, 16):
        again = Lanes(found, BATCH, 3)
        parts = [again.read(begin, 4, [range(6), range(9, 12)]), again.read(begin + 4, 7, [range(6), range(9, 12)])]
        expected = order[begin : begin + 11, [*range(6), *range(9, 12)]]
        np.testing.assert_array_equal(numbers(np.concatenate(parts)), expected)
    assert (numbers(Lanes(found, BATCH, 4).read(0, STEPS, [range(BATCH)])) != order).mean() > 0.8


@pytest.mark.parametrize("how", FORMATS)
def test_rows_are_shuffled_within_their_lane(tmp_path, how):
    """Neighbours in the order are no neighbours in the files."""
    found = shards(tmp_path, how)
    order = numbers(Lanes(found, 4, 0).read(0, 50, [range(4)]))
    for lane in order.T:
        steps = np.diff(lane)
        assert lane.max() - lane.min() < 52
        assert (steps == 1).mean() < 0.2
        assert abs(np.corrcoef(lane, np.arange(len(lane)))[0, 1]) < 0.5


@pytest.mark.parametrize("how", FORMATS)
def test_host_reads_only_files_of_its_part_of_the_batch(tmp_path, how):
    """The files of the other host are zeros of the same length."""
    found = shards(tmp_path, how)
    order = numbers(Lanes(found, 4, 0).read(0, 40, [range(4)]))
    assert {*order[:, 3]} <= {*range(152, COUNT)}
    for file in found.files[:2]:
        Path(file.path).write_bytes(bytes(Path(file.path).stat().st_size))
    np.testing.assert_array_equal(numbers(Lanes(found, 4, 0).read(0, 40, [range(3, 4)])), order[:, 3:])
    with pytest.raises(InputError, match=rf"\d\.{how}.*copy it again"):
        Lanes(found, 4, 0).read(0, 40, [range(1)])


@pytest.mark.parametrize("how", FORMATS)
def test_rows_at_any_places(tmp_path, how):
    found = shards(tmp_path, how)
    places = np.random.default_rng(0).integers(0, COUNT, (7, 3))
    np.testing.assert_array_equal(found[places], X[places])
    np.testing.assert_array_equal(found[30:200:7], X[30:200:7])
    assert found[[]].shape == (0, 2, 3)


def test_number_of_lanes_is_a_divisor_of_the_batch_size_within_the_window(tmp_path):
    found, of = shards(tmp_path, "parquet"), 9 * 24
    for window, size, expected in ((1 << 20, 100, 20), (of * 6, 100, 5), (of * 6, 96, 6), (of // 2, 96, 1)):
        assert lanes.number_of_lanes(dataclasses.replace(found, window=window), size) == expected, (window, size)
    assert lanes.number_of_lanes(shards(tmp_path, "array_record"), 100) == 50


def write(folder, how, count=400, shape=(6,), dtype=np.float32, files=5, rows=20):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (count, *shape)) if dtype == np.uint8 else rng.normal(5, 3, (count, *shape))
    data.write_shards(folder, x.astype(dtype), files, how, rows=rows)
    return x.astype(dtype)


@pytest.mark.parametrize("how", FORMATS)
def test_small_shards_are_scaled_as_arrays(tmp_path, how):
    """The sample is all examples. The test split is that of the file's name, or the last rows."""
    x, test = write(tmp_path / how, how), write(tmp_path / how / "test", how, 30, files=1)
    found, expected = data.load(str(tmp_path / how)), data.from_arrays(x, test=test)
    for name in ("train", "test"):
        np.testing.assert_allclose(getattr(found, name).x[:], getattr(expected, name).x, rtol=1e-6, atol=1e-7)
    assert (found.kind, found.real, len(found.train.x), found.classes) == ("table", True, 400, ())
    np.testing.assert_allclose(found.info.mean(), expected.info.mean(), atol=1e-6)
    np.testing.assert_allclose(found.info.examples(7), expected.info.examples(7), rtol=1e-6, atol=1e-7)
    alone = data.load(str(tmp_path / how / f"part*{how}"), valid="15")
    assert [len(split.x) for split in alone.splits] == [345, 40, 15]
    np.testing.assert_allclose(alone.test.x * alone.scale.factor + alone.scale.offset, x[360:], rtol=1e-5)
    np.testing.assert_allclose(alone.valid.x * alone.scale.factor + alone.scale.offset, x[345:360], rtol=1e-5)
    assert "the last 40 rows are the test split" in data.summary(alone)
    with pytest.raises(InputError, match="for training; give a file of arrays"):
        data.examples(data.Options(data=str(tmp_path / how)))


def test_statistics_of_large_shards_are_those_of_a_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_folders, "SAMPLE", 64)
    x = write(tmp_path / "x", "array_record", 1000)
    found = data.load(str(tmp_path / "x"), test="100")
    assert len(found.shown.train.x) == 64 < len(found.train.x) == 900
    places = np.linspace(0, 899, 64).astype(int)  # runs of one row
    np.testing.assert_allclose(found.scale.offset, x[places].mean(0), rtol=1e-5)
    assert "statistics of 64 examples" in data.summary(found)


def test_images_of_bytes_keep_their_bytes_and_fingerprint(tmp_path):
    x = write(tmp_path / "x", "parquet", 100, (4, 5), np.uint8)
    found = data.load(str(tmp_path / "x"))
    assert (found.kind, found.shape, found.train.x.dtype, found.scale) == ("image", (4, 5, 1), np.uint8, None)
    np.testing.assert_array_equal(found.train.x[:], x[:90, :, :, None])
    assert found.fingerprint() == data.load(str(tmp_path / "x")).fingerprint()
    (tmp_path / "y").mkdir()
    data.write_shards(tmp_path / "y", 255 - x, 5, "parquet", rows=20)
    assert found.fingerprint() != data.load(str(tmp_path / "y")).fingerprint()


def test_columns_of_parquet(tmp_path):
    """Lists of one length are arrays, numbers a table; other columns are left out or an error."""
    rng = np.random.default_rng(0)
    lists = {"id": np.arange(50), "name": ["a"] * 50, "x": [*rng.random((50, 3)).astype(np.float32)]}
    (tmp_path / "lists").mkdir()
    parquet.write_table(pa.table(lists), tmp_path / "lists" / "a.parquet")
    found = data.load(str(tmp_path / "lists"))
    assert (found.kind, found.shape) == ("table", (3,))
    assert "columns left out: id, name" in data.summary(found)
    (tmp_path / "numbers").mkdir()
    values = {"id": np.arange(50), "a": rng.random(50), "b": rng.integers(0, 9, 50)}
    parquet.write_table(pa.table(values), tmp_path / "numbers" / "a.parquet")
    table = data.load(str(tmp_path / "numbers"), drop=("id",), scale="none")
    assert table.features == ("a", "b")
    np.testing.assert_array_equal(table.train.x[:], np.stack([values["a"], values["b"]], 1)[:45].astype(np.float32))
    ragged = {"x": [[1.0, 2.0]] * 20 + [[1.0]] * 20}
    (tmp_path / "ragged").mkdir()
    parquet.write_table(pa.table(ragged), tmp_path / "ragged" / "a.parquet")
    with pytest.raises(InputError, match="arrays of different lengths"):
        data.load(str(tmp_path / "ragged"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"binarize": "static"}, "use dynamic"),
        ({"kind": "counts"}, "use kind=table"),
        ({"target": "a"}, "target=a has no effect on the shards"),
        ({"labels": 3}, "labels=3 has no effect"),
        ({"kind": "image"}, r"examples of shape \(6,\)"),
        ({"shuffle_mib": 8}, "shuffle_mib=8 has no effect on ArrayRecord files"),
        ({"drop": ("a",)}, "drop=a has no effect on ArrayRecord files"),
        ({"test": "0"}, "give a number"),
        ({"test": "400"}, "holds out all 400"),
        ({"test": "nowhere"}, "test=nowhere matches no ArrayRecord"),
    ],
)
def test_input_error_for_options_that_shards_do_not_take(tmp_path_factory, fields, message):
    folder = tmp_path_factory.getbasetemp() / "shards of errors"
    if not folder.exists():
        write(folder, "array_record")
    with pytest.raises(InputError, match=message):
        data.load(str(folder), **fields)


def test_input_error_for_damaged_and_missing_entries(tmp_path):
    write(tmp_path / "x", "parquet", files=1)
    write(tmp_path / "x", "array_record", files=1)
    with pytest.raises(InputError, match="two formats"):
        data.load(str(tmp_path / "x"))
    (tmp_path / "x" / "part-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"is not a Parquet file .*; copy it again"):
        data.load(str(tmp_path / "x" / "*.parquet"))
    data.write_shards(tmp_path / "y", np.array([[1.0, np.nan]] * 20, np.float32), 1)
    with pytest.raises(InputError, match="missing or infinite entries"):
        data.load(str(tmp_path / "y"))


def tables(folder, *contents):
    """Parquet files of these columns."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(contents):
        parquet.write_table(pa.table(content), folder / f"{number}.parquet")
    return str(folder)


def test_parquet_files_with_other_columns_are_input_errors(tmp_path):
    """A missing column, another type, and a test split of other columns; another order of columns is none."""
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 50)).astype(np.float32)
    with pytest.raises(InputError, match=r"1\.parquet has no column b, unlike .*0\.parquet; write all files alike"):
        data.load(tables(tmp_path / "missing", {"a": a, "b": b}, {"a": a, "c": b}))
    bytes_, wide = ([*rng.integers(0, 256, (50, 3)).astype(kind)] for kind in (np.uint8, np.int64))
    with pytest.raises(InputError, match=r"1\.parquet: column x holds list<.*int64>, but list<.*uint8> in "):
        data.load(tables(tmp_path / "types", {"x": bytes_}, {"x": wide}))
    folder = tables(tmp_path / "order", {"a": a, "b": b}, {"b": b, "a": a})
    found = data.load(folder, test="60", scale="none")
    np.testing.assert_array_equal(found.test.x, np.tile([a, b], 2).T[40:])
    tables(tmp_path / "order" / "test", {"b": b, "a": a})
    with pytest.raises(InputError, match="the test split have another shape, type or columns"):
        data.load(folder)


def test_empty_files_and_cells_of_parquet(tmp_path):
    """A file without rows may be the first; an empty cell may not."""
    x = [*np.arange(150, dtype=np.float32).reshape(50, 3)]
    empty = {"x": pa.array([], pa.list_(pa.float32()))}
    found = data.load(tables(tmp_path / "file", empty, {"x": x}), scale="none")
    np.testing.assert_array_equal(found.train.x[:], x[:45])
    with pytest.raises(InputError, match=r"0\.parquet has empty cells"):
        data.load(tables(tmp_path / "cell", {"x": [None, *x]}))
    with pytest.raises(InputError, match="has no examples"):
        data.load(tables(tmp_path / "none", empty))


@pytest.mark.parametrize("inside", ["cats", "train/cats"])
def test_folder_of_pictures_with_a_table_is_not_shards(tmp_path, inside):
    tables(tmp_path, {"a": np.arange(9.0)})
    (tmp_path / inside).mkdir(parents=True)
    for number in range(20):
        Image.new("L", (4, 4), 12 * number).save(tmp_path / inside / f"{number}.png")
    assert data.load(str(tmp_path)).shape == (4, 4, 1)


def test_named_data_set_is_read_where_a_folder_has_its_name(tmp_path, monkeypatch):
    tables(tmp_path / "digits", {"a": np.arange(20.0)})
    monkeypatch.chdir(tmp_path)
    assert sources.path_of("digits") is None
    assert not sources._is_sharded("digits")
    assert data.load("./digits").shape == (1,)


@pytest.mark.parametrize("name", ["val", "test"])
def test_folder_named_after_a_split_may_be_trained_on(tmp_path, name):
    write(tmp_path / name, "parquet")
    assert len(data.load(str(tmp_path / name)).train.x) == 360
    assert len(data.load(str(tmp_path / name / "*.parquet")).train.x) == 360


def test_sample_reaches_from_the_first_row_to_the_last(tmp_path, monkeypatch):
    """100 rows in 64 runs."""
    monkeypatch.setattr(shard_folders, "SAMPLE", 100)
    x = write(tmp_path / "x", "array_record", 1000)
    sample = data.load(str(tmp_path / "x"), test="100", scale="none").shown.train.x
    np.testing.assert_array_equal(sample[[0, -1]], x[[0, 899]])
    assert len(sample) == 64


def test_sample_of_another_data_set_is_not_taken(tmp_path):
    """Files of the same names, sizes and dates."""
    for number in (0, 1):
        folder = tmp_path / str(number) / "x"
        data.write_shards(folder, np.full((50, 2), number, np.float32), 1)
        for file in folder.iterdir():
            os.utime(file, (0, 0))
        np.testing.assert_array_equal(data.load(str(folder), scale="none").shown.train.x, np.full((45, 2), number))


@pytest.mark.slow
def test_pictures_during_training_are_those_of_the_sample(tmp_path, monkeypatch):
    """No row of a training split of real numbers is read for them, but by the lanes."""
    write(tmp_path / "x", "array_record", 60, (8, 8))
    monkeypatch.chdir(tmp_path)
    found = data.load("x", test="10")
    reads, read = [], Shards.__getitem__
    monkeypatch.setattr(Shards, "__getitem__", lambda self, places: (reads.append(places), read(self, places))[1])
    run.train(
        vae.Config(data="x", test="10", epochs=1, batch_size=10, hidden=(8,), workdir="run", figures="all"),
        vae.build,
        "vae",
        known=found,
        progress=False,
    )
    assert [*Path("run/figures/training").glob("*.png")]
    assert not reads


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("my-data_.npy", "my-data_"),
        ("digits", "digits"),
        ("a/b/part-*.parquet", "part"),
        ("a/b/*.parquet", "b"),
        ("a/*/*.parquet", "a"),
        ("*/*.parquet", "shards"),
    ],
)
def test_title(name, title):
    assert data.title(name) == title


def test_write_shards_raises_before_anything_is_written(tmp_path):
    x = np.zeros((6, 2), np.float32)
    for files in (0, 7):
        with pytest.raises(InputError, match=f"files={files} must be from 1 to the number of examples, 6"):
            data.write_shards(tmp_path / "x", x, files)
    assert not (tmp_path / "x").exists()
    data.write_shards(tmp_path / "x", x, 3)
    data.write_shards(tmp_path / "x", x + 1, 3)
    with pytest.raises(InputError, match="holds another number of shards; use a new folder"):
        data.write_shards(tmp_path / "x", x, 2)
    np.testing.assert_array_equal(shard_folders.all_rows(str(tmp_path / "x"))[:], x + 1)


class Mean(nn.Module):
    @nn.compact
    def __call__(self, x):
        return self.param("a", nn.initializers.zeros, x.shape[-1:])


def loss(variables, batch, key):
    off = batch.x - variables["params"]["a"][None]
    return {"loss": jnp.sum(off**2 * (1 + 0.1 * batch.noise(key, off.shape[-1:])), axis=1)}, {}


MEAN = run.Experiment(Mean(), descend(loss, optax.sgd(0.1)), loss)


SLOW = pytest.mark.slow
OTHERS = (("array_record", "pmap", 2), ("array_record", "auto", 1), ("parquet", "pmap", 1))
MODES = [("parquet", "auto", 1), *(pytest.param(*how, marks=SLOW) for how in OTHERS)]


@pytest.mark.parametrize(("how", "mode", "seeds"), MODES)
def test_run_on_shards_resumes_bit_exact(tmp_path, monkeypatch, how, mode, seeds):
    """In the middle and at the end of blocks of two steps, of which some span two epochs.

    The rows of Parquet are so large that the window has a row group of each lane, and an epoch has several.
    """
    size = 6 if how == "array_record" else 4096
    write(tmp_path / "x", how, 100, (size,), rows=9)
    found = data.load(str(tmp_path / "x"), test="10", **({} if how == "array_record" else {"shuffle_mib": 1}))
    if how == "parquet":
        dealt = Lanes(found.train.x.base, 12, 5)
        dealt.read(0, 1, [range(12)])
        assert dealt.deal.lanes == 6
        assert all(len(lane._ends) > 1 for _, lane in dealt._now.values())
    block = partial(feed.feed, block_bytes=seeds * 2 * 12 * size * 4)
    monkeypatch.setattr("jaxae.training.iterate.feed", block)
    once: list[Programs] = []

    def compiler(*args):
        once.extend([] if once else [compiled(*args)])
        return once[0]

    options = {"epochs": 3, "batch_size": 12, "seeds": seeds, "seed": 5, "plan": plan(mode, 12, seeds)}
    options["compiler"] = compiler
    every = {(now.step, now.test is None): (now.state, now.totals) for now in iterate(MEAN, found, every=1, **options)}
    assert max(every)[0] == epoch.first_step(3, 90, 12) == 23
    for begin in (1, 7, 8, 14):
        for now in itertools.islice(iterate(MEAN, found, resume=every[begin, True], **options), 4):
            assert equal((now.state, now.totals), every[now.step, now.test is None])


def test_reads_ahead_end_with_training(tmp_path, monkeypatch):
    """Also after an error: a block that is not read then is never read."""
    write(tmp_path / "x", "array_record", 100)
    found = data.load(str(tmp_path / "x"), test="10")
    opened = []
    monkeypatch.setattr(feed, "Lanes", lambda *args: opened.append(Lanes(*args)) or opened[0])

    def fail(*_):
        assert opened[0].read(0, 1, [range(12)]).shape == (1, 12, 6)
        raise InputError("stop")

    with pytest.raises(InputError, match="stop"):
        next(iterate(MEAN, found, epochs=3, batch_size=12, compiler=fail))
    with pytest.raises(RuntimeError, match="after shutdown"):
        opened[0].read(0, 1, [range(12)])


def test_portions_are_the_batches_of_the_lanes(tmp_path):
    """Also as one device takes them, to explain a diverged step."""
    write(tmp_path / "x", "array_record", 50, (2, 3), np.uint8)
    x = data.load(str(tmp_path / "x"), test="5").train
    assert feed.is_sharded(x)
    for mode, seeds in (("auto", range(2, 3)), ("pmap", range(2, 4)), ("auto", range(2, 4))):
        one = plan(mode, 10, len(seeds))
        of = feed.feed(x, one, seeds, 10, block_bytes=2 * 10 * 6 * len(seeds))
        expected = [Lanes(x.x.base, 10, seed).read(0, 12, [range(10)]).reshape(12, 10, -1) for seed in seeds]
        for now, step in [(0, 0), (0, 1), (0, 3), (1, 5), (1, 7)]:
            portion = of(now, step)
            assert (portion.start, portion.steps) == (step % 2 * 10, 1 if step in (1, 3, 4, 5, 7) else 2)
            rows, order = feed.complete(portion, one)
            flat = rows.x if len(seeds) > 1 else rows.x[None]
            for seed, batch in zip(flat, expected, strict=True):
                np.testing.assert_array_equal(seed[order[portion.start :][:10]], batch[step])


FLAGS = ("--hidden", "8", "--latent", "2", "--batch-size", "64", "--checkpoint-every", "1", "--heartbeat", "10")
TRAINED = 1024  # a multiple of the lanes: no file has rows of both machines
ROW = 64  # numbers of an example


@pytest.fixture(scope="module", params=FORMATS)
def machines(request, tmp_path_factory):
    """Three folders with `shards`: all files, and those of the first and of the second half of the batch.

    The other files of these are zeros of the same length and date.
    """
    how, base = request.param, tmp_path_factory.mktemp(request.param)
    x = np.random.default_rng(0).normal(3, 2, (TRAINED + 100, ROW)).astype(np.float32)
    data.write_shards(base / "all" / "shards", x[:TRAINED], 8, how, rows=32)
    data.write_shards(base / "all" / "shards" / "test", x[TRAINED:], 1, how)
    for number, name in enumerate(("first", "second")):
        shutil.copytree(base / "all", base / name)
        files = sorted((base / name / "shards").glob(f"*.{how}"))
        for file in files[4 * (1 - number) :][:4]:
            file.write_bytes(bytes(file.stat().st_size))
        for folder, _, names in os.walk(base / name):
            for file in names:
                there = base / "all" / (Path(folder) / file).relative_to(base / name)
                shutil.copystat(there, Path(folder) / file)
    return base


def machine(base, *more, epochs=4):
    workdir = str(base / f"run {' '.join(more)}")
    flags = [f"--workdir={workdir}", "--data", "shards", "--epochs", str(epochs), "--figures", "none", *FLAGS, *more]
    return Path(workdir), [sys.executable, "-m", "jaxae", "vae", *flags]


def on(base, devices, *commands, folders):
    """Start a command in each of these folders, after the files were listed in that with all of them."""
    cache = str(base / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXAE_CACHE", cache)
        data.load(str(base / "all" / "shards"))
    commands = [["env", "-C", str(base / name), *command] for name, command in zip(folders, commands, strict=True)]
    return started(devices, *commands, JAXAE_CACHE=[cache] * len(commands))


def pair(base, command):
    """The command on two machines, each with half of the files."""
    where = ("--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "2")
    return on(base, 2, *([*command, *where, "--process-id", str(i)] for i in (0, 1)), folders=("first", "second"))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["pmap", "jit", "fsdp"])
def test_two_machines_with_half_of_the_files_each_train_as_one_with_all(machines, mode):
    """On two, four and one devices."""
    one, command = machine(machines, "--parallel", "auto")
    if not (one / "result.json").exists():
        with on(machines, 1, command, folders=["all"]) as processes:
            done(processes, 600)
    workdir, command = machine(machines, "--parallel", mode)
    with pair(machines, command) as processes:
        done(processes, 600)
    same_metrics(*(records.read(path / "metrics.jsonl") for path in (workdir, one)))


@pytest.mark.slow
def test_machine_without_a_file_of_its_part_ends_both(machines):
    """Both machines have the files of the first half only."""
    _, command = machine(machines, "--seed", "1")
    where = ("--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "2")
    commands = ([*command, *where, "--process-id", str(i)] for i in (0, 1))
    with on(machines, 2, *commands, folders=("first", "first")) as processes:
        said = [process.communicate(timeout=600) for process in processes]
    assert processes[1].returncode == 2, said
    assert processes[0].returncode != 0
    assert "copy it again" in said[1][1]


@pytest.mark.slow
def test_killed_machines_resume_on_shards_bit_exact(machines):
    whole, command = machine(machines, "--seed", "2", epochs=8)
    with pair(machines, command) as processes:
        done(processes, 600)
    workdir, command = machine(machines, "--seed", "2", "--patience", "100", epochs=8)
    for victim, lines in ((0, 3), (1, 9)):
        with pair(machines, command) as processes:
            wait_for(processes, workdir, lines, 300)
            processes[victim].send_signal(signal.SIGKILL)
            assert all(code != 0 for code in [process.wait(300) for process in processes])
    with pair(machines, command) as processes:
        done(processes, 600)
    assert (workdir / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert newest_digests(workdir / "checkpoints") == newest_digests(whole / "checkpoints")


MEMORY = """
import json, resource, sys
from jaxae import data, run
from jaxae.experiments import topk
from jaxae.training.iterate import iterate
config = topk.Config(latent=64, active=4, batch_size=512)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
found = data.load(sys.argv[1], test="100", **json.loads(sys.argv[2]))
snapshots = iterate(topk.build(config, found.info), found, epochs=1, batch_size=512)
next(snapshots)
before = peak()
for now in snapshots:
    pass
print(json.dumps([before, peak(), now.step]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", FORMATS)
def test_memory_of_a_run_on_shards_is_bounded(tmp_path, how):
    """An epoch of 1.5 GiB in 12 files, with a window of 64 MiB and blocks of 64 MiB, after the first dispatch."""
    x = np.random.default_rng(0).standard_normal((2**16, 512)).astype(np.float32)
    for number in range(12):
        data.write_shards(tmp_path / "x" / f"{number}", x, 1, how)
        (file,) = (tmp_path / "x" / f"{number}").iterdir()
        file.rename(tmp_path / "x" / f"{number}.{how}")
    window = {} if how == "array_record" else {"shuffle_mib": 64}
    with started(1, [sys.executable, "-c", MEMORY, str(tmp_path / "x"), json.dumps(window)]) as processes:
        ((printed, _),) = done(processes, 600)
    before, after, steps = json.loads(printed)
    assert steps == -(-(12 * 2**16 - 100) // 512)
    assert after - before < 512, (before, after)
