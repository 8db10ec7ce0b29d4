"""Tables with named columns: types, categories, missing cells and errors."""

import dataclasses

import jax
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import jaxae
from conftest import MNIST
from jaxae import data
from jaxae.commands import encode, reconstruct, sample
from jaxae.data import tables
from jaxae.errors import InputError
from jaxae.report.figures.table import column_errors, column_rmse

ROWS = """name,width,colour,ok,class
a,1.5,red,true,x
b,,blue,false,y
c,-2,,true,x
d,4e3,red,,y
e,0,blue,true,x
"""


def write(path, text):
    path.write_text(text)
    return str(path)


def read(path, **fields):
    return tables.read(path, data.Options(str(path), **fields))


def test_columns_of_numbers_words_and_booleans_are_read(tmp_path):
    (tmp_path / "t.csv").write_text(ROWS)
    found = read(tmp_path / "t.csv", drop=("name",), target="class")
    assert found.features == ("width", "colour=blue", "colour=red", "ok")
    nan = np.nan
    expected = [[1.5, 0, 1, 1], [nan, 1, 0, 0], [-2, nan, nan, 1], [4e3, 0, 1, nan], [0, 1, 0, 1]]
    np.testing.assert_array_equal(found.x, expected)
    assert found.target.tolist() == ["x", "y", "x", "y", "x"]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters_and_a_byte_order_mark_are_read(tmp_path, delimiter):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" + ROWS.replace(",", delimiter).encode())
    assert read(tmp_path / "t.csv", drop=("name",)).features[:2] == ("width", "colour=blue")


def test_file_without_names_is_all_numbers(tmp_path):
    (tmp_path / "t.csv").write_text("1,2.5,?\n3,4.5,7\n9,NA,8\n")
    found = read(tmp_path / "t.csv")
    np.testing.assert_array_equal(found.x, [[1, 2.5, np.nan], [3, 4.5, 7], [9, np.nan, 8]])


def test_parquet_equals_csv(tmp_path):
    (tmp_path / "t.csv").write_text(ROWS)
    columns = {"width": [1.5, None, -2, 4e3, 0], "colour": ["red", "blue", None, "red", "blue"]}
    table = pa.table({**columns, "ok": [True, False, True, None, True], "class": list("xyxyx")})
    parquet.write_table(table.set_column(1, "colour", table["colour"].dictionary_encode()), tmp_path / "t.parquet")
    one, other = read(tmp_path / "t.csv", drop=("name",), target="class"), read(tmp_path / "t.parquet", target="class")
    np.testing.assert_array_equal(one.x, other.x)
    assert one.features == other.features


def test_target_of_real_numbers_is_left_out_with_a_note(tmp_path):
    found = data.load(write(tmp_path / "t.csv", "a,b\n1,0.5\n5,0.25\n2,1\n"), target="b")
    assert found.features == ("a",)
    assert (found.classes, found.notes[-1]) == ((), "target b left out: real numbers cannot be classes")
    assert "target b left out" in data.summary(found)


def test_new_table_is_read_with_the_columns_of_the_model(tmp_path):
    """The column of an absent category is 0; extra columns and the order of columns have no effect."""
    (tmp_path / "t.csv").write_text(ROWS)
    features = read(tmp_path / "t.csv", drop=("name",), target="class").features
    (tmp_path / "new.csv").write_text("ok,colour,extra,width\nfalse,red,9,7\n")
    new = tables.read(tmp_path / "new.csv", data.Options(), features)
    np.testing.assert_array_equal(new.x, [[7, 0, 1, 0]])
    (tmp_path / "less.csv").write_text("ok,width\nfalse,7\n")
    with pytest.raises(InputError, match="has no column colour=blue, which the model was trained on"):
        tables.read(tmp_path / "less.csv", data.Options(), features)


MANY = "\n".join(f"{i * i},word{i}" for i in range(200))


