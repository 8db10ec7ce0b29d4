"""Compare quantizers with vector-quantize-pytorch: time per step, error and perplexity after 200 steps.

python scripts/quantizers.py --python vq/bin/python [NAME ...]

100,000 vectors of 16 dimensions around 512 centres (standard normal, noise 0.3), batches of 4,096 random ones, forward
and backward, 512 codes. Each library runs in its own process with one thread; both are pinned to the same core and take
turns, since waiting threads distort the times on two cores. The time is the median (smallest to largest) over all runs
of nine medians of ten steps each, after 110 steps. Error: squared distance of a vector from its code, mean over all
vectors; perplexity of the (first) index, of 512. vq and residual compare codebooks of moving averages with k-means,
decay and expiry as configured, and pass the gradient straight through; simvq has the rotation trick, their default. The
parameters of the others are not trained. `best` has our options for re-initialisation in place of theirs: vectors are
sampled in proportion to their error, and replace codes below 0.4 of uniform usage.

vector-quantize-pytorch needs its own environment, since it requires torch:
python -m venv vq && vq/bin/pip install torch vector-quantize-pytorch
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxae.errors import InputError

FOLDER = Path(__file__).parent / "contenders"
BATCH, CODES, STEPS = 4096, 512, 200
# The other library replaces codes with fewer than 2 vectors, 2 / (4096 / 512) of uniform usage, and sets their usage
# to 2.
EXPIRY = {"decay": 0.8, "kmeans": 10, "reinit_below": 0.249, "reinit_usage": 0.25}
THEIRS = {"codebook_size": CODES, "kmeans_init": True, "threshold_ema_dead_code": 2, "rotation_trick": False}
BEST = {**EXPIRY, "reinit_below": 0.399, "reinit_usage": 0.4, "reinit_from": "error"}
SLOW = {"decay": 0.99}
JOBS: dict[str, tuple[dict[str, Any], tuple[str, dict[str, Any]]]] = {
    "vq": ({"codes": CODES, **EXPIRY}, ("vq", {**THEIRS, "decay": 0.8})),
    "vq, best": ({"codes": CODES, **BEST}, ("vq", {**THEIRS, "decay": 0.8})),
    "vq, decay 0.99": ({"codes": CODES, **EXPIRY, **SLOW}, ("vq", {**THEIRS, **SLOW})),
    "vq, decay 0.99, best": ({"codes": CODES, **BEST, **SLOW}, ("vq", {**THEIRS, **SLOW})),
    "residual of 4": (
        {"codes": CODES, **EXPIRY, "residual": 4},
        ("residual", {**THEIRS, "decay": 0.8, "num_quantizers": 4}),
    ),
    "fsq": ({"quantizer": "fsq", "levels": (8, 8, 8)}, ("fsq", {"levels": [8, 8, 8]})),
    "lfq": ({"quantizer": "lfq", "codes": CODES}, ("lfq", {"codebook_size": CODES})),
    "simvq": ({"quantizer": "simvq", "codes": CODES, "gradient": "rotation"}, ("simvq", {"codebook_size": CODES})),
}


def main() -> None:
    """Run the jobs, and print the table."""
    known = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(JOBS)} (default: all)")
    known.add_argument("--python", default=sys.executable, help="interpreter with vector-quantize-pytorch")
    known.add_argument("--rounds", type=int, default=3, help="runs of each library, with seeds from 0")
    options = known.parse_args()
    if unknown := set(options.names) - set(JOBS):
        raise InputError(f"NAME={unknown.pop()} is unknown; use one of {', '.join(JOBS)}")
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})  # for this process and its children
    print("| quantizer | ours, ms | theirs, ms | theirs / ours | error, ours | theirs | perplexity, ours | theirs |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        vectors = Path(folder) / "vectors.npy"
        np.save(vectors, clustered())
        for name in options.names or JOBS:
            print(row(name, *results(name, str(vectors), options.python, options.rounds)), flush=True)


def clustered(seed: int = 0) -> np.ndarray:
    """The vectors."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CODES, 16))
    return (centres[rng.integers(0, CODES, 100_000)] + 0.3 * rng.normal(size=(100_000, 16))).astype(np.float32)


def results(name: str, vectors: str, python: str, rounds: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The results of both libraries, which take turns. InputError if one fails."""
    ours, theirs = JOBS[name]
    each: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for seed in range(rounds):
        job = {"vectors": vectors, "seed": seed, "batch": BATCH, "steps": STEPS, "options": ours, "theirs": theirs}
        sides = ((sys.executable, "quantizers_ours"), (python, "with_vector_quantize"))
        for found, (interpreter, script) in zip(each, sides, strict=True):
            done = subprocess.run(
                [interpreter, str(FOLDER / f"{script}.py"), json.dumps(job)],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            if done.returncode:
                sys.stderr.write(done.stderr)
                raise InputError(f"{script} failed, with the error above")
            found.append(json.loads(done.stdout.splitlines()[-1]))
    return each


def row(name: str, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    """A row of the table."""
    times = [milliseconds(found) for found in (ours, theirs)]
    medians = [statistics.median(found) for found in times]
    spans = [f"{statistics.median(one):.1f} ({min(one):.1f} to {max(one):.1f})" for one in times]
    cells = [*spans, f"{medians[1] / medians[0]:.2f}"]
    if name.startswith(("vq", "residual")):
        cells += [span([run["error"] for run in found], 2) for found in (ours, theirs)]
        cells += [span([perplexity(run["indices"]) for run in found], 0) for found in (ours, theirs)]
    return f"| {name} | {' | '.join(cells + [''] * (7 - len(cells)))} |"


def milliseconds(found: list[dict[str, Any]]) -> list[float]:
    """Nine medians of ten steps from each run."""
    parts = [run["seconds"][first : first + 10] for run in found for first in range(110, STEPS, 10)]
    return [1e3 * statistics.median(part) for part in parts]


def perplexity(indices: list[int]) -> float:
    """exp of the entropy of their distribution."""
    shares = np.bincount(indices) / len(indices)
    return float(np.prod(shares[shares > 0] ** -shares[shares > 0]))


def span(values: list[float], digits: int) -> str:
    """The smallest to the largest value."""
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
