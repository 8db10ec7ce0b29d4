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
        self.last_step = -1

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log all metrics as one row."""
        self._run.log(dict(values), step=step)

    def picture(self, path: Path, step: int, name: str) -> None:
        """Log the file as an image."""
        import wandb

        self._run.log({name: wandb.Image(str(path))}, step=step)

    def parameters(self, config: Mapping[str, Any], final: Mapping[str, float], step: int) -> None:  # noqa: ARG002
        """Open the run with this configuration; write the final metrics into its summary."""
        import wandb

        if self._run is None:
            project, name, *_ = self._identity
            self._run = wandb.init(project=project, name=name, id=self._id, resume="allow", config=dict(config))
            self.last_step = self._run.starting_step - 1  # offline -1
        self._run.summary.update(dict(final))

    def finish(self, complete: bool) -> None:
        """Write all that is queued, with exit code 0, or 1 for a run that is not complete."""
        self._run.finish(exit_code=0 if complete else 1)


def opened(identity: Identity) -> WeightsAndBiases:
    """The tracked run of a run directory."""
    return WeightsAndBiases(identity)
