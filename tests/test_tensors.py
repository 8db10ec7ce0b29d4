"""Models as model.safetensors and config.json."""

import json
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

import jaxae
from jaxae import data
from jaxae.commands import export
from jaxae.data import weights
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


@pytest.mark.slow
def test_a_folder_has_the_model_of_every_seed_and_the_metrics_of_its_run(tmp_path):
    fields = {"epochs": 2, "batch_size": 20, "hidden": (8,), "test": 10, "seeds": 2, "ema": 0.5, "progress": False}
    fields["kl_warmup"] = 9.0
    model = jaxae.fit("vae", TABLE, workdir=tmp_path / "run", figures=False, **fields)
    found = exported(tmp_path / "run", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        (tensors.WEIGHTS, "config.json", "metrics.jsonl")
    )
    jax.tree.map(np.testing.assert_array_equal, found.variables, model.variables)
    assert found.history == model.history
    assert found.seeds == model.seeds
    np.testing.assert_array_equal(found.reconstruct(TABLE), model.reconstruct(TABLE))
    # The KL weight depends on the step.
    jax.tree.map(np.testing.assert_array_equal, found.evaluate(TABLE), model.evaluate(TABLE))
    np.save(tmp_path / "x.npy", TABLE)
    command = [sys.executable, "-c", LOADS, tmp_path / "out", tmp_path / "z.npy", tmp_path / "x.npy"]
    subprocess.run(command, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), model.encode(TABLE))
    with pytest.raises(ValueError, match="no optimizer state; train or save the model of its run"):
        found.save(tmp_path / "again")
    with pytest.raises(ValueError, match="no optimizer state; train or save the model of its run"):
        found.experiment.train.step(found.state, None)
    with pytest.raises(InputError, match="without optimizer state; omit optimizer"):
        jaxae.load(tmp_path / "out", optimizer=optax.sgd(0.1))
    with pytest.raises(InputError, match="no optimizer state"):
        export.export(export.Options(run=tmp_path / "out", format="safetensors", out=tmp_path / "again"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    config["config"]["hidden"] = [9]
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="tensor params/.*/bias does not match config.json"):
        jaxae.load(tmp_path / "out")


def test_tensors_keep_shape_dtype_and_values_in_any_memory_order(tmp_path):
    matrix = np.arange(6, dtype=np.int32).reshape(2, 3)
    arrays = {
        "scalar": np.array(3.5, np.float32),
        "transposed": matrix.T,
        "strided": matrix[:, ::2],
        "empty": np.zeros((0, 2)),
    }
    weights.save(tmp_path / "x.safetensors", arrays)
    found = weights.read(tmp_path / "x.safetensors", dtype=None)
    for name, array in arrays.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_is_the_same_model_after_its_export(tmp_path, name):
    fields = {"data": str(few(tmp_path)), "epochs": 1, "batch_size": 16, **FIELDS.get(name, {})}
    found = fields.pop("data")
    model = jaxae.fit(name, found, progress=False, workdir=tmp_path / "run", figures=False, **fields)
    again = exported(tmp_path / "run", tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, again.variables, model.variables)
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.dtype, b.dtype), again.variables, model.variables)
    test = data.load(found).test
    np.testing.assert_array_equal(again.encode(test), model.encode(test))