@pytest.mark.parametrize(
    ("text", "fields", "says"),
    [
        (ROWS, {"target": "kind"}, "has no column kind; it has name, width"),
        (ROWS, {"drop": ("nam",)}, "has no column nam; it has name, width"),
        ("a,b\n" + MANY, {}, "column b has 200 different strings, like IDs or text; use drop=b"),
        ("id,b\n7,1\n9,1\n4,2\n", {}, "column 'id' has a different number in every row, like an ID; use drop=id"),
        ("n,b\n3,1\n1,1\n2,2\n", {}, "column 'n' has a different number in every row, like an ID; use drop=n"),
        ("day,b\n2020-01-01,1\n2021-01-01,2\n", {}, "column day holds date32.*, not numbers or strings"),
        ("a,a\n1,2\n", {}, "two columns have the same name; rename one"),
        ("a,b\n1,2,3\n", {}, "cannot be read as a table"),
        ("", {}, "cannot be read as a table"),
        ("a,b\n", {}, "has no rows"),
        ("a\nx\ny\n", {"drop": ("a",)}, "has no columns left to train on"),
    ],
)
def test_invalid_tables_raise_one_line_errors(tmp_path, text, fields, says):
    with pytest.raises(InputError, match=says) as error:
        data.load(write(tmp_path / "t.csv", text), **fields)
    assert "\n" not in str(error.value)


