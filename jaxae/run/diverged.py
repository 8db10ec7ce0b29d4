"""The inputs of a diverged step, saved for `replay`: the state, the examples and the key."""

import shutil
from pathlib import Path

import numpy as np

from jaxae.errors import Diverged
from jaxae.training.checkpoint import Checkpoints

FOLDER = "diverged"
ROWS = "batch.npz"


def save(workdir: Path, error: Diverged) -> None:
    """Write `diverged/` into a run directory, replacing an existing one, and record the directory in the error.

    Does nothing for a diverged evaluation.
    """
    if error.step_inputs is None:
        return
    folder = workdir / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    step_inputs = error.step_inputs
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(
            int(step_inputs["state"].step), {"state": step_inputs["state"]}, {"seed": step_inputs["seed"]}, wait=True
        )
    with (folder / ROWS).open("wb") as file:
        np.savez(file, key=step_inputs["key"], **step_inputs["batch"])
    error.workdir = workdir
