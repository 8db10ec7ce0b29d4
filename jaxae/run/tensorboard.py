"""TensorBoard event files of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


class TensorBoard:
    """Tracker of event files: scalars, pictures, histograms, and hyperparameters with final metrics.

    step: that of the checkpoint from which the run resumes, after which events are discarded. last_step: see `Tracker`.
    """

    def __init__(self, directory: Path, step: int, last_step: int = -1) -> None:
        from tensorboardX import SummaryWriter

        self._writer, self.last_step = SummaryWriter(str(directory), purge_step=step + 1 if step else None), last_step

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Write scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def picture(self, path: Path, step: int, name: str) -> None:
        """Write a PNG file as an image of this name."""
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Write a histogram of these values."""
        self._writer.add_histogram(name, values.ravel(), step)

    def parameters(self, config: Mapping[str, Any], final: Mapping[str, float], step: int) -> None:
        """Write the configuration and the final test metrics, for the table of hyperparameters."""
        if final:
            self._writer.add_hparams(dict(config), dict(final), "final", step)

    def finish(self, complete: bool) -> None:  # noqa: ARG002
        """Close the files."""
        self._writer.close()
