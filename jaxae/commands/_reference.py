"""Scores of the splits of a run, against which `jaxae score` compares those of new data."""

import contextlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxae import run
from jaxae.data import Dataset, Split
from jaxae.data.cache import writing
from jaxae.errors import InputError
from jaxae.run import directory
from jaxae.training import scores
from jaxae.training.examples import Examples
from jaxae.training.trained import Trained


@dataclass(frozen=True)
class Reference:
    """Anomaly scores of the splits of a run, cached in the run directory."""

    run: Path
    model: Trained  # all seeds of the run, or one
    by: str

    def require(self, ensemble: str, split: str) -> None:
        """Raise ValueError for an ensemble of one seed, and for a validation split that the data lack."""
        if ensemble != "none" and len(self.model) == 1:
            raise ValueError(f"ensemble={ensemble} needs several seeds; omit it, or member")
        if split == "valid" and self.data.valid is None:
            raise ValueError("p_value=valid needs a validation split; use train or test")

    @cached_property
    def data(self) -> Dataset:
        """The data of the run. InputError for data that is missing or has changed."""
        return run.dataset(self.run, directory.read(self.run / "config.json"))

    @cached_property
    def codes(self) -> Float[np.ndarray, "*S_M_code"]:
        """Codes of the training split."""
        return np.asarray(self.model.encode(self.data.train))

    def of(self, x: Examples, lengths: Int[np.ndarray, " N"] | None = None, **given: Any) -> Float[np.ndarray, "*S N"]:
        """Scores of these examples."""
        if self.by != scores.DISTANCE:
            return self.model.score(x, self.by, lengths, **given)
        codes = np.asarray(self.model.encode(x, lengths, **given))
        return scores.latent_distance(len(self.model) > 1, codes, self.codes)

    def scores(self, split: str) -> Float[np.ndarray, "*S M"]:
        """Scores of the examples of a split, float32."""
        seeds, step = self.model.seeds, int(np.ravel(self.model.state.step)[0])
        file = self.run / "scores" / f"{self.by}-{split}-step{step}-seeds{seeds[0]}to{seeds[-1]}.npy"
        with contextlib.suppress(OSError, ValueError, EOFError):
            found: np.ndarray = np.load(file, allow_pickle=False)
            if found.dtype == np.float32 and found.shape[:-1] == ((len(seeds),) if len(seeds) > 1 else ()):
                return found
        examples: Split = getattr(self.data, split)
        if examples is None:
            raise InputError(f"{self.run}: its data have no {split} split; use train or test")
        found = self.of(examples)
        with contextlib.suppress(OSError):  # a directory that cannot be written
            file.parent.mkdir(exist_ok=True)
            with writing(file) as out:
                np.save(out, found)
        return found
