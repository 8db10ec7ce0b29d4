"""Models as model.safetensors and config.json."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxae
from jaxae import data
from jaxae.commands import export
from jaxae.errors import InputError
from jaxae.run import tensors
from short_runs import FIELDS, NAMES, few

pytest.importorskip("safetensors", reason="the extra lm is not installed")

TABLE = (5 + 3 * np.random.default_rng(0).normal(size=(60, 4))).astype(np.float32)
LOADS = """
import sys, numpy as np, jaxae
model = jaxae.load(sys.argv[1])
np.save(sys.argv[2], model.encode(np.load(sys.argv[3])))
"""


def exported(run, out):
    export.export(export.Options(run=run, format="safetensors", out=out))
    return jaxae.load(out)


def test_a_folder_has_the_model_of_every_seed_and_the_metrics_of_its_run(tmp_path):
    fields = {"epochs": 2, "batch_size": 20, "hidden": (8,), "test": 10, "seeds": 2, "ema": 0.5, "progress": False}
    model = jaxae.fit("vae", TABLE, workdir=tmp_path / "run", figures=False, **fields)
    found = exported(tmp_path / "run", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted((tensors.WEIGHTS, *tensors.FILES))
    jax.tree.map(np.testing.assert_array_equal, found.variables, model.variables)
    assert found.history == model.history
    assert found.seeds == model.seeds
    np.testing.assert_array_equal(found.reconstruct(TABLE), model.reconstruct(TABLE))
    np.save(tmp_path / "x.npy", TABLE)
    command = [sys.executable, "-c", LOADS, tmp_path / "out", tmp_path / "z.npy", tmp_path / "x.npy"]
    subprocess.run(command, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), model.encode(TABLE))
    with pytest.raises(ValueError, match="no configuration"):
        found.save(tmp_path / "again")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    config["config"]["hidden"] = [9]
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="tensor params/.*/bias is not that of config.json"):
        jaxae.load(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_is_the_same_model_again(tmp_path, name):
    fields = {"data": str(few(tmp_path)), "epochs": 1, "batch_size": 16, **FIELDS.get(name, {})}
    found = fields.pop("data")
    model = jaxae.fit(name, found, progress=False, workdir=tmp_path / "run", figures=False, **fields)
    again = exported(tmp_path / "run", tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, again.variables, model.variables)
    test = data.load(found).test
    np.testing.assert_array_equal(again.encode(test), model.encode(test))
