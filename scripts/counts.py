"""Compare scvi with scvi-tools and with a model-free negative binomial, on cells with and without known types.

python scripts/counts.py $DATA/pbmc --out runs.jsonl --python scvi/bin/python

Sets: simulated (`simulated_cells`, 8,000 training cells of 6 types in 3 batches, 1,000 genes) and pbmc (two files of
200 blood cells each, which are the batches, on the genes that are highly variable in both and observed in a cell; 40
cells are held out by a fixed seed). Both libraries train on the same cells, each in its own process with one thread on
one core, one seed after another, with one hidden layer of 128, 10 latent dimensions, batches of 128, learning rate
0.001 and without KL warm-up; everything else is the default of each. The set speed measures cells per second on 10,000
cells of 4,000 genes.

nats: -log p of a held-out cell given its total and batch, by importance sampling with 100 samples from each model's own
posterior, with the formulas of `contenders/cells.py` (NumPy, float64) for both. `model-free` is a negative binomial of
mean (total of the cell) x (share of the gene) with one dispersion per gene by maximum likelihood. Integration scores
are those of `jaxae/measure/integration.py` for the codes of the test cells, or for pbmc of all cells.

Each result is appended to the file; a repeated command runs only what is missing. `--limit 300` starts no new job after
300 seconds. scvi-tools needs its own environment: python -m venv scvi && scvi/bin/pip install scvi-tools.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "contenders"))

import cells
from dictionaries import rows, same

from jaxae import data
from jaxae.data import h5ad
from jaxae.data.options import Options
from jaxae.errors import InputError
from jaxae.measure import integration

FOLDER = Path(__file__).parent / "contenders"
OURS, THEIRS, FREE = "jaxae", "scvi-tools", "model-free"
FILES = ("pbmc_5k_protein_v3.h5ad", "pbmc_10k_protein_v3.h5ad")
HELD_OUT = 40  # cells of pbmc
MEASURES = ("silhouette_type", "knn_type", "silhouette_batch", "knn_batch")
TIMED = (10_000, 4_000)  # cells and genes of the timed set


def main() -> None:
    """Run what is missing, and print the table."""
    known = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known.add_argument("pbmc", type=Path, nargs="?", help="folder of the files of pbmc")
    known.add_argument("--out", type=Path, required=True, help="file of results, one JSON object per line")
    known.add_argument(
        "--sets", nargs="+", choices=("simulated", "pbmc", "speed"), default=["simulated", "pbmc", "speed"]
    )
    known.add_argument("--likelihoods", nargs="+", choices=("nb", "zinb"), default=["nb", "zinb"])
    known.add_argument("--sides", nargs="+", choices=(OURS, THEIRS, FREE), default=[FREE, OURS, THEIRS])
    known.add_argument("--epochs", type=int, default=0, help="(default: 100 for pbmc, 30 for simulated)")
    known.add_argument("--seeds", type=int, default=3)
    known.add_argument("--test", type=int, default=500, help="simulated test cells, for nats and integration scores")
    known.add_argument("--limit", type=float, default=float("inf"), help="seconds after which no other run starts")
    known.add_argument("--python", default=sys.executable, help="interpreter of an environment with scvi-tools")
    options = known.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # for this process and its children
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for job in jobs(options):
            if any(same(row, job) for row in rows(options.out)):
                continue
            if time.monotonic() - began > options.limit:
                print("the time limit is reached: repeat the command to continue", file=sys.stderr)
                break
            path = Path(folder) / f"{job['set']}.npz"
            if not path.exists():
                np.savez(path, **arrays(job["set"], options))
            found = {**job, **result(job, path, options)}
            with options.out.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(json.dumps(found), file=sys.stderr)
    print(table(rows(options.out)))


def jobs(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All jobs, as the fields that identify their results."""
    for name in options.sets:
        if name == "speed":
            sides = [side for side in options.sides if side != FREE]
            yield from ({"set": name, "side": s, "likelihood": k} for s, k in product(sides, options.likelihoods))
            continue
        epochs = options.epochs or (100 if name == "pbmc" else 30)
        size = {"test": options.test} if name == "simulated" else {}
        if FREE in options.sides:
            yield {"set": name, "side": FREE, **size}
        for side, kind in product((s for s in options.sides if s != FREE), options.likelihoods):
            of = {"set": name, "side": side, "likelihood": kind, "epochs": epochs, **size}
            yield from ({**of, "seed": seed} for seed in range(options.seeds))


