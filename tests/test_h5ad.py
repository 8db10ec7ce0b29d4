"""Files of AnnData: matrices, layers, annotations and genes of new and old files; codes written into a copy."""

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

import jaxae
from conftest import call
from jaxae import data
from jaxae.data import h5ad
from jaxae.errors import InputError

h5py = pytest.importorskip("h5py")
rng = np.random.default_rng(0)
COUNT, GENES = 24, 6
X = rng.poisson(2, (COUNT, GENES)).astype(np.float32)
NAMES = [f"gene{number}" for number in range(GENES)]
KIND = np.array(["t", "b", ""])[np.arange(COUNT) % 3]
BATCH = np.array(["one", "two"])[np.arange(COUNT) % 2]
AGE = np.where(np.arange(COUNT) == 5, np.nan, np.arange(COUNT) + 0.5)


def array(group, name, values):
    made = group.create_dataset(name, data=values)
    made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


def categorical(group, name, values):
    words = sorted({*values.tolist()} - {""})
    codes = np.array([words.index(value) if value else -1 for value in values.tolist()], np.int8)
    made = group.create_group(name)
    made.attrs.update({"encoding-type": "categorical", "ordered": False})
    made["codes"], made["categories"] = codes, np.array(words, object)


def written(path, x=X, kind="dense"):
    """A file in the format of anndata 0.8 and later."""
    with h5py.File(path, "w") as file:
        if kind == "dense":
            array(file, "X", x)
        else:
            made = (sparse.csr_matrix if kind == "csr" else sparse.csc_matrix)(x)
            group = file.create_group("X")
            group.attrs.update({"encoding-type": f"{kind}_matrix", "shape": x.shape})
            for name in ("data", "indices", "indptr"):
                group[name] = getattr(made, name)
        array(file.create_group("layers"), "doubled", 2 * x)
        obs, var = file.create_group("obs"), file.create_group("var")
        obs.attrs.update({"_index": "barcode", "column-order": np.array(["kind", "batch", "age", "count"], object)})
        obs["barcode"] = np.array([f"cell{number}" for number in range(len(x))], object)
        categorical(obs, "kind", KIND[: len(x)])
        categorical(obs, "batch", BATCH[: len(x)])
        array(obs, "age", AGE[: len(x)])
        nullable = obs.create_group("count")
        nullable["values"], nullable["mask"] = np.arange(len(x)), np.arange(len(x)) == 3
        var.attrs["_index"] = "_index"
        var["_index"] = np.array(NAMES, object)
        array(var, "variable", np.arange(GENES) % 2 == 0)
    return path


def old(path):
    """A file in the first format: names in `index`, codes next to their categories."""
    with h5py.File(path, "w") as file:
        file["X"] = X
        obs, var = file.create_group("obs"), file.create_group("var")
        obs["index"], var["index"] = (np.array(names, "S") for names in ([f"cell{n}" for n in range(COUNT)], NAMES))
        obs["batch"] = (BATCH == "two").astype(np.int8)
        obs.create_group("__categories")["batch"] = np.array(["one", "two"], "S")
    return path


@pytest.mark.parametrize("kind", ["dense", "csr", "csc"])
def test_counts_classes_and_covariates_of_a_file_are_read(kind, tmp_path):
    path = written(tmp_path / "cells.h5ad", kind=kind)
    found = data.load(str(path), kind="counts", target="kind", context=("batch",), test="0")
    np.testing.assert_array_equal(found.train.x, X)
    assert (found.kind, found.features, found.classes) == ("counts", tuple(NAMES), ("b", "t"))
    np.testing.assert_array_equal(found.train.y, np.select([KIND == "b", KIND == "t"], [0, 1], -1))
    np.testing.assert_array_equal(found.train.context[:, 1], BATCH == "two")
    assert found.covariates == ("batch=one", "batch=two")


def test_layer_and_genes_select_what_is_read(tmp_path):
    path = written(tmp_path / "cells.h5ad")
    found = data.load(str(path), kind="counts", layer="doubled", genes="variable", test="0")
    np.testing.assert_array_equal(found.train.x, 2 * X[:, ::2])
    assert found.features == ("gene0", "gene2", "gene4")
    assert data.load(str(path), test="0").kind == "table"  # counts are not guessed


def test_missing_numbers_are_nan_and_old_files_are_read(tmp_path):
    options = data.Options(context=("age", "count"))
    cells = h5ad.read(written(tmp_path / "cells.h5ad"), options)
    np.testing.assert_array_equal(cells.context["age"], AGE)
    np.testing.assert_array_equal(cells.context["count"], np.where(np.arange(COUNT) == 3, np.nan, np.arange(COUNT)))
    before = h5ad.read(old(tmp_path / "old.h5ad"), data.Options(context=("batch",)))
    assert (before.genes, before.names[3]) == (tuple(NAMES), "cell3")
    np.testing.assert_array_equal(before.context["batch"], BATCH)


