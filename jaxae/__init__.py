"""Autoencoders in JAX on one small functional core.

    model = jaxae.fit("vae", x, epochs=20)  # x: images [N, H, W] or [N, H, W, C], or a table [N, D]
    codes, scores = model.encode(x), model.score(x)

`fit` trains an experiment on an array, a path or a named data set and returns a `Trained` model; `load` reads a run;
`replay` names the first non-finite value of a diverged run. `iterate` is the training loop as a generator of
`Snapshot`s, for a data set from `data.from_arrays` or `data.load`. A custom `Experiment` is a Flax module, a loss on a
`Batch`, and a `Transition`: `descend`, `alternate` or `phases`. The built-in experiments are the modules of the package
`jaxae.experiments`. All names are imported on first use, so that `import jaxae` is fast.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    raise ImportError("jaxae runs on Linux and macOS; on Windows, use it in WSL 2")

if TYPE_CHECKING:
    from jaxae import data as data
    from jaxae.core.batch import Batch as Batch
    from jaxae.core.experiment import Experiment as Experiment
    from jaxae.core.step import Transition as Transition
    from jaxae.core.step import alternate as alternate
    from jaxae.core.step import descend as descend
    from jaxae.core.step import phases as phases
    from jaxae.core.types import Info as Info
    from jaxae.run.config import Config as Config
    from jaxae.run.fit import fit as fit
    from jaxae.run.read import load as load
    from jaxae.run.replay import replay as replay
    from jaxae.training.iterate import Snapshot as Snapshot
    from jaxae.training.iterate import iterate as iterate
    from jaxae.training.trained import Trained as Trained

MODULES = {
    "Batch": "core.batch",
    "Config": "run.config",
    "Experiment": "core.experiment",
    "Info": "core.types",
    "Snapshot": "training.iterate",
    "Trained": "training.trained",
    "Transition": "core.step",
    "alternate": "core.step",
    "descend": "core.step",
    "fit": "run.fit",
    "iterate": "training.iterate",
    "load": "run.read",
    "phases": "core.step",
    "replay": "run.replay",
}
__all__ = [*MODULES]


def __dir__() -> list[str]:
    return sorted([*__all__, "data"])


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return getattr(importlib.import_module(f"jaxae.{MODULES[name]}"), name)
    if name == "data":
        return importlib.import_module("jaxae.data")
    raise AttributeError(f"module 'jaxae' has no attribute {name!r}")
