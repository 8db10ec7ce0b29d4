"""Trackio as a tracker; `TRACKIO_DIR` names its folder, `TRACKIO_SPACE_ID` or `TRACKIO_SERVER_URL` a server."""

import os
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from jaxae.run.tracking import Identity

SERVERS = {"TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"}
MARK = "loss/train"  # every epoch has it


class Trackio:
    """Tracker of a run of Trackio."""

    def __init__(self, identity: Identity) -> None:
        from trackio.sqlite_storage import SQLiteStorage

        own, existed = identity.id("trackio")
        self._project, self._name = identity.project, f"{identity.name}-{own}"
        self._run: Any = None
        if SERVERS & os.environ.keys():  # whose metrics cannot be read
            self.last_step = identity.last_step if existed else -1
        else:
            rows = SQLiteStorage.get_logs(self._project, self._name) if existed else []
            self.last_step = max((row["step"] for row in rows if MARK in row), default=-1)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log all metrics as one row."""
        self._run.log(dict(values), step=step)

    def picture(self, path: Path, step: int, name: str) -> None:
        """Log the file as an image."""
        import trackio

        self._run.log({name: trackio.Image(path)}, step=step)

    def parameters(self, config: Mapping[str, Any], final: Mapping[str, float], step: int) -> None:
        """Open the run with this configuration; log the final metrics."""
        import trackio

        if self._run is None:
            with redirect_stdout(sys.stderr):  # standard output has the results
                self._run = trackio.init(
                    self._project,
                    self._name,
                    config=dict(config),
                    resume="allow",
                    embed=False,
                    auto_log_gpu=False,
                    auto_log_cpu=False,
                )
        if final:
            self._run.log(dict(final), step=step)

    def finish(self, complete: bool) -> None:  # noqa: ARG002
        """Write all that is queued."""
        with redirect_stdout(sys.stderr):
            self._run.finish()


def opened(identity: Identity) -> Trackio:
    """The tracked run of a run directory."""
    return Trackio(identity)
