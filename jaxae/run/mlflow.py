"""MLflow as a tracker; `MLFLOW_TRACKING_URI` names its store."""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxae.errors import InputError
from jaxae.run.tracking import IDS, Identity

MARK = "loss/train"  # every epoch has it


class MLflow:
    """Tracker of a run of MLflow. Parameters keep the values of the first start, as MLflow does not change them."""

    def __init__(self, client: Any, run: str) -> None:
        self._client, self._run = client, run
        steps = [found.step for found in client.get_metric_history(run, MARK)]
        self.last_step = max(steps, default=-1)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log all metrics in one request."""
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        found = [Metric(re.sub(r"[^\w/. :-]", "_", name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, found)

    def picture(self, path: Path, step: int, name: str) -> None:  # noqa: ARG002
        """Log the file as artifact NAME/FILE."""
        folder = "figures" if path.stem == name else f"figures/{name}"
        self._client.log_artifact(self._run, str(path), folder)

    def parameters(self, config: Mapping[str, Any], final: Mapping[str, float], step: int) -> None:
        """Log parameters that the run lacks, and the final metrics."""
        from mlflow.entities import Param

        known = self._client.get_run(self._run).data.params
        self._client.log_batch(self._run, params=[Param(k, str(v)) for k, v in config.items() if k not in known])
        if final:
            self.metrics(final, step)

    def finish(self, complete: bool) -> None:
        """Set the status: FINISHED, or KILLED."""
        self._client.set_terminated(self._run, "FINISHED" if complete else "KILLED")


def opened(identity: Identity) -> MLflow:
    """The tracked run of a run directory. InputError if the store no longer has it."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    client = MlflowClient()

    def new() -> str:
        found = client.get_experiment_by_name(identity.project)
        experiment = found.experiment_id if found else client.create_experiment(identity.project)
        run: str = client.create_run(experiment, run_name=identity.name).info.run_id
        return run

    run, existed = identity.id("mlflow", new)
    if existed:
        try:
            client.update_run(run, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise InputError(
                f"track=mlflow: the store has no run {run}; set MLFLOW_TRACKING_URI, or delete {identity.workdir / IDS}"
            ) from None
    return MLflow(client, run)
