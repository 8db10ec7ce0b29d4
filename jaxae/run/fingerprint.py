"""Fingerprint of the computation of an experiment, to compare runs."""

import hashlib
from typing import Any

import jax
import numpy as np

from jaxae.data import Dataset
from jaxae.data.draws import without_addresses
from jaxae.run.build import Build, built
from jaxae.run.config import Config
from jaxae.training.start import blank, shapes


def fingerprint(config: Config, build: Build, dataset: Dataset) -> str:
    """A hash of the jaxprs of a training step and an evaluation."""
    return hashlib.sha256(repr(traced(config, build, dataset)).encode()).hexdigest()[:16]


def traced(config: Config, build: Build, dataset: Dataset) -> tuple[str, list[Any]]:
    """The jaxprs of a training step and an evaluation of the experiment, with their constants."""
    experiment, key = built(config, build, dataset.info), jax.random.key(0)
    state = shapes(experiment, dataset.info, config.batch_size, range(1))[0]
    batch, test = (blank(experiment, dataset.info, config.batch_size, training=training) for training in (True, False))
    step = jax.make_jaxpr(experiment.train.step)(state, batch, key)
    tested = jax.make_jaxpr(experiment.evaluate)(state.variables, test, key)
    constants = [np.asarray(value).tolist() for closed in (step, tested) for value in closed.consts]
    return without_addresses(f"{step}{tested}"), constants
