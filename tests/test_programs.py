"""Functions of trained models as programs that another process runs without jaxae."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxae
from jaxae import data
from jaxae.errors import InputError
from jaxae.run import programs
from jaxae.training.examples import own_conditions, part_of
from short_runs import FIELDS, NAMES, few

pytest.importorskip("flatbuffers", reason="the extra export is not installed")

RNG = np.random.default_rng(0)
TABLE = (5 + 3 * RNG.normal(size=(60, 4))).astype(np.float32)
# Runs every program of a folder on the inputs of its file, in a process that imports JAX but not jaxae.
RUNS = """
import json, sys
from pathlib import Path
import jax, numpy as np
folder = Path(sys.argv[1])
for name, about in json.loads((folder / "programs.json").read_text())["programs"].items():
    given = np.load(folder / f"{name}.npz")
    program = jax.export.deserialize((folder / f"{name}.stablehlo").read_bytes())
    np.save(folder / f"{name}.npy", program.call(*(given[key] for key in about["inputs"])))
assert not [module for module in sys.modules if module.startswith(("jaxae", "flax", "optax"))]
"""


def written(folder, model, inputs):
    """Write the programs, run them in another process on the rows of `inputs` that each takes; the results by name."""
    with jax.debug_key_reuse(False):  # which takes rows of split keys for the same key
        programs.write(folder, model)
    about = json.loads((folder / programs.MARK).read_text())["programs"]
    for name, program in about.items():
        np.savez(folder / f"{name}.npz", **{key: inputs[key] for key in program["inputs"]})
    done = subprocess.run([sys.executable, "-c", RUNS, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = {name: np.load(folder / f"{name}.npy") for name in about}
    for name, program in programs.programs(model).items():
        with jax.debug_key_reuse(False):
            here = jax.jit(jax.vmap(program.function))(*(jnp.asarray(inputs[key]) for key in program.inputs))
        np.testing.assert_array_equal(found[name], here, err_msg=name)
    return found


def agree(found, **expected):
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_programs_of_a_table_take_its_units_and_missing_entries(tmp_path):
    table = TABLE.copy()
    table[:, 2] += 1e6  # where float32 has steps of 1/16
    table[::5, 1] = np.nan
    model = jaxae.fit("vae", table, epochs=1, batch_size=20, hidden=(8,), test=0, progress=False)
    x, z, keys = table[:9], RNG.normal(size=(9, 2)).astype(np.float32), jax.random.split(jax.random.key(3), 9)
    found = written(tmp_path, model, {"x": x, "z": z, "key": np.asarray(jax.random.key_data(keys))})
    np.testing.assert_allclose(found["decode"][:, 2], model.decode(z)[:, 2], rtol=0, atol=1 / 16)
    agree(
        found,
        encode=model.encode(x),
        decode=model.decode(z),
        reconstruct=model.reconstruct(x),
        score=model.score(x, "reconstruction_error"),
        sample=np.concatenate([model.sample(key, 1) for key in keys]),
    )


@pytest.mark.slow
def test_programs_of_a_conditional_model_take_classes_and_covariates_in_the_units_of_the_data(tmp_path):
    age = (40 + 9 * RNG.normal(size=60)).astype(np.float32)
    label, colour = np.where(RNG.random(60) < 0.5, "a", "b"), np.where(RNG.random(60) < 0.5, "red", "blue")
    fields = {"epochs": 1, "batch_size": 20, "hidden": (8,), "test": 0, "progress": False}
    model = jaxae.fit("cvae", TABLE, y=label, context={"age": age, "colour": colour}, **fields)
    x, y, context = TABLE[:9], label[:9], {"age": age[:9], "colour": colour[:9]}
    columns = {"age": age[:9], "colour=red": colour[:9] == "red", "colour=blue": colour[:9] == "blue"}
    inputs = {
        "x": x,
        "y": (y == "b").astype(np.int32),
        "context": np.stack([columns[name] for name in model.conditions.covariates], axis=1).astype(np.float32),
        "z": np.asarray(model.encode(x, y=y, context=context)),
        "key": np.asarray(jax.random.key_data(jax.random.split(jax.random.key(3), 9))),
    }
    found = written(tmp_path, model, inputs)
    agree(
        found,
        encode=inputs["z"],
        decode=model.decode(inputs["z"], y=y, context=context),
        reconstruct=model.reconstruct(x, y=y, context=context),
        score=model.score(x, "reconstruction_error", y=y, context=context),
    )
    other = {**inputs, "y": 1 - inputs["y"]}
    assert not np.allclose(written(tmp_path, model, other)["decode"], found["decode"])


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return few(tmp_path_factory.mktemp("data"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_programs_of_every_experiment_agree_with_the_model(tmp_path, digits, name):
    fields = {"data": str(digits), "epochs": 1, "batch_size": 16, **FIELDS.get(name, {})}
    found = data.load(fields.pop("data"))
    model = jaxae.fit(name, found, progress=False, **fields)
    test, given = found.test.take(np.arange(7)), {}
    if model.experiment.conditional:
        given = {key: part for key, part in own_conditions(model, found, test).items() if part is not None}
    x = np.asarray(test.x, np.float32) / (1 if found.real else 255)
    examples = x if model.experiment.classes == "inferred" else test  # classes of a split would be used
    z, keys = model.encode(examples), jax.random.split(jax.random.key(3), 7)
    inputs = {"x": x, "y": test.y, "z": z, "key": np.asarray(jax.random.key_data(keys)), "context": test.context}
    here = written(tmp_path, model, {**inputs, "lengths": np.full(7, model.shape[0], np.int32)})
    expected = {"encode": z, "decode": model.decode(z, **given), "reconstruct": model.reconstruct(examples)}
    agree(here, **expected, score=model.score(examples, "reconstruction_error"))
    if model.experiment.prior is not None:
        one = [{key: part_of(given, slice(i, i + 1))[key] for key in given} for i in range(7)]
        each = [model.sample(key, 1, **condition) for key, condition in zip(keys, one, strict=True)]
        agree(here, sample=np.concatenate(each))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["codec", "sequence"])
def test_series_with_lengths_have_the_codes_of_their_split(tmp_path, name):
    lengths = np.arange(20, 44)
    rows = 5 + np.random.default_rng(1).normal(size=(lengths.sum(), 1))
    np.savez(tmp_path / "series.npz", x=rows.astype(np.float32), lengths=lengths)
    small = {"filters": (4, 6), "strides": (2, 2), "windows": (8, 16)} if name == "codec" else {}
    model = jaxae.fit(name, str(tmp_path / "series.npz"), epochs=1, batch_size=8, progress=False, **small)
    test = data.load(str(tmp_path / "series.npz")).test
    x = np.asarray(model.scale.offset + model.scale.factor * test.x, np.float32)  # the padding is about 5
    expected = model.encode(test)
    np.testing.assert_allclose(model.encode(x, test.lengths), expected, rtol=1e-5, atol=1e-5)
    found = written(tmp_path, model, {"x": x, "lengths": test.lengths.astype(np.int32), "z": np.asarray(expected)})
    score = model.score(test, "reconstruction_error")
    agree(found, encode=expected, reconstruct=model.reconstruct(test), score=score)


def test_several_seeds_raise(tmp_path):
    model = jaxae.fit("dense", TABLE, seeds=2, epochs=1, batch_size=20, hidden=(8,), test=0, progress=False)
    with pytest.raises(InputError, match="2 seeds"):
        programs.write(tmp_path, model)
