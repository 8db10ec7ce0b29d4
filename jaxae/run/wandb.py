"""Weights & Biases as a tracker; `WANDB_MODE=offline` writes a folder that `wandb sync` uploads later."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxae.run.tracking import Identity


class WeightsAndBiases:
    """Tracker of a run of Weights & Biases.

    Offline every session writes a folder with all metrics up to its end, of which the last one is to be uploaded.
    """

    def __init__(self, identity: Identity) -> None:
        self._id, self._identity = identity.id("wandb")[0], identity
        self._run: Any = None
        self._row: dict[str, list[Any]] = {}  # pictures of the last row
        self._pictures: dict[str, list[Any]] = {}  # since then
        self.last_step = -1

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log all metrics, and the pictures since the last ones, as one row."""
        self._run.log({**values, **self._pictures}, step=step)
        self._row, self._pictures = self._pictures, {}

    def picture(self, path: Path, step: int, name: str) -> None:
        """Hold the file until the next metrics: a row of its own would count as one that has metrics."""
        import wandb

        self._pictures.setdefault(name, []).append(wandb.Image(str(path), caption=f"step {step}"))

    def parameters(self, config: Mapping[str, Any], final: Mapping[str, float], step: int) -> None:  # noqa: ARG002
        """Open the run with this configuration; write the final metrics into its summary."""
        import wandb

        if self._run is None:
            project, name, *_ = self._identity
            options: dict[str, Any] = {"resume": "allow", "reinit": "create_new"}  # never another active run
            self._run = wandb.init(project=project, name=name, id=self._id, config=dict(config), **options)
            self.last_step = self._run.starting_step - 1  # offline -1
        self._run.summary.update(dict(final))

    def finish(self, complete: bool) -> None:
        """Write all that is left, with exit code 0, or 1 for a run that is not complete."""
        if self._pictures:  # into the last row: a picture replaces one of the same name
            self._run.log({name: [*self._row.get(name, ()), *images] for name, images in self._pictures.items()})
        self._run.finish(exit_code=0 if complete else 1)


def opened(identity: Identity) -> WeightsAndBiases:
    """The tracked run of a run directory."""
    return WeightsAndBiases(identity)
