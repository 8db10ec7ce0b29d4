"""Commands that apply a trained model to new data, against the same calls in Python."""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from PIL import Image

import jaxae
from conftest import call, equal
from jaxae import data, experiments, run
from jaxae.commands import _completion
from jaxae.commands import list as lists
from jaxae.commands.main import HELP, main
from jaxae.errors import Diverged
from jaxae.experiments import dense, sequence, vae
from jaxae.measure import anomalies, mixture
from jaxae.run import command_line, directory
from jaxae.training.examples import CHUNK

COMMANDS = [
    "activations",
    "classifier",
    "compare",
    "encode",
    "export",
    "impute",
    "likelihood",
    "list",
    "probe",
    "quality",
    "reconstruct",
    "repeat",
    "replay",
    "report",
    "sample",
    "score",
    "share",
    "sweep",
]
X = data.load("digits").test.x


def train(module, path, **fields):
    config = module.Config(epochs=1, figures="none", workdir=str(path), **fields)
    return run.train(config, module.build, module.__name__.rpartition(".")[2])


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A run with one seed."""
    return train(vae, tmp_path_factory.mktemp("one") / "run", hidden=(8,))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run with seeds 3 and 4."""
    return train(vae, tmp_path_factory.mktemp("two") / "run", hidden=(8,), seed=3, seeds=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of two classes; their relative paths, in order."""
    path = tmp_path_factory.mktemp("data") / "images"
    names = ["a/9.png", "a/x,y.png", "b/01.png", "b/1.png"]
    for name, image in zip(names, X, strict=False):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path / name)
    return path, names


@pytest.fixture
def file(tmp_path):
    """A file of more than `CHUNK` examples."""
    x = np.concatenate([X, X, X])
    assert len(x) > CHUNK
    np.save(tmp_path / "x.npy", x)
    return tmp_path / "x.npy", x


def rows(path):
    with path.open(newline="") as opened:
        head, *lines = csv.reader(opened)
    return head, [line[0] for line in lines], np.array([line[1:] for line in lines], np.float32)


def test_commands_write_the_arrays_of_the_python_calls(one, file, tmp_path, capsys):
    path, x = file
    model = jaxae.load(one)
    for name, more, expected in (
        ("encode", (), model.encode(x)),
        ("reconstruct", (), model.reconstruct(x)),
        ("score", (), model.score(x)),
        ("score", ("--by", "kl"), model.score(x, "kl")),
    ):
        capsys.readouterr()
        assert call(name, one, path, "--out", tmp_path / "out.npy", *more) == 0
        found = np.load(tmp_path / "out.npy", allow_pickle=False)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
        said = capsys.readouterr().out
        assert said.endswith(f" of {len(x):,} examples, {[*found.shape]} float32: {tmp_path / 'out.npy'}\n")
        assert said.count("\n") == 1
    assert call("sample", one, "--n", 2345, "--seed", 7, "--out", tmp_path / "out.npy") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), model.sample(jax.random.key(7), 2345))
    assert call("sample", one, "--n", 45, "--seed", 7, "--mixture", 2, "--out", tmp_path / "out.npy") == 0
    fitted = mixture.fit(model.encode(data.load("digits").train), 2)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), model.sample(jax.random.key(7), 45, fitted))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npy", "x.npy"]


@pytest.mark.slow
def test_several_seeds_give_a_leading_axis_and_member_selects_one(two, file, tmp_path):
    path, x = file
    model, out = jaxae.load(two), tmp_path / "out.npy"
    for name, every, second in (
        ("encode", model.encode(x), model[1].encode(x)),
        ("score", model.score(x), model[1].score(x)),
        ("reconstruct", model.reconstruct(x), model[1].reconstruct(x)),
    ):
        for more, expected in (((), every), (("--member", 1), second)):
            assert call(name, two, path, "--out", out, *more) == 0
            np.testing.assert_array_equal(np.load(out), expected)
    assert call("sample", two, "--n", 1234, "--out", out) == 0
    np.testing.assert_array_equal(np.load(out), model.sample(jax.random.key(0), 1234))
    assert call("sample", two, "--n", 1234, "--noise", "--out", out) == 0
    np.testing.assert_array_equal(np.load(out), model.sample(jax.random.key(0), 1234, noise=True))
    assert call("sample", two, "--n", 5, "--mixture", 3, "--out", out) == 0
    train = data.load("digits").train
    each = [m.sample(jax.random.key(0), 5, mixture.fit(m.encode(train), 3)) for m in (model[0], model[1])]
    np.testing.assert_array_equal(np.load(out), np.stack(each))


@pytest.mark.slow
def test_csv_has_a_row_for_each_image_of_a_folder(one, two, folder, tmp_path):
    path, names = folder
    out = tmp_path / "out.csv"
    for workdir, columns in ((one, ["z0", "z1"]), (two, ["z0_seed3", "z1_seed3", "z0_seed4", "z1_seed4"])):
        assert call("encode", workdir, path, "--out", out) == 0
        head, found, values = rows(out)
        assert (head, found) == (["name", *columns], names)
        codes = np.asarray(jaxae.load(workdir).encode(X[:4]))
        np.testing.assert_array_equal(values, codes if workdir == one else np.concatenate(codes, axis=1))
    for workdir, columns in ((one, ["bce"]), (two, ["bce_seed3", "bce_seed4"])):
        assert call("score", workdir, path, "--by", "bce", "--out", out) == 0
        head, found, values = rows(out)
        assert (head, found) == (["name", *columns], names)
        expected = jaxae.load(workdir).score(X[:4], "bce")
        np.testing.assert_array_equal(values, expected.reshape(-1, 4).T)


@pytest.mark.slow
def test_scores_have_p_values_against_a_split_whose_scores_are_kept(one, two, tmp_path, capsys):
    np.save(tmp_path / "x.npy", X[:4])
    for workdir, by in ((one, "latent_distance"), (two, "mse")):
        shutil.copytree(workdir, tmp_path / workdir.parent.name)
        path, out, model = tmp_path / workdir.parent.name, tmp_path / "out.csv", jaxae.load(workdir)
        train = data.load("digits").train
        reference = {"reference": train} if by == "latent_distance" else {}
        scores, known = model.score(X[:4], by, **reference), model.score(train, by, **reference)
        assert call("score", path, tmp_path / "x.npy", "--by", by, "--p-value", "train", "--out", out) == 0
        assert "with p-values against 1,438 scores of the train split" in capsys.readouterr().out
        first = out.read_bytes()
        heads, values = table(out)
        marks = ["_seed3", "_seed4"] if len(model) > 1 else [""]
        assert heads == ["name", *(f"{name}{mark}" for mark in marks for name in (by, "p_value"))]
        p = anomalies.p_values(scores, known)
        expected = np.stack([scores, p], -1).reshape(-1, 4, 2).swapaxes(0, 1).reshape(4, -1)
        np.testing.assert_allclose(values, expected, rtol=1e-6)
        (file,) = (path / "scores").iterdir()
        np.testing.assert_array_equal(np.load(file), known)
        if by == "mse":
            continue
        np.save(file, np.full_like(known, -np.inf))  # read again
        assert call("score", path, tmp_path / "x.npy", "--by", by, "--p-value", "train", "--out", out) == 0
        assert (table(out)[1][:, 1] == np.float32(1 / 1439)).all()
        file.write_bytes(b"damaged")  # computed again
        assert call("score", path, tmp_path / "x.npy", "--by", by, "--p-value", "train", "--out", out) == 0
        assert out.read_bytes() == first
    capsys.readouterr()
    for wrong, said in (
        (("--p-value", "valid"), "--p-value valid needs a validation split"),
        (("--p-value", "train", "--out", "x.npy"), "--p-value train is a column of a table; use --out scores.csv"),
        (("--ensemble", "mean"), "--ensemble mean needs several seeds"),
    ):
        assert call("score", one, tmp_path / "x.npy", *wrong) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("how", ["mean", pytest.param("median", marks=pytest.mark.slow)])
def test_ensemble_of_seeds_has_one_score_and_one_p_value(how, two, tmp_path):
    np.save(tmp_path / "x.npy", X[:4])
    out, model = tmp_path / "out.csv", jaxae.load(two)
    scores, known = model.score(X[:4]), model.score(data.load("digits").train)
    ensemble = [anomalies.ensemble(part, known, how) for part in (scores, known)]
    assert call("score", two, tmp_path / "x.npy", "--ensemble", how, "--p-value", "train", "--out", out) == 0
    heads, values = table(out)
    assert heads == ["name", "loss", "p_value"]
    np.testing.assert_allclose(values, np.stack([ensemble[0], anomalies.p_values(*ensemble)], -1), rtol=1e-5)


@pytest.fixture(scope="module")
def orders(tmp_path_factory):
    """A saved model with two seeds of a table with missing cells."""
    x = np.random.default_rng(0).normal(size=(60, 4)) * [1, 10, 100, 1000] + 5
    x[7, [1, 3]] = x[9, [0, 2, 3]] = np.nan
    lines = ["a,b c,d,e", *(",".join("" if np.isnan(value) else f"{value:.6f}" for value in row) for row in x)]
    folder = tmp_path_factory.mktemp("orders")
    (folder / "orders.csv").write_text("\n".join(lines) + "\n")
    fields = {"hidden": (4,), "latent": 2, "epochs": 1, "batch_size": 20, "seeds": 2, "progress": False}
    jaxae.fit("vae", folder / "orders.csv", **fields).save(folder / "run")
    return folder


def test_scores_name_the_columns_with_the_largest_errors_of_a_row(orders, tmp_path, capsys):
    """In standard deviations of the training rows, of all seeds or of one; fewer where fewer cells are measured."""
    path, out, model = orders / "run", tmp_path / "out.csv", jaxae.load(orders / "run")
    x = np.genfromtxt(orders / "orders.csv", delimiter=",", skip_header=1).astype(np.float32)
    square = ((np.asarray(model.reconstruct(x)) - x) / np.asarray(model.scale.factor)) ** 2
    for more, errors, numbers in (
        ((), square.mean(0), ["loss_seed0", "loss_seed1"]),
        (("--ensemble", "mean", "--p-value", "train"), square.mean(0), ["loss", "p_value"]),
        (("--member", 1), square[1], ["loss"]),
    ):
        assert call("score", path, orders / "orders.csv", "--columns", 3, *more, "--out", out) == 0
        heads, *lines = csv.reader(out.read_text().splitlines())
        assert heads == ["name", "column1", "column2", "column3", *numbers]
        for line, error in zip(lines, errors, strict=True):
            worst = sorted((-e, name) for e, name in zip(error, ("a", "b c", "d", "e"), strict=True) if not np.isnan(e))
            assert line[1:4] == ([name for _, name in worst] + ["", ""])[:3]
    assert lines[9][1:4] == ["b c", "", ""]
    assert len({line[1] for line in lines}) > 1
    np.save(tmp_path / "x.npy", x)
    capsys.readouterr()
    assert call("score", path, tmp_path / "x.npy", "--member", 1, "--columns", 1) == 0
    assert [line.split(",")[1] for line in capsys.readouterr().out.splitlines()[1:]] == [line[1] for line in lines]


def test_columns_of_scores_are_those_of_a_table(one, orders, tmp_path, capsys):
    np.save(tmp_path / "x.npy", X[:4])
    rows = orders / "run", orders / "orders.csv"
    for where, wrong, said in (
        ((one, tmp_path / "x.npy"), ("--columns", 1), "--columns 1 names columns of a table, but an example of"),
        (rows, ("--columns", 5), "--columns 5: the table has 4 columns"),
        (rows, ("--columns", -1), "--columns -1 must be at least 0"),
        (rows, ("--columns", 1, "--out", "x.npy"), "--columns 1 adds names, which no .npy holds; use --out scores.csv"),
    ):
        assert call("score", *where, *wrong) == 2
        assert said in capsys.readouterr().err


def table(path):
    """Heads, and the numbers after the first column."""
    heads, *rows = csv.reader(path.read_text().splitlines())
    return heads, np.array([row[1:] for row in rows], np.float32)


def test_scores_are_printed_as_rows_without_a_file(one, two, folder, tmp_path, capsys):
    path, names = folder
    for workdir, columns in ((one, ["loss"]), (two, ["loss_seed3", "loss_seed4"])):
        assert call("score", workdir, path) == 0
        head, *lines = csv.reader(capsys.readouterr().out.splitlines())
        assert (head, [name for name, *_ in lines]) == (["name", *columns], names)
        expected = jaxae.load(workdir).score(X[:4])
        np.testing.assert_array_equal(np.array([line[1:] for line in lines], np.float32), expected.reshape(-1, 4).T)
    for wrong in (("--out", tmp_path / "out.txt"), ("--by", "foo")):
        assert call("score", one, path, *wrong) == 2
        assert capsys.readouterr().err.count("\n") == 1
    print("standard output is still open")


def test_commands_apply_to_the_test_split_of_a_named_data_set(one, tmp_path, capsys):
    assert call("score", one, "digits", "--out", tmp_path / "out.csv") == 0
    assert " of 359 examples (the test split of digits), [359] " in capsys.readouterr().out
    head, names, values = rows(tmp_path / "out.csv")
    assert (head, names) == (["name", "loss"], [str(i) for i in range(359)])
    np.testing.assert_array_equal(values[:, 0], jaxae.load(one).score(X))


def test_pictures_show_originals_over_reconstructions_and_samples(one, two, tmp_path):
    np.save(tmp_path / "x.npy", X[:12])
    out = tmp_path / "out.png"

    def tiles():
        with Image.open(out) as picture:
            grid = np.asarray(picture)
        return grid.reshape(grid.shape[0] // 30, 30, -1, 30).swapaxes(1, 2)[:, :, 1:29, 1:29] / 255

    for workdir, more, model in ((one, (), jaxae.load(one)), (two, ("--member", 1), jaxae.load(two)[1])):
        assert call("reconstruct", workdir, tmp_path / "x.npy", "--out", out, *more) == 0
        shown, again = tiles(), np.asarray(model.reconstruct(X[:12]))[..., 0]
        assert shown.shape[:2] == (4, 10)
        for row, images in ((0, X[:10, ..., 0] / 255), (1, again[:10]), (2, X[10:12, ..., 0] / 255), (3, again[10:])):
            np.testing.assert_allclose(shown[row, : len(images)], images, atol=0.51 / 255)
            assert not shown[row, len(images) :].any()
    assert call("sample", one, "--n", 5, "--out", out) == 0
    shown = tiles().reshape(-1, 28, 28)
    expected = np.asarray(jaxae.load(one).sample(jax.random.key(0), 5))[..., 0]
    np.testing.assert_allclose(shown[:5], expected, atol=0.51 / 255)
    assert not shown[5:].any()


def test_picture_shows_at_most_the_first_hundred_examples(one, file, tmp_path, capsys):
    assert call("reconstruct", one, file[0], "--out", tmp_path / "out.png") == 0
    assert "reconstructions of 100 of 1,077 examples" in capsys.readouterr().out
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (300, 600)


@pytest.mark.slow
def test_sequences_are_padded_to_the_length_of_the_run(tmp_path):
    rng = np.random.default_rng(0)
    long, short = ([rng.random((t, 2), np.float32) for t in lengths] for lengths in ((5, 9, 7, 3), (4, 6)))
    for name, sequences in (("train", long), ("new", short), ("longer", [rng.random((10, 2), np.float32)])):
        np.savez(tmp_path / f"{name}.npz", *sequences)
    workdir = train(sequence, tmp_path / "run", data=str(tmp_path / "train.npz"), batch_size=2, hidden=4, latent=3)
    x, lengths = np.zeros((2, 9, 2), np.float32), np.array([4, 6])
    for row, part in zip(x, short, strict=True):
        row[: len(part)] = part
    model = jaxae.load(workdir)
    for name, expected in (
        ("encode", model.encode(x, lengths)),
        ("reconstruct", model.reconstruct(x, lengths)),
        ("score", model.score(x, lengths=lengths)),
    ):
        assert call(name, workdir, tmp_path / "new.npz", "--out", tmp_path / "out.npy") == 0
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)
    assert call("reconstruct", workdir, tmp_path / "new.npz", "--out", tmp_path / "out.png") == 0
    assert call("encode", workdir, tmp_path / "longer.npz", "--out", tmp_path / "none.npy") == 2
    assert call("encode", workdir, "digits", "--out", tmp_path / "none.npy") == 2
    assert not (tmp_path / "none.npy").exists()


@pytest.mark.slow
def test_experiment_outside_the_package_is_loaded_by_its_module(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text("from jaxae.experiments.dense import Config, build\n")
    monkeypatch.syspath_prepend(tmp_path)
    fields = {"epochs": 1, "batch_size": 100, "hidden": (8,), "latent": 2, "figures": "none"}
    workdir = run.train(dense.Config(**fields, workdir=str(tmp_path / "run")), dense.build, "mine.py")
    np.save(tmp_path / "x.npy", X[:3])
    given = (workdir, tmp_path / "x.npy", "--out", tmp_path / "out.npy")
    assert call("encode", *given) == 2
    assert "was trained by mine.py" in capsys.readouterr().err
    assert call("encode", *given, "--module", "mine") == 0
    for name, arguments in (("score", given), ("reconstruct", given), ("report", (workdir,))):
        assert call(name, *arguments, "--module", "mine") == 0
    capsys.readouterr()
    assert call("sample", workdir, *given[2:], "--module", "mine") == 2
    assert "its model has no prior to sample from; add --mixture 20" in capsys.readouterr().err
    for module, said in (
        ("no.such", "--module no.such cannot be imported"),
        ("json", "--module json is not an experiment"),
    ):
        for name, arguments in (("encode", given), ("replay", (workdir,)), ("likelihood", (workdir,))):
            assert call(name, *arguments, "--module", module) == 2
            assert said in capsys.readouterr().err


def refusal(capsys, name, *arguments):
    """The line on standard error of a command that exits with 2."""
    capsys.readouterr()
    assert call(name, *arguments) == 2
    answer, error = capsys.readouterr()
    assert (answer, error.count("\n")) == ("", 1)
    return error


@pytest.mark.parametrize("fields", [{}, {"optimizer": optax.adam(1e-3), "ema": 0.5}], ids=["named", "optax"])
def test_model_saved_from_python_is_applied(tmp_path, capsys, fields):
    """Commands that need the data of the run say that it has none."""
    mine, x, out = tmp_path / "mine", tmp_path / "x.npy", tmp_path / "out.npy"
    np.save(x, X[:9])
    model = jaxae.fit(vae, X[:90], epochs=1, hidden=(8,), batch_size=30, progress=False, **fields)
    model.save(mine)
    for name, expected in (("encode", model.encode), ("reconstruct", model.reconstruct), ("score", model.score)):
        assert call(name, mine, x, "--out", out) == 0
        np.testing.assert_array_equal(np.load(out), expected(X[:9]))
    assert call("sample", mine, "--n", 3, "--out", out) == 0
    for name in ("report", "quality", "compare", "probe", "likelihood"):
        assert f"{mine} was trained on an array, which the run directory does not hold" in refusal(capsys, name, mine)
    assert directory.read(mine / "config.json")["command"] == ""


@pytest.mark.slow
def test_model_saved_from_python_is_finished_by_its_command(tmp_path, capsys):
    """The extended run is unfinished until then."""
    mine, out = tmp_path / "mine", tmp_path / "out.npy"
    fields = {"epochs": 1, "hidden": (8,), "batch_size": 500, "progress": False, "figures": False}
    jaxae.fit(dense, "digits", **fields).save(mine)
    assert call("encode", mine, "digits", "--out", out) == 0
    command = f"jaxae dense --epochs 1 --batch-size 500 --hidden 8 --workdir {mine}"
    assert f"{mine} is not finished: {command} resumes it" in refusal(capsys, "report", mine)
    flags = [*shlex.split(command)[2:], "--figures", "none"]
    run.train(command_line.parse(dense.Config, "", flags), dense.build, "dense")
    assert run.load_finished(mine)[2]["metrics"]["epoch"] == 1
    jaxae.fit(dense, "digits", workdir=mine, **{**fields, "epochs": 2})
    (mine / "result.json").unlink()
    assert "is not finished" in refusal(capsys, "encode", mine, "digits", "--out", out)


def test_errors_for_a_run_with_an_optax_transformation_name_the_fit_call(tmp_path, capsys):
    """Commands that need the data take a run with an Optax transformation."""
    path, fields = tmp_path / "run", {"epochs": 1, "hidden": (8,), "batch_size": 500, "progress": False}
    jaxae.fit(dense, "digits", optimizer=optax.adam(1e-3), figures=False, workdir=path, **fields)
    model, dataset, _, title = run.load_finished(path)
    assert (len(dataset.test.x), title) == (359, "dense on digits")
    assert equal(model.params, jaxae.load(path).params)
    assert directory.read(path / "config.json")["command"] == ""
    assert "optimizer or experiment was passed as an object" in refusal(capsys, "repeat", path)
    (path / "result.json").unlink()
    said = refusal(capsys, "report", path)
    assert f"{path} is not finished: the same call of jaxae.fit with workdir={str(path)!r} resumes it" in said


def test_bad_arguments_exit_with_2_and_one_line_and_write_nothing(one, two, tmp_path, capsys):
    np.save(tmp_path / "x.npy", X[:3])
    np.save(tmp_path / "large.npy", np.zeros((3, 32, 32), np.uint8))
    (tmp_path / "damaged.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-9])
    (tmp_path / "folder.npy").mkdir()
    for name in ("unfinished", "damaged", "odd"):
        shutil.copytree(one, tmp_path / name)
    (tmp_path / "unfinished" / "result.json").unlink()
    shutil.rmtree(tmp_path / "damaged" / "checkpoints")
    (tmp_path / "odd" / "config.json").write_text("{")
    out, x = tmp_path / "out.npy", tmp_path / "x.npy"
    before = sorted(tmp_path.rglob("*"))
    for name, arguments, said in (
        ("encode", (one, tmp_path / "large.npy", "--out", out), "shape [32, 32, 1], but the model of"),
        ("encode", (one, x, "--out", tmp_path / "out.txt"), "out.txt must end in one of .npy, .csv, .h5ad"),
        ("reconstruct", (one, x, "--out", tmp_path / "out.txt"), "out.txt must end in one of .npy, .csv, .png"),
        ("encode", (one, x, "--out", tmp_path / "none" / "out.npy"), "cannot be written (No such file"),
        ("encode", (one, x, "--out", tmp_path / "folder.npy"), "cannot be written (Is a directory)"),
        ("encode", (tmp_path / "unfinished", x, "--out", out), "is not finished"),
        ("score", (tmp_path / "damaged", x, "--out", out), "has no intact checkpoint"),
        ("sample", (tmp_path / "odd", "--out", out), "describes no run"),
        ("encode", (tmp_path, x, "--out", out), "holds no run"),
        ("encode", (one, tmp_path / "damaged.npy", "--out", out), "truncated or damaged"),
        ("encode", (one, "mnits", "--out", out), "did you mean mnist"),
        ("encode", (one, "array", "--out", out), "data=array is an array that was passed to jaxae.fit"),
        ("encode", (one, "--out", out), "DATA"),
        ("encode", (one, x), "--out"),
        ("encode", (one, x, "--out", out, "--membr", 0), "--membr"),
        ("encode", (two, x, "--out", out, "--member", 2), "--member 2: the run has 2 seeds; give --member 0 to 1"),
        ("encode", (one, x, "--out", out, "--member", -2), "--member -2: the run has one seed"),
        ("reconstruct", (two, x, "--out", tmp_path / "out.png"), "a picture shows one seed"),
        ("sample", (two, "--out", tmp_path / "out.png"), "a picture shows one seed"),
        ("sample", (one, "--out", out, "--n", 0), "--n 0 must be at least 1"),
        ("sample", (one, "--out", out, "--seed", -1), "--seed -1 must be at least 0"),
        ("score", (one, x, "--out", out, "--by", "foo"), "--by foo is not a score of this model; use one of bce, kl, "),
        ("repeat", (tmp_path / "unfinished",), "is not finished"),
        ("repeat", (tmp_path / "damaged",), "has no checkpoint to compare with"),
        ("replay", (one,), "did not diverge"),
        ("report", (tmp_path,), "holds no run"),
        ("list", ("vae",), "vae"),
    ):
        assert call(name, *arguments) == 2, (name, arguments)
        answer, error = capsys.readouterr()
        assert answer == ""
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert said in error
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_replay_prints_the_line_of_the_diverged_step(tmp_path, capsys):
    fields = {"lr": 1e30, "hidden": (8,), "epochs": 1, "figures": "none", "workdir": str(tmp_path / "run")}
    with pytest.raises(Diverged):
        run.train(vae.Config(**fields), vae.build, "vae")
    capsys.readouterr()
    assert call("replay", tmp_path / "run") == 0
    assert capsys.readouterr().out == f"{jaxae.replay(tmp_path / 'run')}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["encode", "--help"]], ids=str)
def test_closed_pipe_is_not_an_error(arguments):
    """`jaxae list | head -1` closes the pipe early."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "jaxae", *arguments]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_list_has_a_row_for_each_experiment(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["list"])
    head, *lines = capsys.readouterr().out.splitlines()
    assert ended.value.code == 0
    assert [line.split()[0] for line in lines] == experiments.names()
    assert head.split()[:3] == ["experiment", "idea", "source"]
    docstring = """A new model: with ideas.
    More of it.

    Group: variational
    Source: Doe et al. 2020, table 1, which gives
    no variance.
    Published: -86.5 nats (Doe et al. 2020).
    Command: jaxae new
    Measured: bound with 5,000 samples -87.12 +- 0.23 nats (of 3.5).
    """.replace("\n    ", "\n")
    idea, source = "A new model: with ideas", "Doe et al. 2020, table 1"
    assert lists.row("new", docstring) == ("new", idea, source, "bound with 5,000 samples -87.12 +- 0.23 nats")
    assert lists.row("bare", "One line.") == ("bare", "One line", "", "")


def jaxae_command(*arguments, **options):
    """Run `jaxae` in its own process."""
    program = [sys.executable, "-m", "jaxae", *arguments]
    return subprocess.run(program, capture_output=True, text=True, check=False, **options)


def test_help_names_every_command_and_experiment():
    done = jaxae_command("--help")
    words = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert (done.returncode, words) == (0, [*COMMANDS, *experiments.names()])
    assert jaxae_command("--version").stdout.startswith("jaxae ")
    done = jaxae_command("encod")
    assert (done.returncode, done.stderr) == (
        2,
        "error: encod is neither a command nor an experiment: did you mean encode?\n",
    )
    done = jaxae_command("score", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: jaxae score [-h] RUN DATA ")


@pytest.mark.slow
def test_command_imports_no_other_command():
    program = "import sys; from jaxae.commands.main import main\ntry: main({})\nexcept SystemExit: print(*sys.modules)"
    for arguments in (["list"], ["encode"], ["vae", "--nonsense"]):
        code = program.format(arguments)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        loaded = set(done.stdout.split())
        others = {f"jaxae.commands.{name}" for name in COMMANDS} - {f"jaxae.commands.{arguments[0]}"}
        assert not loaded & others
        assert ("jax" in loaded) == (arguments != ["list"])


COMPLETE = """
source {script}
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_LINE="${{COMP_WORDS[*]}}"
"$(complete -p jaxae | sed -E 's/.*-F ([^ ]+).*/\\1/')"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.slow
def test_bash_completes_commands_experiments_and_flags(tmp_path):
    done = jaxae_command("--tyro-print-completion", "bash")
    assert (done.returncode, done.stderr) == (0, "")
    script = tmp_path / "completion"
    script.write_text(done.stdout)

    def completed(words):
        code = COMPLETE.format(script=script, words=words)
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert completed("jaxae enc") == ["encode"]
    assert set(completed("jaxae ''")) == {"-h", "--help", *COMMANDS, *experiments.names()}
    assert completed("jaxae score --b") == ["--by"]
    assert completed("jaxae vae --kl") == ["--kl-warmup", "--kl-cycles", "--kl-weight"]


def completed_by_fish(script, words):
    """Completions by fish if it is installed, otherwise by the Python program within the script."""
    if fish := shutil.which("fish"):
        code = f"source {script}; complete -C '{' '.join(words)}'"
        done = subprocess.run([fish, "--no-config", "-c", code], capture_output=True, text=True, check=True)
    else:
        text = script.read_text()
        program, end = text.split('set -l pycode "')[1].split('"\n    set -l results ')
        assert end.startswith('(printf "%s" "$pycode" | $python_cmd - $words $current)\n')
        command = [sys.executable, "-", *words[:-1], str(len(words) - 1)]
        program = re.sub(r'\\([\\"$])', r"\1", program)
        done = subprocess.run(command, input=program, capture_output=True, text=True, check=True)
    names = [line.split("\t")[0] for line in done.stdout.splitlines()]
    return {name for name in names if name.startswith(words[-1])}


@pytest.mark.slow
def test_fish_completes_commands_experiments_and_flags(tmp_path):
    script = tmp_path / "completion"
    script.write_text(_completion.script(["--tyro-print-completion", "fish"], COMMANDS, experiments.names()))
    assert completed_by_fish(script, ["jaxae", "enc"]) == {"encode"}
    assert completed_by_fish(script, ["jaxae", ""]) >= {*COMMANDS, *experiments.names()}
    assert completed_by_fish(script, ["jaxae", "score", "--b"]) == {"--by"}
    assert completed_by_fish(script, ["jaxae", "vae", "--kl"]) == {"--kl-warmup", "--kl-cycles", "--kl-weight"}


@pytest.mark.slow
def test_completion_scripts_are_for_the_supported_shells(capsys):
    assert jaxae_command("--tyro-print-completion", "zsh").stdout.startswith("#compdef jaxae")
    for other in ("ksh", "tcsh"):  # tyro writes the script for tcsh with a package that jaxae does not depend on
        with pytest.raises(SystemExit) as ended:
            main(["--tyro-print-completion", other])
        assert ended.value.code == 2
        assert capsys.readouterr().err == f"error: --tyro-print-completion {other}; give one of bash, zsh, fish\n"
    assert "tcsh" not in HELP
    assert "complete " in jaxae_command("vae", "--tyro-print-completion", "bash").stdout
