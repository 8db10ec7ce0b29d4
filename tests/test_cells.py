"""Tables of the user with empty cells: CSV, TSV and Parquet files and data frames, filled in."""

import csv
import io
import json

import numpy as np
import pytest

import jaxae
from conftest import call, equal
from jaxae.data import cells, tables
from jaxae.data.options import Options

FEATURES = ("width", "kind=a b", "kind=c", "no, it")
TEXT = 'id;width;kind;"no, it";note\r\n1;;a b;2.50;"x;y"\r\n2;1e-3;NA;?;"a ""q"""\r\n\r\n3;"";"a b";007;'
MISSING = np.array([[1, 0, 0, 0], [0, 1, 1, 1], [1, 0, 0, 0]], bool)
X = np.array([[1 / 3, 1, 0, 2.5], [0.001, 0.2, 0.7, -12345.678], [7e-9, 1, 0, 7]])


def test_filled_text_differs_in_the_missing_cells_only():
    """Line ends, quotes, blank lines, numbers as written, and a last line without an end are kept."""
    found = cells.filled_text(TEXT.encode(), ".csv", FEATURES, MISSING, X).decode()
    assert found == (
        'id;width;kind;"no, it";note\r\n'
        '1;0.33333334;a b;2.50;"x;y"\r\n'
        '2;1e-3;c;-12345.678;"a ""q"""\r\n'
        "\r\n"
        '3;7e-09;"a b";007;'
    )
    nothing = np.zeros((3, 4), bool)
    assert cells.filled_text(TEXT.encode(), ".csv", FEATURES, nothing, X) == TEXT.encode()


def test_filled_text_keeps_mark_encoding_and_files_without_titles():
    content = b"\xef\xbb\xbfname,x\nJos\xc3\xa9,1\n\xff,\n"
    found = cells.filled_text(content, ".csv", ("x",), np.array([[False], [True]]), np.array([[1.0], [2.5]]))
    assert found == b"\xef\xbb\xbfname,x\nJos\xc3\xa9,1\n\xff,2.5\n"
    found = cells.filled_text(b"1\t\n\t4\n", ".tsv", ("f0", "f1"), np.eye(2)[::-1] > 0, np.array([[1, 9.0], [8, 4]]))
    assert found == b"1\t9\n8\t4\n"


def test_categories_that_need_quotes_are_quoted():
    content = b'kind,x\n"a,""b""",1\n,2\n'
    features, missing = ('kind=a,"b"', "kind=c", "x"), np.array([[0, 0, 0], [1, 1, 0]], bool)
    found = cells.filled_text(content, ".csv", features, missing, np.array([[1, 0, 1], [0.9, 0.1, 2.0]]))
    assert found == b'kind,x\n"a,""b""",1\n"a,""b""",2\n'
    assert [*csv.reader(io.StringIO(found.decode()))][2] == ['a,"b"', "2"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (123456789.0, "123456790"),
        (-2e9, "-2000000000"),
        (0.1, "0.1"),
        (5.0, "5"),
        (1 / 3, "0.33333334"),
        (1e15, "1e+15"),
        (2.5e-7, "2.5e-07"),
        (0.0, "0"),
        ("=1", "=1"),
    ],
)
def test_filled_cell_has_the_digits_of_its_number_in_float32(value, text):
    assert cells.text_of(value) == text
    assert isinstance(value, str) or np.float32(text) == np.float32(value)


def test_column_of_numbers_whose_title_looks_like_a_category_is_not_one(tmp_path):
    """Column `a`, which the model does not use, and column `a=b` of the model."""
    content, missing = b"a,a=b,x\n,,1\nu,3,2\n", np.array([[True, False], [False, False]])
    found = cells.filled_text(content, ".csv", ("a=b", "x"), missing, np.array([[7.0, 1], [3, 2]]))
    assert found == b"a,a=b,x\n,7,1\nu,3,2\n"
    (tmp_path / "t.csv").write_bytes(b"a=b,a,x\n,u,1\n3,b,2\n")
    np.testing.assert_array_equal(
        tables.read(tmp_path / "t.csv", Options(), ("a=b", "x")).x, np.array([[np.nan, 1], [3, 2]])
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"x,y\n1,\n", "it has 1 lines of data, not 2"),
        (b"x,y\n1,\n2,3\n4,5\n", "it has 3 lines of data, not 2"),
        (b"x,y\n1,2\n2,3\n", "row 0, column y: 2 is not empty"),
    ],
)
def test_lines_that_do_not_match_the_rows_raise(content, says):
    missing = np.array([[False, True], [False, False]])
    with pytest.raises(ValueError, match=says):
        cells.filled_text(content, ".csv", ("x", "y"), missing, np.ones((2, 2)))


