"""Write the codes of new data under the model of a finished or saved run.

Variational models give the posterior mean; with a flow, its image; hierarchies, the mean of each layer given the means
of the layers inferred before it. Float images are quantized to 256 levels first, as in training. With several seeds,
the array has a leading axis of seeds, and the table repeats its columns for each seed (`z0_seed3`, `z1_seed3`,
`z0_seed4`, ...).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from jaxae import run
from jaxae.commands._apply import NewData, WithData, chunks, opened, read_examples, write
from jaxae.commands._arguments import parsed
from jaxae.data import h5ad
from jaxae.errors import InputError
from jaxae.run import directory
from jaxae.training.trained import Trained
from jaxae.variants.scvi import SCVI


@dataclass(frozen=True, kw_only=True)
class Options(WithData):
    """Arguments of `jaxae encode`."""

    suffixes = (".npy", ".csv", ".h5ad")

    out: Path
    """.npy: codes, float32 [N, *code]; .csv: a row for each example, with its name; .h5ad: a copy of DATA, also .h5ad,
    with the codes in obsm, as X_scvi for a run of scvi, and a latent library size in the column library_size of obs."""


def main(argv: Sequence[str]) -> NoReturn:
    """Write the codes, and exit."""
    run.program(lambda _: encode(parsed(Options, argv)))


def encode(options: Options) -> str:
    """Write the codes, and return the line to print. InputError as in `opened`, `examples` and `write`."""
    model = opened(options)
    found = read_examples(options, model)
    if options.out.suffix == ".h5ad":
        return _annotated(options, model, found)
    return write(options, model, found, model.encode, "codes", "z")


def _annotated(options: Options, model: Trained, found: NewData) -> str:
    """Copy DATA with the codes, and return the line to print. InputError for DATA of another format."""
    if Path(options.data).suffix != ".h5ad":
        raise InputError(f"--out {options.out}: {options.data} is not an .h5ad file; use .npy or .csv")
    codes = np.concatenate([*chunks(found, model.encode)], axis=int(len(model) > 1))
    name = str(directory.read(options.run / "config.json")["experiment"])
    obsm, obs = {}, {}
    for member, seed in enumerate(model.seeds):
        of_seed = codes[member] if len(model) > 1 else codes
        mark = f"_seed{seed}" if len(model) > 1 else ""
        scvi = model.experiment.model
        if isinstance(scvi, SCVI) and scvi.library == "latent":
            of_seed, obs[f"library_size{mark}"] = of_seed[:, :-1], np.exp(of_seed[:, -1])
        obsm[f"X_{name}{mark}"] = of_seed.reshape(len(of_seed), -1)
    try:
        h5ad.write(options.out, Path(options.data), obsm, obs)
    except OSError as error:
        raise InputError(f"--out {options.out} cannot be written ({error.strerror or error}); use another") from None
    return f"codes of {found.description} in obsm ({', '.join(obsm)}): {options.out}"
