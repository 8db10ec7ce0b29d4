"""jaxae: its sparse autoencoders on one of its worlds, several seeds as one program.

The argument is a JSON object: see `dictionaries.py`. Prints the metrics of every seed, or, if `speed` is not 0, the
examples per second of one seed, timed for so many seconds.
"""

import dataclasses
import importlib
import json
import sys
from typing import Any

import jaxae
from jaxae import data
from jaxae.training.iterate import iterate


def main() -> None:
    """Train and evaluate."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    shared = job["shared"]
    dataset = data.superposition(job["world"], train=job["samples"], test=job["test"], shared=shared)
    module = importlib.import_module(f"jaxae.experiments.{job['architecture']}")
    options: dict[str, Any] = {"latent": job["latent"], "lr": job["lr"]}
    known = {field.name for field in dataclasses.fields(module.Config)}
    options |= {"active" if "active" in known else "target_active": job["active"]}
    options |= {"levels": tuple(job["levels"])} if "levels" in known else {}
    if job["speed"]:
        print(json.dumps({"samples_per_second": rate(module, options, dataset, job)}))
        return
    seed = {"seed": job["seed"], "seeds": job["seeds"]}
    model = jaxae.fit(module, dataset, epochs=1, batch_size=job["batch"], progress=False, **seed, **options)
    measure = model.experiment.measures["dictionary"]
    print(json.dumps([measure(model[i], dataset) for i in range(job["seeds"])]))


def rate(module: Any, options: dict[str, Any], dataset: data.Dataset, job: dict[str, Any]) -> float:
    """Examples that one seed trains on in a second, data included; the first dispatch is not timed."""
    config = module.Config(**options, epochs=1, batch_size=job["batch"])
    snapshots = iterate(
        module.build(config, dataset.info), dataset, epochs=1, batch_size=job["batch"], seeds=job["seeds"]
    )
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