def arrays(name: str, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Counts, batches and types (-1 where unknown) of the training and test cells."""
    if name == "pbmc":
        return of_pbmc(options.pbmc)
    if name == "speed":
        count, genes = TIMED
        found = data.simulated_cells(train=count, test=10, genes=genes, total=3000.0, shape=0.3)
    else:
        found = data.simulated_cells()
    parts = {"train": found.train, "test": found.test}
    batches = {f"{part}_batch": integration.batches(split.context, found.covariates) for part, split in parts.items()}
    types = {f"{part}_type": split.y for part, split in parts.items()}
    return {part: split.x for part, split in parts.items()} | types | batches


def of_pbmc(folder: Path | None) -> dict[str, np.ndarray]:
    """The cells of both files, on the genes that are highly variable in both and observed in a cell.

    InputError without the folder.
    """
    if folder is None:
        raise InputError("pbmc needs the folder of its files: python scripts/counts.py FOLDER")
    variable = [h5ad.read(folder / name, Options(genes="highly_variable")).genes for name in FILES]
    genes = [name for name in variable[0] if name in {*variable[1]}]
    each = [h5ad.read(folder / name, Options(), genes).x for name in FILES]
    x = np.concatenate(each)
    x, batch = x[:, x.sum(0) > 0], np.repeat(np.arange(2), [len(part) for part in each])
    test = np.zeros(len(x), bool)
    test[np.random.default_rng(0).choice(len(x), HELD_OUT, replace=False)] = True
    parts = {"train": ~test, "test": test}
    of = {
        name: part for key, where in parts.items() for name, part in ((key, x[where]), (f"{key}_batch", batch[where]))
    }
    return of | {f"{key}_type": np.full(int(where.sum()), -1) for key, where in parts.items()}


def result(job: dict[str, Any], path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run a job in its own process with one thread. InputError if it fails."""
    with np.load(path, allow_pickle=False) as file:
        of = {name: file[name] for name in file.files}
    if job["set"] == "simulated":  # the first test cells
        of = {name: part[: options.test] if name.startswith("test") else part for name, part in of.items()}
    if job["side"] == FREE:
        return {"nats": float(-cells.model_free(of["train"], of["test"]).mean())}
    speed = 5 if job["set"] == "speed" else 0
    given, out = path.with_name("given.npz"), path.with_name("codes.npz")
    np.savez(given, **of)
    fields = {"cells": str(given), "out": str(out), "latent": 10, "batch": 128, "kl_warmup": 0, "speed": speed}
    arguments = {"seed": 0, "epochs": 1, **job, **fields}
    script = "scvi_ours.py" if job["side"] == OURS else "with_scvi.py"
    python = sys.executable if job["side"] == OURS else options.python
    flags = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(flags if job["side"] == OURS else {})}
    command = [python, str(FOLDER / script), json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise InputError(f"{job['side']} failed: {done.stderr.strip().splitlines()[-1:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if speed:
        return found
    with np.load(out, allow_pickle=False) as file:
        codes = np.concatenate([file["train"], file["test"]]) if job["set"] == "pbmc" else file["test"]
    labels = {
        label: np.concatenate([of[f"train_{label}"], of[f"test_{label}"]])
        if job["set"] == "pbmc"
        else of[f"test_{label}"]
        for label in ("type", "batch")
    }
    scores = [integration.scores(codes, numbers, label) for label, numbers in labels.items()]
    return {"nats": float(np.mean(found["nats"])), "seconds": found["seconds"], **scores[0], **scores[1]}


def table(found: list[dict[str, Any]]) -> str:
    """Means and standard deviations over seeds."""
    groups: dict[tuple[str, str, str, int, int], list[dict[str, Any]]] = defaultdict(list)
    for row in found:
        of = (row["set"], row.get("likelihood", "nb"), row["side"], row.get("epochs", 0), row.get("test", 0))
        groups[of].append(row)
    lines = [
        f"| set | likelihood | side | epochs | seeds | nats | {' | '.join(MEASURES)} | seconds | cells per second |",
        f"|{'---|' * (len(MEASURES) + 8)}",
    ]
    for (name, kind, side, epochs, _), each in sorted(groups.items()):
        cells_of = [
            spread([row[key] for row in each if key in row], 2 if key == "nats" else 3) for key in ("nats", *MEASURES)
        ]
        seconds = spread([row["seconds"] for row in each if "seconds" in row], 0)
        rates = " ".join(f"{row['cells_per_second']:,.0f}" for row in each if "cells_per_second" in row)
        first = f"| {name} | {kind} | {side} | {epochs or ''} | {len(each)} |"
        lines.append(f"{first} {' | '.join(cells_of)} | {seconds} | {rates} |")
    return "\n".join(lines)


def spread(values: list[float], digits: int) -> str:
    """Mean and standard deviation."""
    if len(values) < 2:
        return f"{values[0]:,.{digits}f}" if values else ""
    return f"{statistics.mean(values):,.{digits}f} ± {statistics.stdev(values):.{digits}f}"


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
