"""Linear probe: error rates against known values."""

import json
import re
import shutil

import numpy as np
import pytest

import jaxae
from conftest import call
from jaxae import data, run
from jaxae.experiments import ksparse
from jaxae.measure import probe
from jaxae.run import directory


def dataset(x, y, test):
    """A data set with these features [2, N, D] as its two splits."""
    return data.Dataset(data.Split(x[0], y), data.Split(x[1], test), ("a", "b"))


def test_error_of_separable_mislabelled_and_xor_classes():
    """0 for linearly separable classes, at any offset and scale, and with a constant feature."""
    rng = np.random.default_rng(0)
    y = np.arange(400) % 2
    parted = rng.normal(size=(2, 400, 3)) + 8 * y[:, None] * np.array([1.0, 0, 0])
    for x in (parted, 1e4 + 0.1 * parted, np.concatenate([parted, np.ones((2, 400, 1))], axis=2)):
        assert probe.error(dataset(x, y, y), *x) == 0
    wrong = np.where(np.arange(400) < 100, 1 - y, y)
    assert probe.error(dataset(parted, y, wrong), *parted) == 25
    corners = rng.integers(0, 2, (2, 400, 2)).astype(np.float32)
    odd = corners.sum(2).astype(int) % 2
    assert (
        probe.error(dataset(corners, *odd), *corners) > 20
    )  # a line classifies at most three of four corners correctly


def test_examples_without_a_class_are_left_out():
    rng = np.random.default_rng(1)
    y = np.arange(300) % 2
    x = rng.normal(size=(2, 300, 3)) + 2 * y[:, None] * np.array([1.0, 0, 0])
    known = np.arange(300) % 3 > 0
    x[:, ~known] += 50 * rng.normal(size=(2, 100, 3))
    hidden = np.where(known, y, -1)
    alone = x[:, known]
    expected = probe.error(dataset(alone, y[known], y[known]), *alone)
    assert probe.error(dataset(x, hidden, hidden), *x) == expected
    assert 0 < expected < 30


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run of two seeds on the embedded digits."""
    path = tmp_path_factory.mktemp("runs") / "two"
    fields = {"epochs": 1, "latent": 40, "active": 10, "alpha": 2.0, "seeds": 2, "figures": "none"}
    return run.train(ksparse.Config(**fields, workdir=str(path)), ksparse.build, "ksparse")


ITERATIONS = 15  # of the optimizer


def said(capsys, *arguments):
    """The numbers in each line: mean and standard deviation from codes, error from pixels."""
    assert call("probe", *arguments, "--iterations", ITERATIONS) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [str(path) for path in arguments]
    return [tuple(map(float, re.findall(r"[\d.]+(?= ±| %)", line))) for line in lines]


@pytest.mark.slow
def test_probe_prints_mean_and_deviation_over_seeds_for_each_run(two, capsys):
    """The codes are those of evaluation."""
    digits = data.load("digits")
    pixels = probe.error(digits, digits.train.x, digits.test.x, ITERATIONS)
    assert 0 < pixels < 10
    errors = []
    for seed in (0, 1):
        model = jaxae.load(two)[seed]
        train, test = (np.asarray(model.encode(split.x)) for split in digits[:2])
        assert np.all(np.count_nonzero(test, axis=1) == 20)
        errors.append(probe.error(digits, train, test, ITERATIONS))
    assert 0 < min(errors) < max(errors) < 90
    mean, deviation, same = said(capsys, two, two)[1]
    np.testing.assert_allclose((mean, same), (np.mean(errors), pixels), rtol=1e-3)
    np.testing.assert_allclose(deviation, np.std(errors, ddof=1), rtol=0.05)


@pytest.mark.slow
def test_probe_rejects_bad_runs_with_a_one_line_error(two, tmp_path, capsys):
    unfinished = tmp_path / "unfinished"
    shutil.copytree(two, unfinished)
    (unfinished / "result.json").unlink()
    unnamed, file = tmp_path / "unnamed", tmp_path / "unnamed.npy"
    shutil.copytree(two, unnamed)
    np.save(file, data.load("digits").test.x)
    saved = directory.read(two / "config.json")
    saved["config"]["data"], saved["data"]["fingerprint"] = str(file), data.load(str(file)).fingerprint()
    (unnamed / "config.json").write_text(json.dumps(saved))
    for arguments, message in (
        ([tmp_path], "holds no run"),
        ([], "give at least one run directory"),
        ([two, "--iterations", 0], "--iterations 0 must be at least 1"),
        ([unfinished], "is not finished"),
        ([unnamed], "its data has no classes"),
    ):
        assert call("probe", *arguments) == 2
        text = capsys.readouterr().err
        assert message in text
        assert text.count("\n") == 1
