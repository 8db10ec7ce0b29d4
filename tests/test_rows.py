"""Rows of large arrays: the same numbers as in memory, read only where they are used."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import jaxae
from conftest import equal
from jaxae import data
from jaxae.data import rows, scaling
from jaxae.data.rows import Rows, mapped, select
from jaxae.errors import InputError

rng = np.random.default_rng(0)
X = rng.normal(5, 3, (50, 4)).astype(np.float32)


class Counting(np.ndarray):
    """An array that counts the rows that are read."""

    read = 0

    def __getitem__(self, index):
        part = np.asarray(self)[index]
        Counting.read += len(part)
        return part


def counted(x):
    Counting.read = 0
    return Rows(x.view(Counting), x.dtype)


def test_rows_are_read_like_those_of_an_array_and_converted():
    whole = counted(X).map(lambda part: 2 * part, np.float32).map(lambda part: part + 1, np.float64)
    expected = (2 * X + 1).astype(np.float64)
    places = np.array([7, 3, 49, 3])
    assert (len(whole), whole.shape, whole.ndim, whole.dtype, whole.nbytes) == (50, (50, 4), 2, np.float64, 1600)
    np.testing.assert_array_equal(whole[places], expected[places])
    np.testing.assert_array_equal(whole[10:13], expected[10:13])
    np.testing.assert_array_equal(whole[np.arange(50) % 7 == 0], expected[::7])
    np.testing.assert_array_equal(np.asarray(whole), expected)
    chosen = whole.select(np.arange(1, 50, 2)).select(np.array([2, 0]))
    np.testing.assert_array_equal(np.asarray(chosen), expected[[5, 1]])
    np.testing.assert_array_equal(chosen[::-1], expected[[1, 5]])


def test_selecting_and_converting_read_nothing():
    whole = counted(X)
    part = select(mapped(whole, lambda part: part + 1, np.float32), np.arange(40))
    assert (len(part), Counting.read) == (40, 0)
    part[np.array([1, 2])]
    assert Counting.read == 2


@pytest.mark.parametrize("chunk", [1, 8 * 4 * 7, 1 << 26])
def test_chunks_change_no_moment(monkeypatch, chunk):
    monkeypatch.setattr(rows, "CHUNK", chunk)
    x = X.copy()
    x[3, 1] = x[9, 1] = np.nan
    found = scaling.moments(data.Split(x, np.zeros(50, np.int32)))
    exact = x.astype(np.float64)
    for ours, theirs in zip(
        found, (np.nanmean(exact, 0), np.nanstd(exact, 0), np.nanmin(exact, 0), np.nanmax(exact, 0)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-13)


IMAGES = rng.random((30, 4, 5, 3))
ARRAYS = {
    "float32 table": X,
    "float16 table": X.astype(np.float16),
    "bfloat16 table": X.astype(jnp.bfloat16),
    "int table": rng.integers(-5, 9, (40, 3)),
    "missing": np.where(rng.random((50, 4)) < 0.1, np.nan, X),
    "bytes": rng.integers(0, 256, (30, 4, 5), np.uint8),
    "booleans": rng.random((30, 4, 5)) < 0.5,
    "levels": IMAGES.astype(np.float32),
    "real images": (7 * IMAGES - 2).astype(np.float32),
    "missing pixels": np.where(IMAGES < 0.1, np.nan, IMAGES),
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("how", ["auto", "unit"])
def test_large_arrays_and_files_give_the_same_bits_as_small_ones(tmp_path, monkeypatch, name, how):
    monkeypatch.setattr(rows, "CHUNK", 300)  # for small and large arrays: it determines the rounding of moments
    x = ARRAYS[name]
    small = data.from_arrays(x, valid=0.2, scale=how)
    np.save(tmp_path / "x.npy", x)
    monkeypatch.setattr(rows, "LARGE", 100)
    for large in (
        data.from_arrays(x, valid=0.2, scale=how),
        data.from_arrays(np.load(tmp_path / "x.npy", mmap_mode="r"), valid=0.2, scale=how),
        data.load(str(tmp_path / "x.npy"), valid="0.2", scale=how),
    ):
        assert {type(split.x) for split in large.splits} == {Rows}
        assert large.fingerprint() == small.fingerprint()
        assert (large.real, large.kind, large.from_bytes) == (small.real, small.kind, small.from_bytes)
        assert data.summary(large) == data.summary(small)
        np.testing.assert_allclose(large.info.initial_mean(), small.info.initial_mean(), rtol=1e-12)
        np.testing.assert_array_equal(large.info.examples(3), small.info.examples(3))
        assert (large.train.observed is None) == ("missing" not in name)


def test_bfloat16_file_equals_its_float32_values(tmp_path):
    """NumPy reads such a file as raw bytes."""
    x = X.astype(jnp.bfloat16)
    np.save(tmp_path / "x.npy", x)
    assert np.load(tmp_path / "x.npy").dtype == "V2"
    expected = data.from_arrays(x.astype(np.float32))
    assert data.load(str(tmp_path / "x.npy")).fingerprint() == expected.fingerprint()
    assert data.from_arrays(x).fingerprint() == expected.fingerprint()


def test_infinite_value_in_the_last_chunk_raises(monkeypatch):
    monkeypatch.setattr(rows, "CHUNK", 300)
    x = X.copy()
    x[-1, -1] = np.inf
    with pytest.raises(InputError, match="has infinite values"):
        data.from_arrays(x)


@pytest.mark.slow
def test_streamed_run_on_a_large_array_equals_that_on_a_small_one(tmp_path, monkeypatch):
    """Parameters bit for bit; with missing entries, a validation split and measures."""
    x = ARRAYS["missing"]
    fields = {"epochs": 2, "batch_size": 8, "hidden": (4,), "valid": 0.2, "log_likelihood_samples": 20}
    fields["figures"] = False
    small = jaxae.fit("vae", x, workdir=tmp_path / "small", progress=False, **fields)
    monkeypatch.setattr(rows, "LARGE", 100)
    large = jaxae.fit("vae", x, workdir=tmp_path / "large", progress=False, device_data_limit=1e-9, **fields)
    assert equal(large.state, small.state)
    np.testing.assert_array_equal(large.score(x), small.score(x))
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("small", "large")]
    assert results[0]["likelihood"] == results[1]["likelihood"]
    for name, value in results[0]["metrics"].items():
        np.testing.assert_allclose(results[1]["metrics"][name], value, rtol=1e-6)


@pytest.mark.slow
def test_figures_of_a_large_array_are_those_of_a_small_one(tmp_path, monkeypatch):
    fields = {"epochs": 1, "batch_size": 8, "hidden": (4,), "progress": False}
    jaxae.fit("vae", ARRAYS["missing"], workdir=tmp_path / "small", **fields)
    monkeypatch.setattr(rows, "LARGE", 100)
    jaxae.fit("vae", ARRAYS["missing"], workdir=tmp_path / "large", **fields)
    for path in (tmp_path / "small" / "figures").glob("*.png"):
        assert path.read_bytes() == (tmp_path / "large" / "figures" / path.name).read_bytes(), path.name
