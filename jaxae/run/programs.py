"""The functions of a trained model as StableHLO programs, which run without jaxae.

`jax.export.deserialize(bytes).call(*inputs)` runs a file NAME.stablehlo on any number of rows; programs.json describes
inputs and outputs. Each program contains the weights and the scaling of the data.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxae.core.conditions import condition
from jaxae.core.divergences import mean_over_observed
from jaxae.core.types import Scale
from jaxae.errors import InputError
from jaxae.training.examples import in_users_units
from jaxae.training.trained import Trained

MARK = "programs.json"
PLATFORMS = ("cpu", "cuda", "tpu")


class Input(NamedTuple):
    """An argument of a program: shape and dtype of a row, and its meaning."""

    row: jax.ShapeDtypeStruct
    meaning: str


class Program(NamedTuple):
    """A function of one row of each of its named inputs."""

    function: Callable[..., Array]
    inputs: dict[str, Input]
    output: str


def write(folder: Path, model: Trained) -> str:
    """Write the programs of a model of one seed into an existing folder, and return the class name of its module.

    encode, decode, reconstruct: as the methods of `Trained`. score: the mean squared error of the reconstruction in
    squared model units, as `model.score(x, "reconstruction_error")`. sample, for a model with a prior:
    `model.sample(key, 1)` for each key. InputError for several seeds, and without the package `flatbuffers`.
    """
    try:
        import flatbuffers  # noqa: F401
    except ImportError:
        raise InputError(f"{folder}: needs the package flatbuffers: pip install 'jaxae[export]'") from None
    one_seed(model)
    (rows,) = jax.export.symbolic_shape("rows")
    about: dict[str, Any] = {"platforms": PLATFORMS, "programs": {}}
    for name, program in programs(model).items():
        specs = [jax.ShapeDtypeStruct((rows, *each.row.shape), each.row.dtype) for each in program.inputs.values()]
        exported = jax.export.export(jax.jit(jax.vmap(program.function)), platforms=PLATFORMS)(*specs)
        (folder / f"{name}.stablehlo").write_bytes(exported.serialize())
        (out,) = exported.out_avals
        about["programs"][name] = described(program, out)
    (folder / MARK).write_text(json.dumps(about, indent=2) + "\n")
    return type(model.experiment.model).__name__


def one_seed(model: Trained) -> None:
    """Raise InputError for a model of several seeds."""
    if len(model) > 1:
        raise InputError(f"the model has {len(model)} seeds, but a program has one; use member=0 to {len(model) - 1}")


def described(program: Program, out: Any) -> dict[str, Any]:
    """Inputs and output of a program in programs.json. out: shape and dtype of the output, with an axis of rows."""
    inputs = {
        key: {"shape": ["rows", *each.row.shape], "dtype": each.row.dtype.name, "meaning": each.meaning}
        for key, each in program.inputs.items()
    }
    output = {"shape": ["rows", *out.shape[1:]], "dtype": out.dtype.name, "meaning": program.output}
    return {"inputs": inputs, "output": output}


def programs(model: Trained) -> dict[str, Program]:
    """The functions of a model of one seed, by name."""
    experiment, known = model.experiment, model.experiment.condition(model.conditions)
    variables = jax.tree.map(jnp.asarray, model.variables)
    inferred = experiment.classes == "inferred"
    units = "in the units of the data" if model.real or model.scale else "pixels in [0, 1]"
    examples = {"x": _floats(model.shape, f"examples, {units}" + "; NaN where missing" * experiment.missing)}
    steps = {"lengths": Input(jax.ShapeDtypeStruct((), jnp.int32), "length of each series in steps")}
    series = steps if experiment.sequences else {}
    codes = {"z": _floats(model.code, "codes")}
    labels, covariates = _condition(model)
    seen, drawn = covariates if inferred else labels | covariates, labels | covariates

    def given(y: Any, context: Any) -> tuple[Float[Array, "1 K"], ...]:
        if not experiment.conditional:
            return ()
        if context is not None and known.scale is not None:
            context = _scaled(context, known.scale)
        y = jnp.int32(-1) if y is None else y
        row = None if context is None else context[None].astype(jnp.float32)
        return (condition(y[None], row, len(known.classes)),)

    def apply(name: str, first: Array, *others: Array) -> Array:
        found: Any = experiment.model.apply(variables, first, *others, method=name)
        return found

    def encoded(x: Array, lengths: Any, c: tuple[Array, ...]) -> Array:
        within = () if lengths is None else ((jnp.arange(model.shape[0]) < lengths)[None].astype(jnp.float32),)
        return apply("encode", x, *within, *c)

    def decoded(x: Array, lengths: Any, c: tuple[Array, ...]) -> Array:
        """In model units."""
        return apply("reconstruct", x, *c) if inferred else apply("decode", encoded(x, lengths, c), *c)

    def encode(x: Array, lengths: Any = None, y: Any = None, context: Any = None) -> Array:
        return encoded(_in_model_units(model, x, lengths)[0], lengths, given(y, context))[0]

    def decode(z: Array, y: Any = None, context: Any = None) -> Array:
        return in_users_units(model, apply("decode", z[None], *given(y, context)))[0]

    def reconstruct(x: Array, lengths: Any = None, y: Any = None, context: Any = None) -> Array:
        return in_users_units(model, decoded(_in_model_units(model, x, lengths)[0], lengths, given(y, context)))[0]

    def score(x: Array, lengths: Any = None, y: Any = None, context: Any = None) -> Array:
        found, observed = _in_model_units(model, x, lengths)
        return mean_over_observed((decoded(found, lengths, given(y, context)) - found) ** 2, observed)[0]

    def sample(key: Array, y: Any = None, context: Any = None) -> Array:
        z: Any = experiment.prior(variables, jax.random.wrap_key_data(key), 1, *given(y, context))  # type: ignore[misc]
        return decode(z[0], y, context)

    keys = {"key": Input(jax.ShapeDtypeStruct((2,), jnp.uint32), "key of each sample: jax.random.key_data")}
    found = {
        "encode": Program(encode, examples | series | seen, "codes"),
        "decode": Program(decode, codes | drawn, f"means of p(x|z), {units}"),
        "reconstruct": Program(reconstruct, examples | series | seen, f"reconstructions, {units}"),
        "score": Program(score, examples | series | seen, "mean squared error of the reconstruction, in model units"),
        "sample": Program(sample, keys | drawn, f"samples: means of p(x|z), {units}"),
    }
    if experiment.prior is None:
        del found["sample"]
    return {name: program._replace(function=_by_name(program)) for name, program in found.items()}


def _by_name(program: Program) -> Callable[..., Array]:
    """The function with positional inputs."""
    return lambda *values: program.function(**dict(zip(program.inputs, values, strict=True)))


def _condition(model: Trained) -> tuple[dict[str, Input], dict[str, Input]]:
    """The inputs of a conditional model: class and covariates."""
    if not model.experiment.conditional:
        return {}, {}
    known = model.experiment.condition(model.conditions)
    classes = {"y": Input(jax.ShapeDtypeStruct((), jnp.int32), f"index of the class: {', '.join(known.classes)}")}
    names = ", ".join(known.covariates)
    covariates = {"context": _floats((len(known.covariates),), f"covariates (1 or 0 for a category): {names}")}
    return classes if known.classes else {}, covariates if known.covariates else {}


def _floats(shape: tuple[int, ...], meaning: str) -> Input:
    return Input(jax.ShapeDtypeStruct(shape, jnp.float32), meaning)


def _in_model_units(
    model: Trained, x: Float[Array, "*D"], lengths: Int[Array, ""] | None
) -> tuple[Float[Array, "1 *D"], Float[Array, "1 *D"]]:
    """One example, 0 where an entry is missing or after the end of a series, and 1 where it is observed."""
    x = x if model.scale is None else _scaled(x, model.scale)
    known = ~jnp.isnan(x)
    if lengths is not None:
        known = known & (jnp.arange(len(x)) < lengths).reshape(-1, *[1] * (x.ndim - 1))
    return jnp.where(known, x, 0)[None], known[None].astype(jnp.float32)


def _scaled(x: Float[Array, "*D"], scale: Scale) -> Float[Array, "*D"]:
    """Model units, accurate to float32 even for a large offset, since its rounding error is subtracted separately."""
    row = (*[1] * (x.ndim - 1), -1)
    offset, factor = (np.asarray(part, np.float64).reshape(row) for part in scale)
    high = offset.astype(np.float32)
    near = jax.lax.optimization_barrier(x - high)  # otherwise the compiler would merge both constants
    return (near - (offset - high).astype(np.float32)) / factor.astype(np.float32)
