"""Functions of trained models as ONNX models, run by onnxruntime."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxae
from jaxae import data
from jaxae.commands import export
from jaxae.errors import InputError
from jaxae.run import onnx, onnx_graph, programs
from short_runs import FIELDS, NAMES, few

pytest.importorskip("onnx", reason="the extra onnx is not installed")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

ROWS = 1000
TABLE = (5 + 3 * np.random.default_rng(0).normal(size=(60, 4))).astype(np.float32)
# Runs every model of a folder on the inputs of its file, in a process without JAX.
RUNS = """
import json, sys
from pathlib import Path
import numpy as np, onnxruntime
folder = Path(sys.argv[1])
for name, about in json.loads((folder / "programs.json").read_text())["programs"].items():
    given = np.load(folder / f"{name}.npz")
    session = onnxruntime.InferenceSession(str(folder / f"{name}.onnx"))
    for rows in (3, len(given[next(iter(about["inputs"]))])):
        found, = session.run(None, {key: given[key][:rows] for key in about["inputs"]})
    np.save(folder / f"{name}.npy", found)
assert not [module for module in sys.modules if module.startswith(("jax", "flax", "optax"))]
"""


def ported(function, *inputs):
    """The result of a function of one row by onnxruntime."""
    specs = {f"x{i}": jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for i, x in enumerate(inputs)}
    model, _ = onnx.model(function, specs, "y")
    (found,) = runtime.InferenceSession(model).run(None, {f"x{i}": np.asarray(x) for i, x in enumerate(inputs)})
    return found


def inputs_of(model, rng):
    """1,000 random inputs by name, in the units of the data; a tenth of the entries missing, where they may be."""

    def one(row, name):
        if name == "key":
            with jax.debug_key_reuse(False):
                return np.asarray(jax.random.key_data(jax.random.split(jax.random.key(3), ROWS)))
        if name == "y":
            return rng.integers(0, max(1, len(model.conditions.classes)), ROWS).astype(np.int32)
        if name == "lengths":
            return rng.integers(model.shape[0] // 2, model.shape[0] + 1, ROWS).astype(np.int32)
        values = rng.random((ROWS, *row.shape)) if name == "x" else rng.normal(size=(ROWS, *row.shape))
        if name == "x" and model.scale is not None:
            values = model.scale.offset + model.scale.factor * rng.normal(size=values.shape)
        if name == "x" and model.experiment.missing:
            values = np.where(rng.random(values.shape) < 0.1, np.nan, values)
        return values.astype(np.float32)

    found = {}
    for program in programs.programs(model).values():
        for name, each in program.inputs.items():
            if name not in found:
                found[name] = one(each.row, name)
    if "z" in found:  # codes of the data, which may be indices
        rows = [found[name] for name in programs.programs(model)["encode"].inputs]
        with jax.debug_key_reuse(False):
            found["z"] = np.asarray(jax.jit(jax.vmap(programs.programs(model)["encode"].function))(*rows))
    return found


def agree(folder, model, tolerance=1e-5):
    """Run every program in a process without JAX, on 1,000 random inputs; the largest difference, of values up to 1."""
    folder.mkdir(exist_ok=True)
    with jax.debug_key_reuse(False):  # which takes rows of split keys for the same key
        onnx.write(folder, model)
    inputs = inputs_of(model, np.random.default_rng(0))
    about = json.loads((folder / programs.MARK).read_text())["programs"]
    assert set(about) == set(programs.programs(model))
    for name, program in about.items():
        np.savez(folder / f"{name}.npz", **{key: inputs[key] for key in program["inputs"]})
    done = subprocess.run([sys.executable, "-c", RUNS, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, program in programs.programs(model).items():
        with jax.debug_key_reuse(False):
            here = np.asarray(
                jax.jit(jax.vmap(program.function))(*(jnp.asarray(inputs[key]) for key in program.inputs))
            )
        found = np.load(folder / f"{name}.npy")
        scale = max(1.0, np.nanmax(np.abs(here)))
        np.testing.assert_allclose(found / scale, here / scale, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.slow
def test_models_of_a_table_take_its_units_and_missing_entries(tmp_path):
    table = TABLE.copy()
    table[::5, 1] = np.nan
    model = jaxae.fit("vae", table, epochs=1, batch_size=20, hidden=(8,), test=0, progress=False)
    agree(tmp_path, model)


def test_random_bits_and_normal_numbers_are_those_of_jax():
    with jax.debug_key_reuse(False):
        keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(5), 9)))

        def normal(key):
            first, second = jax.random.split(jax.random.wrap_key_data(key))
            return jax.random.normal(first, (50, 30)) + jax.random.uniform(second, (30,))[None]

        def bits(key):
            return (jax.random.bits(jax.random.wrap_key_data(key), (7,)) >> 9).astype(jnp.int32)

        np.testing.assert_array_equal(ported(bits, keys), jax.vmap(bits)(keys))
        np.testing.assert_allclose(ported(normal, keys), jax.vmap(normal)(keys), rtol=1e-5, atol=1e-5)


WHOLE = np.arange(-4, 4, dtype=np.int32)[:, None] * np.ones(4, np.int32)


@pytest.mark.parametrize(
    ("function", "x"),
    [
        (lambda x: jax.lax.reduce_sum(x, ()), TABLE),
        (lambda x: jax.lax.reduce_max(x, ()), TABLE),
        (lambda x: jax.lax.reduce_or(x > 5, ()), TABLE),
        (lambda x: jax.lax.integer_pow(x, 0), TABLE),
        (lambda x: jax.lax.reduce_precision(x, 8, 7), TABLE),
        (lambda x: jnp.dot(x.astype(jnp.bfloat16), jnp.ones((4, 2), jnp.bfloat16)).astype(float), TABLE),
        (lambda x: (~x.astype(jnp.uint32) >> 3).astype(jnp.int32), WHOLE),
        (lambda x: (-x.astype(jnp.uint32) >> 3).astype(jnp.int32), WHOLE),
        (lambda x: (jnp.sum(x.astype(jnp.uint32)) >> 3).astype(jnp.int32), WHOLE),
        (lambda x: jnp.arange(3, dtype=jnp.uint32)[jnp.array([0, 2])] + x[:2].astype(jnp.uint32) >> 3, WHOLE),
    ],
)
def test_primitives_agree_at_their_limits(function, x):
    found, expected = ported(function, x), np.asarray(jax.vmap(function)(x))
    np.testing.assert_array_equal(found.astype(expected.dtype), expected)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (jax.lax.lgamma, "the primitive lgamma has no translation"),
        (jax.lax.round, "halves away from zero"),
        (lambda x: jax.lax.reduce_precision(x, 5, 10), "than that of bfloat16"),
        (lambda x: jax.lax.reduce(x, np.float32(1), lambda a, b: a * b + a, (0,)), "the primitive reduce has no"),
        (lambda x: jnp.ones(3, bool).at[x[0].astype(int)].get(mode="fill"), "an index out of bounds of bool"),
    ],
)
def test_primitive_without_translation_raises(function, message):
    with pytest.raises(onnx_graph.Unsupported, match=message):
        ported(function, TABLE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae", "convolutional"])
def test_models_of_mixed_precision_agree_to_the_rounding_of_bfloat16(tmp_path, name):
    fields = {"data": str(few(tmp_path)), "epochs": 1, "batch_size": 16, **FIELDS.get(name, {})}
    model = jaxae.fit(name, data.load(fields.pop("data")), progress=False, precision="mixed", **fields)
    agree(tmp_path / "out", model, 2e-2)


@pytest.mark.slow
def test_several_seeds_raise(tmp_path):
    model = jaxae.fit("dense", TABLE, seeds=2, epochs=1, batch_size=20, hidden=(8,), test=0, progress=False)
    with pytest.raises(InputError, match="2 seeds"):
        onnx.write(tmp_path, model)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_models_of_every_experiment_agree(tmp_path, name):
    fields = {"data": str(few(tmp_path)), "epochs": 1, "batch_size": 16, **FIELDS.get(name, {})}
    model = jaxae.fit(name, data.load(fields.pop("data")), progress=False, **fields)
    agree(tmp_path / "out", model)


@pytest.mark.slow
def test_export_writes_a_folder(tmp_path):
    fields = {"epochs": 1, "batch_size": 20, "hidden": (8,), "test": 10, "progress": False}
    jaxae.fit("vae", TABLE, workdir=tmp_path / "run", figures=False, **fields)
    said = export.export(export.Options(run=tmp_path / "run", format="onnx", out=tmp_path / "out"))
    assert said.endswith(f"in the format of onnx: {tmp_path / 'out'}")
    names = {f"{name}.onnx" for name in ("encode", "decode", "reconstruct", "score", "sample")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, programs.MARK}
