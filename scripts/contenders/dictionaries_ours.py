"""jaxae: its sparse autoencoders on one of its worlds or on activations, several seeds as one program.

The argument is a JSON object: see `dictionaries.py`. Prints the metrics of every seed, or, if `speed` is not 0, the
examples per second of one seed, timed for `speed` seconds.
"""

import dataclasses
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import jaxae
from jaxae import data
from jaxae.training.iterate import iterate

SAVED = 5000  # steps between checkpoints


def main() -> None:
    """Train and evaluate."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    dataset, epochs = source(job)
    module = importlib.import_module(f"jaxae.experiments.{job['architecture']}")
    options: dict[str, Any] = {"latent": job["latent"], "lr": job["lr"]}
    known = {field.name for field in dataclasses.fields(module.Config)}
    options |= {"active" if "active" in known else "target_active": job["active"]}
    options |= {"levels": tuple(job["levels"])} if "levels" in known else {}
    if job["speed"]:
        print(json.dumps({"samples_per_second": rate(module, {**options, "epochs": epochs}, dataset, job)}))
        return
    options |= {"epochs": epochs, "batch_size": job["batch"], "seed": job["seed"], "seeds": job["seeds"]}
    saved = {"workdir": job["workdir"], "checkpoint_every": SAVED, "checkpoint_unit": "steps"}
    model = jaxae.fit(module, dataset, progress=False, figures=False, **saved, **options)
    measure = model.experiment.measures["dictionary"]
    print(json.dumps([measure(model[i], dataset) for i in range(job["seeds"])]))


def source(job: dict[str, Any]) -> tuple[data.Dataset, int]:
    """The data, and the number of epochs."""
    if not job["data"]:
        return data.superposition(job["world"], train=job["samples"], test=job["test"], shared=job["shared"]), 1
    x = np.load(Path(job["data"]) / "activations.npy", mmap_mode="r", allow_pickle=False)
    with np.load(job["constants"], allow_pickle=False) as file:
        train, test = file["train"], file["test"]
    return data.from_arrays(x[train], test=x[test], scale="none"), job["samples"] // len(train)


def rate(module: Any, options: dict[str, Any], dataset: data.Dataset, job: dict[str, Any]) -> float:
    """Examples that one seed trains on in a second, data included; the first dispatch is not timed."""
    config = module.Config(**options, batch_size=job["batch"])
    experiment = module.build(config, dataset.info)
    sizes = {"epochs": config.epochs, "batch_size": job["batch"], "seeds": job["seeds"]}
    snapshots = iterate(experiment, dataset, **sizes)
    seconds, steps, last = 0.0, 0, 0
    for now in snapshots:
        if now.seconds:
            seconds, steps = seconds + now.seconds, steps + now.step - last
        last = now.step
        if seconds > job["speed"]:
            break
    return steps * job["batch"] / seconds


if __name__ == "__main__":
    main()