def test_genes_of_the_same_name_and_old_copies_raise(tmp_path):
    path = written(tmp_path / "cells.h5ad")
    with h5py.File(path, "r+") as file:
        file["var/_index"][0] = NAMES[1]
    with pytest.raises(InputError, match=f"two genes have the name {NAMES[1]}; call var_names_make_unique"):
        h5ad.read(path, data.Options())
    before = old(tmp_path / "old.h5ad")
    with h5py.File(before, "r+") as file:
        file["obsm"] = np.zeros(COUNT, [("X_pca", float, 2)])
    with pytest.raises(InputError, match="obsm is older than AnnData 0.7"):
        h5ad.write(tmp_path / "new.h5ad", before, {"z": np.zeros((COUNT, 2))}, {})
    assert not (tmp_path / "new.h5ad").exists()


def test_genes_of_new_data_are_found_by_name(tmp_path):
    path = written(tmp_path / "cells.h5ad")
    cells = h5ad.read(path, data.Options(target="sort", genes="absent"), ("gene4", "gene1"), training=False)
    np.testing.assert_array_equal(cells.x, X[:, [4, 1]])
    assert cells.target is None
    with pytest.raises(InputError, match="has no gene gene9, which the model was trained on"):
        h5ad.read(path, data.Options(), ("gene9",))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"target": "sort"}, r"obs has no column sort; it has age, barcode, batch, count, kind"),
        ({"layer": "raw"}, r"has no layers/raw; it has doubled"),
        ({"genes": "_index"}, "genes=_index must name a column of var that is true for some genes"),
        ({"drop": ("gene1",)}, "drop=gene1 has no effect on these data"),
    ],
)
def test_unknown_names_raise(fields, says, tmp_path):
    with pytest.raises(InputError, match=says):
        data.load(str(written(tmp_path / "cells.h5ad")), **fields)


def test_links_and_other_files_raise(tmp_path):
    path, other = written(tmp_path / "cells.h5ad"), tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["X"] = X
    with h5py.File(path, "r+") as file:
        del file["X"]
        file["X"] = h5py.ExternalLink(str(other), "/X")
    with pytest.raises(InputError, match="X is a link to another place, which is not followed"):
        data.load(str(path))
    (tmp_path / "text.h5ad").write_text("not HDF5")
    with pytest.raises(InputError, match="is not a .h5ad file"):
        data.load(str(tmp_path / "text.h5ad"))
    broken = written(tmp_path / "broken.h5ad")
    broken.write_bytes(broken.read_bytes()[:3000])
    with pytest.raises(InputError, match="cannot be read"):
        data.load(str(broken))


@pytest.mark.slow
def test_encode_writes_codes_into_a_copy(tmp_path, capsys):
    """A latent library size is written as a column, and the code without it; everything else is unchanged."""
    path, out = written(tmp_path / "cells.h5ad"), tmp_path / "coded.h5ad"
    fields = {"kind": "counts", "context": ("batch",), "genes": "variable", "test": 0.25, "epochs": 1, "seeds": 2}
    fields |= {"batch_size": 9, "hidden": (4,), "latent": 3, "library": "latent", "workdir": tmp_path / "run"}
    model = jaxae.fit("scvi", str(path), progress=False, figures=False, **fields)
    assert call("encode", str(tmp_path / "run"), str(path), "--out", str(out)) == 0
    assert f"codes of 24 examples in obsm (X_scvi_seed0, X_scvi_seed1): {out}" in capsys.readouterr().out
    z = np.asarray(model.encode(X[:, ::2], context={"batch": BATCH}))
    with h5py.File(out) as file, h5py.File(path) as before:
        for seed in range(2):
            np.testing.assert_allclose(file[f"obsm/X_scvi_seed{seed}"], z[seed, :, :3], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(file[f"obs/library_size_seed{seed}"], np.exp(z[seed, :, 3]), rtol=1e-5)
        order = [*file["obs"].attrs["column-order"]]
        assert order == ["kind", "batch", "age", "count", "library_size_seed0", "library_size_seed1"]
        np.testing.assert_array_equal(file["X"], before["X"])
    again = h5ad.read(out, data.Options(context=("library_size_seed1",)))
    np.testing.assert_allclose(again.context["library_size_seed1"], np.exp(z[1, :, 3]), rtol=1e-5)
    np.save(tmp_path / "x.npy", X[:, ::2])
    assert (
        call("encode", str(tmp_path / "run"), str(tmp_path / "x.npy"), "--context", "batch=one", "--out", str(out)) == 2
    )
    assert "is not an .h5ad file; use .npy or .csv" in capsys.readouterr().err


def test_files_of_10x_genomics_are_read():
    folder = Path(__file__).parents[2] / "shared" / "data" / "pbmc"
    if not folder.is_dir():
        pytest.skip(f"no cells in {folder}")
    found = data.load(str(folder / "pbmc_5k_protein_v3.h5ad"), kind="counts", genes="highly_variable", test="0.1")
    assert found.shape == (4000,)
    assert found.features[:2] == ("FAM87B", "AL645608.8")
    assert (len(found.train.x), len(found.test.x)) == (180, 20)