def test_parquet_keeps_types_and_all_other_cells(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table(
        {
            "count": pa.array([3, None, 5], pa.int32()),
            "x": pa.array([0.1, 0.2, None], pa.float32()),
            "kind": pa.array(["a", None, "b"]).dictionary_encode(),
            "whole": pa.array([1, 2, 3], pa.int8()),
            "note": ["u", "v", None],
        }
    )
    parquet.write_table(table, tmp_path / "t.parquet")
    features = ("count", "x", "kind=a", "kind=b", "whole")
    read = tables.read(tmp_path / "t.parquet", Options(drop=("note",)), features)
    x = np.where(np.isnan(read.x), [[0, 0, 0, 0, 0], [4.5, 0, 0.3, 0.6, 0], [0, 0.7, 0, 0, 0]], read.x)
    content = cells.filled_file((tmp_path / "t.parquet").read_bytes(), ".parquet", features, np.isnan(read.x), x)
    found = parquet.read_table(io.BytesIO(content))
    assert found.to_pydict() == {
        "count": [3.0, 4.5, 5.0],
        "x": [*table["x"].to_pylist()[:2], float(np.float32(0.7))],
        "kind": ["a", "b", "b"],
        "whole": [1, 2, 3],
        "note": ["u", "v", None],
    }
    assert found.schema.field("x").type == pa.float32()
    assert found.schema.field("whole").type == pa.int8()


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A CSV file with text, a class, a covariate and missing cells, and a conditional model of it.

    Its lines end in CRLF, except the last one, which has no end; its text is quoted, with a comma.
    """
    folder = tmp_path_factory.mktemp("fish")
    rng = np.random.default_rng(0)
    lines = ["note,length,colour,age,site,weight"]
    for i in range(40):
        length, age = rng.normal(300, 40), rng.integers(1, 9)
        row = [f"{length:.1f}", "red" if length > 300 else "grey", f"{age}", "AB"[i % 2], f"{length / 100:.3f}"]
        row[:2] = ["" if rng.random() < 0.2 else cell for cell in row[:2]]
        row[4] = "" if i in (3, 30) else row[4]
        lines.append(",".join([f'"n, {i}"', *row]))
    (folder / "fish.csv").write_bytes("\r\n".join(lines).encode())
    fields = {"target": "site", "context": "age", "drop": "note", "hidden": (8,), "latent": 2}
    jaxae.fit("cvae", folder / "fish.csv", **fields, epochs=2, progress=False).save(folder / "run")
    return folder


@pytest.mark.slow
def test_csv_round_trip_from_the_command_line(table, capsys):
    """Missing numbers and strings, a text column, a class, a covariate, units; the other cells keep all their bytes."""
    source = (table / "fish.csv").read_bytes().decode()
    arguments = (table / "run", table / "fish.csv", "--samples", 40, "--draws", 2)
    assert call("impute", *arguments, "--out", table / "filled.csv") == 0
    before = [line.rsplit(",", 5) for line in source.split("\r\n")]
    empty = [(r, c) for r, row in enumerate(before[1:]) for c, cell in enumerate(row) if not cell]
    examples = len({r for r, _ in empty})
    line = f"{len(empty)} missing cells of {examples} of 40 examples filled in: "
    assert line in capsys.readouterr().out
    read = jaxae.data.load(str(table / "fish.csv"), target="site", context=("age",), drop=("note",))
    assert f"{len(empty)} missing entries" in jaxae.data.summary(read)
    listed = {
        (int(line["row"]), line["column"]): line
        for line in csv.DictReader(io.StringIO((table / "filled-cells.csv").read_text()))
    }
    filled = {place: line["value"] for place, line in listed.items()}
    assert {*filled} == {(r, before[0][c]) for r, c in empty}
    after = [[cell or filled[r - 1, before[0][c]] for c, cell in enumerate(row)] for r, row in enumerate(before)]
    assert (table / "filled.csv").read_bytes() == "\r\n".join(map(",".join, after)).encode()
    assert all(float(line["deviation"]) > 0 <= float(line["standard_error"]) for line in listed.values())
    lengths = [float(value) for (_, column), value in filled.items() if column == "length"]
    assert 150 < min(lengths) < max(lengths) < 450  # in the units of the file
    assert {value for (_, column), value in filled.items() if column == "colour"} <= {"red", "grey"}
    names = ("fish.csv", "filled.csv", "filled-1.csv", "filled-2.csv")
    assert len({(table / name).read_bytes() for name in names}) == 4
    assert call("impute", *arguments[:3], 40, "--out", table / "filled.npz", "--y", "B", "--context", "age=3") == 0
    assert line in capsys.readouterr().out
    with np.load(table / "filled.npz") as found:
        assert sorted(found) == ["deviation", "draws", "ess", "standard_error", "x"]
        assert found["x"].shape == (40, 4)
        assert np.isfinite(found["x"]).all()


def test_impute_refuses_bad_output_in_one_line(table, capsys):
    for out, says in (
        ("fish.csv", "is DATA itself"),
        ("filled.parquet", "differs in format from"),
        ("filled.png", "rows of a table are not images"),
        ("filled.txt", "must end in one of .csv, .tsv, .parquet, .npy, .npz, .png"),
    ):
        assert call("impute", table / "run", table / "fish.csv", "--out", table / out) == 2
        assert says in capsys.readouterr().err


@pytest.mark.slow
def test_data_frame_round_trip(table):
    """The data frame of the file, with its class and covariate: the cells of the command line."""
    pandas = pytest.importorskip("pandas")
    model, frame = jaxae.load(table / "run"), pandas.read_csv(table / "fish.csv")
    frame.index = frame.index + 100
    frame["age"] = frame["age"].astype("Int64")
    frame["colour"] = frame["colour"].astype("category")
    original = frame.copy(deep=True)
    found = model.impute(frame, 40, draws=2, y=frame["site"], context=frame[["age"]])
    pandas.testing.assert_frame_equal(frame, original)
    assert call("impute", table / "run", table / "fish.csv", "--samples", 40, "--out", table / "again.csv") == 0
    again = pandas.read_csv(table / "again.csv")
    assert list(found.x.columns) == list(frame.columns)
    assert list(found.x.index) == list(frame.index)
    assert not found.x[["length", "colour", "weight"]].isna().any(axis=None)
    for name in frame.columns:
        known = ~original[name].isna()
        assert found.x[name][known].equals(original[name][known])
    np.testing.assert_allclose(found.x["length"], again["length"], rtol=1e-5)
    assert call("score", table / "run", table / "fish.csv", "--out", table / "score.csv") == 0
    scores = model.score(frame[[*reversed(frame.columns)]], y=frame["site"], context=frame[["age"]])
    np.testing.assert_allclose(pandas.read_csv(table / "score.csv")["loss"], scores, rtol=1e-4)
    assert found.x["colour"].astype(str).tolist() == again["colour"].tolist()
    assert len(found.draws) == 2
    assert not found.draws[0]["length"].equals(found.draws[1]["length"])
    whole = frame.assign(weight=frame["weight"].round().astype("Int64"))
    assert model.impute(whole, 10, y=frame["site"], context=frame[["age"]]).x["weight"].dtype == "Float64"
    with pytest.raises(ValueError, match="has no column length, which the model was trained on"):
        model.impute(frame.drop(columns="length"), y=frame["site"], context=frame[["age"]])
    with pytest.raises(ValueError, match="column length holds strings, but numbers"):
        model.impute(frame.assign(length="long"), y=frame["site"], context=frame[["age"]])


@pytest.mark.slow
def test_model_of_a_data_frame_remembers_its_columns(tmp_path):
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(rng.normal(5, 2, (30, 3)), columns=["b", "a", "c"])
    frame.iloc[3, 1] = frame.iloc[7, 0] = np.nan
    model = jaxae.fit("miwae", frame, hidden=(4,), latent=2, epochs=1, seeds=2, progress=False)
    assert model.features == ("b", "a", "c")
    model.save(tmp_path / "run")
    assert jaxae.load(tmp_path / "run").features == ("b", "a", "c")
    other = frame[["c", "a", "b"]].assign(text="x")
    found = model.impute(other, 30, mixture=True).x
    assert list(found.columns) == ["c", "a", "b", "text"]
    np.testing.assert_array_equal(found[["b", "a", "c"]], model.impute(frame, 30, mixture=True).x)
    assert equal(model.impute(frame.to_numpy(), 30, mixture=True).x, found[["b", "a", "c"]].to_numpy())
    for method in (model.encode, model.reconstruct, model.score, lambda x: model.terms(x)["loss"], model.corrupted):
        assert equal(method(other), method(frame))
        with pytest.raises(ValueError, match="the data frame has no column a, which the model was trained on"):
            method(frame[["b", "c"]])
    distances = [model.score(part, by="latent_distance", reference=part) for part in (frame, other)]
    assert equal(*distances)
    with pytest.raises(ValueError, match="a data frame has no axis of seeds; pass mixture=True"):
        model.impute(frame)


@pytest.mark.slow
def test_data_frame_is_read_as_its_file(table):
    """Strings are categories; classes, covariates and columns to leave out have names; columns of splits too."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(table / "fish.csv")
    of_file = jaxae.data.load(str(table / "fish.csv"), target="site", context=("age",), drop=("note",), test="0")
    fields = {"target": "site", "drop": ("note",)}
    for context in ("age", ["age"]):
        found = jaxae.data.from_arrays(frame, context=context, test=0, **fields)
        assert found.features == of_file.features == ("length", "colour=grey", "colour=red", "weight")
        assert (found.classes, found.covariates) == (of_file.classes, of_file.covariates)
        assert equal(found.train, of_file.train)
    turned = frame[[*reversed(frame.columns)]].assign(colour=frame["colour"].astype("category"))
    found = jaxae.data.from_arrays(frame, context="age", test=turned, **fields)
    assert equal(found.test, of_file.train)
    numbers = frame[["length", "weight"]]
    found = jaxae.data.from_arrays(numbers, test=numbers[["weight", "length"]])
    assert equal(found.test, found.train)
    model = jaxae.fit("miwae", frame.drop(columns="note"), hidden=(4,), latent=2, epochs=1, progress=False)
    assert model.features == ("length", "colour=grey", "colour=red", "age", "site=A", "site=B", "weight")
    assert not model.impute(frame, 10).x[[*frame.columns]].isna().any(axis=None)
    for more, says in (
        ({"drop": ("other",)}, "x has no column other; it has note, length"),
        ({}, "x: column note has 40 different strings, like IDs or text; use drop=note"),
        ({"drop": ("note",), "test": np.ones((3, 4))}, "test is not a data frame, as x is"),
        ({**fields, "y": frame["site"]}, "target=site and y both give classes"),
    ):
        with pytest.raises(ValueError, match=says):
            jaxae.data.from_arrays(frame, **more)


@pytest.mark.slow
def test_run_of_images_completes_pictures_with_missing_pixels(tmp_path, capsys):
    rng = np.random.default_rng(0)
    images = rng.random((20, 6, 5)).astype(np.float32)
    images[rng.random(images.shape) < 0.3] = np.nan
    np.save(tmp_path / "x.npy", images)
    fields = {"hidden": (4,), "latent": 2, "epochs": 1, "batch_size": 8, "progress": False}
    jaxae.fit("miwae", tmp_path / "x.npy", **fields, seeds=2).save(tmp_path / "run")
    files = {".npy": [], ".png": ["--member", 1]}
    for suffix, more in files.items():
        out = tmp_path / f"filled{suffix}"
        assert call("impute", tmp_path / "run", tmp_path / "x.npy", "--samples", 5, "--out", out, *more) == 0
    filled, known = np.load(tmp_path / "filled.npy"), ~np.isnan(images)
    assert equal(filled.reshape(images.shape)[known], images[known])
    assert np.isfinite(filled).all()
    assert f"{int((~known).sum())} missing cells of 20 of 20 examples filled in" in capsys.readouterr().out
    model = jaxae.load(tmp_path / "run")
    assert equal(model.impute(images, 5, mixture=True).x, filled.reshape(images.shape))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["experiment"] == "miwae"
