"""Every kind of data from every source, in an experiment of every group."""

import tarfile

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
from scipy.io import wavfile

import jaxae
from jaxae import data
from test_data import idx_bytes
from test_pictures import save

pytestmark = pytest.mark.usefixtures("key_reuse")
rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (24, 12, 9, 1)).astype(np.uint8)
COLOUR = rng.integers(0, 256, (24, 9, 14, 3)).astype(np.uint8)
REAL = rng.normal(5, 2, (24, 12, 9, 2))
TABLE = rng.normal(5, 2, (24, 5))
MISSING = np.where(rng.random((24, 5)) < 0.1, np.nan, TABLE)
SERIES = rng.normal(5, 2, (24, 12, 2))
WAVES = rng.integers(-(2**15), 2**15, (24, 30, 1)).astype(np.int16)


def table(x):
    return pyarrow.table(
        {f"c{column}": pyarrow.array(x[:, column], mask=np.isnan(x[:, column])) for column in range(5)}
    )


def npy(path, x):
    np.save(f"{path}.npy", x)
    return f"{path}.npy"


def npz(path, x):
    np.savez(f"{path}.npz", x=x)
    return f"{path}.npz"


def ragged(path, x):
    np.savez(f"{path}.npz", *x)
    return f"{path}.npz"


def csv(path, x):
    pyarrow.csv.write_csv(table(x), f"{path}.csv")
    return f"{path}.csv"


def parquet(path, x):
    pyarrow.parquet.write_table(table(x), f"{path}.parquet")
    return f"{path}.parquet"


def idx(path, x):
    path.with_name("x-images-idx3-ubyte").write_bytes(idx_bytes(x[..., 0]))
    return str(path.with_name("x-images-idx3-ubyte"))


def folder(path, x):
    save(path, x[..., 0] if x.shape[3] == 1 else x)
    return str(path)


def tar(path, x):
    with tarfile.open(f"{path}.tar", "w") as file:
        file.add(folder(path, x), arcname="")
    return f"{path}.tar"


def recordings(path, x):
    path.mkdir()
    for number, wave in enumerate(x):
        wavfile.write(path / f"{number:02}.wav", 8000, wave)
    return str(path)


@pytest.mark.parametrize(
    ("x", "source", "fields"),
    [
        *((x, source, {}) for x in (IMAGES, COLOUR) for source in (npy, npz, folder, tar)),
        (IMAGES, idx, {}),
        *((REAL, source, {}) for source in (npy, npz)),
        *((x, source, {}) for x in (TABLE, MISSING) for source in (npy, npz, csv, parquet)),
        *((SERIES, source, {"kind": "series"}) for source in (npy, npz)),
        (SERIES, ragged, {"window": 12}),
        (WAVES, recordings, {"window": 30}),
    ],
)
def test_every_source_gives_the_same_data(tmp_path, x, source, fields):
    found = data.load(source(tmp_path / "x", x), **fields)
    units = x / 2**15 if x is WAVES else x
    expected = data.from_arrays(units, **({"kind": "series"} if source in (ragged, recordings) else fields))
    assert (found.kind, found.shape, found.real) == (expected.kind, expected.shape, expected.real)
    for mine, theirs in zip(found.splits, expected.splits, strict=True):
        np.testing.assert_allclose(mine.x, theirs.x, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(mine.observed, theirs.observed)


GROUPS = {
    "dense": {"hidden": (8,), "latent": 2},
    "convolutional": {"filters": (4, 2)},
    "sequence": {"hidden": 4, "latent": 3},
    "vae": {"hidden": (8,), "latent": 2},
    "cvae": {"hidden": (8,), "latent": 2},
    "wae": {"hidden": (8,), "latent": 2},
    "masked": {"hidden": (8,), "latent": 4, "patch": 3},
    "tcvae": {"hidden": (8,), "latent": 2},
    "vqvae": {"filters": (4, 4)},
    "sparse": {"latent": 4},
}
OF_IMAGES = ("convolutional", "masked", "vqvae")
KINDS = {"bytes": IMAGES, "colour": COLOUR, "real": REAL, "table": TABLE, "missing": MISSING, "series": SERIES}
# The default tests of experiments train on bytes, and `test_real.py` on real images.
DEFAULT = {
    "table": ("dense", "vae", "cvae"),
    "missing": ("vae", "cvae", "dense"),
    "colour": ("convolutional", "vqvae"),
    "series": ("sequence", "vae"),
}
CELLS = [
    pytest.param(name, kind, marks=() if name in DEFAULT.get(kind, ()) else pytest.mark.slow)
    for name in GROUPS
    for kind in KINDS
]


@pytest.mark.parametrize(("name", "kind"), CELLS)
def test_every_group_trains_on_every_kind_or_raises(name, kind):
    """Reconstructions are finite, have the shape of the examples and are in their units."""
    x, fields = KINDS[kind], {"epochs": 1, "batch_size": 8, "progress": False, **GROUPS[name]}
    if kind == "series" and name != "sequence":
        fields["kind"] = "series"
    refused = ""
    if name == "masked" and kind not in ("bytes", "colour"):
        refused = "masked needs pixels in .* use scale=unit"
    elif kind == "missing" and name not in ("vae", "cvae", "tcvae"):
        refused = "the data have missing entries; use an experiment that trains on the observed ones"
    elif name in OF_IMAGES and kind in ("table", "series"):
        refused = "are not images"
    if refused:
        with pytest.raises(ValueError, match=refused) as error:
            jaxae.fit(name, x, **fields)
        assert "\n" not in str(error.value)
        return
    given = {"y": np.arange(24) % 2, "context": np.arange(24) % 5} if name == "cvae" else {}
    model = jaxae.fit(name, x, **fields, **given)
    found = np.asarray(model.reconstruct(x, **given)).reshape(x.shape)
    assert np.isfinite(found).all()
    middle, spread = (0.5, 0.5) if x.dtype == np.uint8 else (np.nanmean(x), 2 * np.nanstd(x))
    assert abs(found.mean() - middle) < spread
    assert np.isfinite(model.encode(x, **given)).all()
    assert np.isfinite(model.evaluate(x, **given)["loss"])
