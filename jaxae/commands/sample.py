"""Write samples from the model of a finished or saved run.

They are the means of p(x|z), or with --noise draws from it, for codes z from the prior, or with --mixture from a
Gaussian mixture fitted to the codes of training examples, as models without a prior need. A conditional model is
sampled under every class and category, or under those of --y and --context, with a row of the picture for each. With
several seeds the array has a leading axis of seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from jaxae import run
from jaxae.commands._apply import ToFile, opened
from jaxae.commands._arguments import parsed
from jaxae.commands._conditions import of_samples
from jaxae.commands._output import drawn, write_array, write_grid, write_table
from jaxae.errors import InputError
from jaxae.report.figures.base import FITTED, fitted_mixture, shown
from jaxae.run import directory
from jaxae.training.apply import noise_keys
from jaxae.training.examples import chunk_of, part_of
from jaxae.training.trained import Trained


@dataclass(frozen=True, kw_only=True)
class Options(ToFile):
    """Arguments of `jaxae sample`."""

    suffixes = (".npy", ".csv", ".png")

    out: Path
    """.npy: samples, float32 [N, *D], in the units of the data, pixels in [0, 1]; .csv: a row for each sample, with the
    columns of a table; .png: a grid of images or of curves of series."""
    n: int = 64
    """Number of samples; over several conditions, rounded up to the same number for each."""
    seed: int = 0
    """Seed of the samples."""
    noise: bool = False
    """Sample from p(x|z) instead of taking its mean."""
    mixture: int = 0
    """Components of a Gaussian mixture fitted to the codes of at most 10,000 training examples, which replaces the
    prior (0: the prior)."""

    def __post_init__(self) -> None:
        """Raise ValueError for a number out of range, and as `ToFile`."""
        super().__post_init__()
        for name, least in (("n", 1), ("seed", 0), ("mixture", 0)):
            if not least <= getattr(self, name) < 2**31:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}, and below {2**31}")


def main(argv: Sequence[str]) -> NoReturn:
    """Write the samples, and exit."""
    run.program(lambda _: sample(parsed(Options, argv)))


def sample(options: Options) -> str:
    """Write the samples, and return the line to print. InputError as in `opened`, and for a model without a prior."""
    model = opened(options)
    if model.experiment.prior is None and not options.mixture:
        raise InputError(f"{options.run}: its model has no prior to sample from; add --mixture 20")
    conditions = of_samples(options, model, options.n)
    n = conditions.each * conditions.rows
    key = jax.random.key(options.seed)
    noise = noise_keys(key, n) if options.noise else None
    z = mixed(options, model, key, n) if options.mixture else np.asarray(model.sample_codes(key, n, **conditions.given))
    size, axis = chunk_of(model.shape), int(len(model) > 1)
    parts = (slice(i, min(i + size, n)) for i in range(0, n, size))

    def decoded(part: slice) -> np.ndarray:
        keys, given = None if noise is None else noise[part], part_of(conditions.given, part)
        return np.asarray(model.decode(z[:, part] if axis else z[part], noise=keys, **given))

    samples = map(decoded, parts)
    what = f"{n:,} sample{'s' * (n > 1)}{conditions.about}"
    if options.out.suffix == ".png":
        columns = math.ceil(math.sqrt(n)) if conditions.rows == 1 else conditions.each
        width, height = write_grid(options.out, [drawn(*shown(model, np.concatenate([*samples])))], columns)
        return f"{what}, {width}x{height} pixels: {options.out}"
    if options.out.suffix == ".csv":
        saved = directory.read(options.run / "config.json")
        features = saved["data"].get("features", ())
        labels = dict(conditions.given.get("context", {}))
        if "y" in conditions.given:
            labels = {saved["config"]["target"] or "class": conditions.given["y"], **labels}
        shape = write_table(options.out, samples, range(n), "x", model.seeds, features, labels)
    else:
        shape = write_array(options.out, samples, n, len(model) > 1)
    return f"{what}, {[*shape]} float32: {options.out}"


def mixed(options: Options, model: Trained, key: Key[Array, ""], n: int) -> Float[np.ndarray, "*S_n_code"]:
    """Codes from a mixture fitted to those of training examples, for each seed.

    InputError for missing data, and for more components than these examples.
    """
    train = run.same_data([options.run])[1].train
    if options.mixture > (count := min(len(train.x), FITTED)):
        text = f"exceeds the {count:,} training examples used; use at most as many"
        raise InputError(f"--mixture {options.mixture} {text}")
    members = [model[i] for i in range(len(model))] if len(model) > 1 else [model]
    samplers = [fitted_mixture(one, train, options.mixture) for one in members]
    z = np.stack([np.asarray(sampler(jax.random.clone(key), n)) for sampler in samplers])
    return z if len(model) > 1 else z[0]