def test_damaged_parquet_raises(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 hello")
    with pytest.raises(InputError, match="cannot be read as a table"):
        data.load(str(tmp_path / "t.parquet"))


@pytest.mark.slow
def test_model_of_a_table_takes_and_returns_named_columns(tmp_path):
    rng = np.random.default_rng(0)
    lines = [f"{a:.4f},{100 * a + b:.3f},{'xy'[int(a > 0)]}" for a, b in rng.normal(size=(60, 2))]
    path = write(tmp_path / "t.csv", "\n".join(["a,b,c", *lines]))
    fields = {"epochs": 2, "batch_size": 10, "hidden": (8,), "progress": False, "figures": False}
    model = jaxae.fit("vae", path, target="c", workdir=tmp_path / "run", **fields)
    assert model.shape == (2,)
    out = tmp_path / "codes.csv"
    encode.encode(encode.Options(run=tmp_path / "run", data=path, out=out))
    assert len(out.read_text().splitlines()) == 61
    out = tmp_path / "decoded.csv"
    reconstruct.reconstruct(reconstruct.Options(run=tmp_path / "run", data=path, out=out))
    assert out.read_text().splitlines()[0] == "name,a,b"
    out = tmp_path / "samples.csv"
    sample.sample(sample.Options(run=tmp_path / "run", out=out, n=5))
    header, *rows = out.read_text().splitlines()
    assert header == "name,a,b"
    expected = np.asarray(model.sample(jax.random.key(0), 5))
    np.testing.assert_allclose([[float(x) for x in row.split(",")[1:]] for row in rows], expected, rtol=1e-6)


def test_figure_of_columns_has_their_names_and_errors(tmp_path):
    """The RMSE of observed entries in standard deviations, in ascending order from the bottom."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3)) @ np.diag([1, 50, 0.1])
    lines = [",".join("" if rng.random() < 0.2 else f"{value:.5f}" for value in row) for row in x]
    path = write(tmp_path / "t.csv", "\n".join(["small,large $x^$,third", *lines]))
    model = jaxae.fit("vae", path, epochs=2, batch_size=10, hidden=(8,), progress=False)
    dataset = data.load(path)
    inside = dataclasses.replace(model, scale=None)
    known = dataset.test.observed > 0
    error = (np.asarray(inside.reconstruct(dataset.test.x)) - dataset.test.x) ** 2
    expected = np.sqrt([error[known[:, column], column].mean() for column in range(3)])
    np.testing.assert_allclose(column_rmse(inside, dataset), expected, rtol=1e-5)
    axis = column_errors(inside, dataset, "title").axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == [dataset.features[i] for i in np.argsort(expected)]
    np.testing.assert_allclose([bar.get_width() for bar in axis.patches], np.sort(expected), rtol=1e-5)


UCI = MNIST.parent / "tables"


@pytest.mark.skipif(not UCI.is_dir(), reason="no tables in JAXAE_DATA")
@pytest.mark.parametrize(
    ("name", "fields", "rows", "columns", "classes"),
    [
        ("wine-red", {"target": "quality"}, 1599, 11, 6),
        ("yeast", {"target": "site", "drop": ("name",)}, 1484, 8, 10),
        ("wdbc-missing", {"target": "Class"}, 569, 30, 2),
        ("abalone", {"target": "Rings"}, 4177, 10, 28),
        ("concrete", {}, 1030, 9, 0),
    ],
)
def test_uci_tables_have_the_expected_shapes_classes_and_missing_entries(name, fields, rows, columns, classes):
    found = data.load(str(UCI / f"{name}.csv"), **fields)
    assert (len(found.train.x) + len(found.test.x), found.shape, len(found.classes)) == (rows, (columns,), classes)
    missing = sum(int((split.observed == 0).sum()) for split in found.splits if split.observed is not None)
    assert missing == (867 if "missing" in name else 0)


def test_unnamed_column_of_row_numbers_raises(tmp_path):
    lines = [f"{number},{number / 7},{number % 3}" for number in range(20)]
    with pytest.raises(InputError, match="column '' has a different number in every row, like an ID"):
        data.load(write(tmp_path / "t.csv", "\n".join([",a,b", *lines])))


@pytest.mark.parametrize("name", ["customerID", "row_id", "Index", "Unnamed: 0", "__index_level_0__", "Nr"])
def test_ids_are_whole_numbers_with_such_a_name(tmp_path, name):
    ids = [7 * number % 101 + 3 for number in range(30)]
    with pytest.raises(InputError, match="a different number in every row, like an ID; use drop="):
        data.load(write(tmp_path / "t.csv", "\n".join([f"{name},b", *(f"{x},{x % 3}" for x in ids)])))
    real = write(tmp_path / "r.csv", "\n".join(["body_mass_index,b", *(f"{x / 3:.3f},{x % 3}" for x in ids)]))
    assert data.load(real).features == ("body_mass_index", "b")


def test_new_table_is_encoded_as_the_training_table(tmp_path):
    """Three consecutive ages are not IDs, a new category gives a note, and strings in place of numbers raise."""
    old = write(tmp_path / "old.csv", "age,sex\n" + "\n".join(f"{30 + n % 7},{'fm'[n % 2]}" for n in range(20)))
    new = write(tmp_path / "new.csv", "age,sex\n40,f\n41,x\n42,m\n")
    found = data.load(old, test=new, scale="none")
    np.testing.assert_array_equal(found.test.x, [[40, 1, 0], [41, 0, 0], [42, 0, 1]])
    assert any("1 row with an unseen category of sex, such as 'x'" in note for note in found.notes)
    for text, says in (
        ("age,sex\nold,f\n", "column age holds strings, but numbers in the training table"),
        ("age\n1\n", "no column sex"),
    ):
        with pytest.raises(InputError, match=says):
            data.load(old, test=write(tmp_path / "bad.csv", text))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "a,b\n1,2\n3,4\nunknown,5\n6,7\n",
            "column a has numbers and strings such as 'unknown'; clear these",
        ),
        ("a;b\n1,5;2\n2,5;3\n3,5;2\n", "column a has decimal commas, such as 1,5; use points"),
    ],
)
def test_numbers_mixed_with_strings_raise(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        data.load(write(tmp_path / "t.csv", text))


def test_delimiters_in_quotes_do_not_count(tmp_path):
    found = data.load(write(tmp_path / "t.csv", '"a, in m, or ft";b\n1;2.5\n5;3\n2;4\n'))
    assert found.features == ("a, in m, or ft", "b")
