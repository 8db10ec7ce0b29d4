"""TensorBoard event files of a run."""

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from jaxae.training.records import Record, mean, names, std


class TensorBoard:
    """Event files: a scalar per metric and split at every epoch, pictures, histograms, and hyperparameters.

    With several seeds: the mean, and the standard deviation as `NAME/SPLIT/std`.
    """

    def __init__(self, directory: Path, step: int) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(directory), purge_step=step + 1 if step else None)

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._writer.close()

    def scalars(self, line: Record) -> None:
        """Write the metrics of a record."""
        for name in names(line):
            self._writer.add_scalar(f"{name}/{line['split']}", mean(line[name]), line["step"])
            if (deviation := std(line[name])) is not None:
                self._writer.add_scalar(f"{name}/{line['split']}/std", deviation, line["step"])
        self._writer.flush()

    def picture(self, path: Path, step: int, name: str = "") -> None:
        """Write a PNG file as an image of this name (default: that of the file)."""
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image(name or path.stem, pixels, step, dataformats="HWC")

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Write a histogram of these values."""
        self._writer.add_histogram(name, values.ravel(), step)

    def parameters(self, config: dict[str, Any], test: Record) -> None:
        """Write the configuration and the final test metrics, for the table of hyperparameters."""
        fields = {k: v if isinstance(v, int | float | str) else " ".join(map(str, v)) for k, v in config.items()}
        self._writer.add_hparams(fields, {f"final/{n}": mean(test[n]) for n in names(test)}, "final", test["step"])
