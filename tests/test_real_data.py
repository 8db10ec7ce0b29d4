"""One epoch of every command of scripts/real_data.py, from Python."""

import dataclasses
import shlex

import numpy as np
import pytest

import jaxae
from conftest import MNIST, script
from jaxae import data
from jaxae.run import command_line
from jaxae.run.find import find

COMMANDS = script("real_data").COMMANDS
FOLDER = MNIST.parent
LARGE = ("mnist", "spoken-digits", "cifar10-jpeg", "photos")


@pytest.mark.skipif(not (FOLDER / "tables").is_dir(), reason="no real data in JAXAE_DATA")
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in COMMANDS])
def test_real_sets_train_from_python(name):
    """Test examples and their reconstructions are in the same units."""
    experiment, *words = shlex.split(COMMANDS[name].replace("$DATA", str(FOLDER)))
    kind = find(experiment).Config
    config = command_line.parse(kind, "", words)
    changed = {
        f.name: getattr(config, f.name) for f in dataclasses.fields(kind) if getattr(config, f.name) != f.default
    }
    model = jaxae.fit(experiment, changed.pop("data"), **{**changed, "epochs": 1, "progress": False})
    how = {f.name: getattr(config, f.name) for f in dataclasses.fields(data.Options)}
    every, *_ = data.examples(data.Options(**how))
    x = every.x[:20]
    found = np.asarray(model.reconstruct(x, None if every.lengths is None else every.lengths[:20]))
    truth = x / 255 if x.dtype == np.uint8 else x
    assert found.shape == truth.shape
    low, high = np.nanmin(truth), np.nanmax(truth)
    assert low - 3 * (high - low) < found.mean() < high + 3 * (high - low)
    assert np.isfinite([line["loss"] for line in model.history]).all()
