"""Compare sparse autoencoders with SAELens: on known features, and on activations of a language model.

python scripts/dictionaries.py --out runs.jsonl
python scripts/dictionaries.py --out runs.jsonl --data ACTIVATIONS --active 8 16 32 64 --seeds 1 --speed 20

Both libraries train on data with the same constants (features, frequencies, correlations, hierarchy, magnitudes), each
in its own process with one thread on one core. jaxae trains all seeds as one program, SAELens one seed after another.
Both are evaluated with the same metrics on the same number of new examples. The rates include data generation; those of
jaxae are timed separately for one seed, for all seeds with their own examples, and for all seeds with shared examples.
In the evaluation, as in its published table, SAELens' BatchTopK and Matryoshka keep the largest codes of each batch;
those of jaxae keep the codes above their inference threshold.

--data is a folder of `jaxae activations`. Every tenth line of its text is held out, and --test of their tokens are the
test examples. --samples is rounded up to complete passes over the other tokens. Both libraries scale the inputs so that
their mean norm is the square root of their dimension.

Each result is appended to the file, and a repeated command runs only the missing jobs; a job of jaxae that was killed
resumes from its run directory beside the file. `--limit 400` starts no new job after 400 seconds. SAELens needs its own
environment, since it requires torch: python -m venv sae && sae/bin/pip install sae-lens, then --python sae/bin/python.
"""

import argparse
import hashlib
import json
import os
import shutil
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
from scipy.special import ndtr

from jaxae.data import activations
from jaxae.data.kinds import BFLOAT16
from jaxae.data.superposition import WORLDS, arrays, trees
from jaxae.errors import InputError

FOLDER = Path(__file__).parent / "contenders"
OURS, THEIRS = "jaxae", "SAELens"
ARCHITECTURES = ("batch_topk", "matryoshka", "l1", "jump_relu", "topk", "matching_pursuit", "gated")
LATENTS = {"eighth": 512, "16k": 4096}
LEVELS = (32, 8, 2)  # Matryoshka's inner levels have latents // LEVELS latents
METRICS = ("f1", "mcc", "explained_variance", "uniqueness", "l0", "dead")


def main() -> None:
    """Run what is missing, and print the tables."""
    known = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known.add_argument("--out", required=True, help="file of results, one JSON object per line")
    known.add_argument("--world", choices=[*WORLDS], default="eighth")
    known.add_argument("--data", default="", help="folder of jaxae activations, in place of a world")
    known.add_argument("--latent", type=int, default=4096, help="latents with --data")
    known.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=[*ARCHITECTURES[:3]])
    known.add_argument("--sides", nargs="*", choices=(OURS, THEIRS), default=[OURS, THEIRS])
    known.add_argument("--lr", nargs="+", type=float, default=[1e-3], help="learning rates")
    known.add_argument("--active", nargs="+", type=int, default=[8], help="numbers of active latents, L0")
    known.add_argument("--samples", type=int, default=2_000_000)
    known.add_argument("--batch", type=int, default=1024)
    known.add_argument("--seeds", type=int, default=5)
    known.add_argument("--test", type=int, default=100_000, help="examples of the evaluation")
    known.add_argument("--speed", type=float, default=0.0, help="also time jaxae, for this many seconds per rate")
    known.add_argument("--limit", type=float, default=float("inf"), help="seconds after which no other run starts")
    known.add_argument("--python", default=sys.executable, help="interpreter of an environment with sae-lens")
    options = known.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # for this process and its children
    out, began = Path(options.out), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        constants = Path(folder) / "constants.npz"
        if options.data:
            places = split(Path(options.data), options.test)
            np.savez(constants, **places)
            options.samples = -(-options.samples // len(places["train"])) * len(places["train"])
        for job in jobs(options):
            if any(same(row, job) for row in rows(out)):
                continue
            if time.monotonic() - began > options.limit:
                print("the time limit is reached: repeat the command to continue", file=sys.stderr)
                break
            if job["side"] == THEIRS and not constants.exists():
                np.savez(constants, **exported(options.world))
            workdir = directory(out, job)
            done = result(job, options, constants, workdir)
            with out.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in done)
            shutil.rmtree(workdir, ignore_errors=True)
            print(f"{job['side']} {job['architecture']} lr {job['lr']:g} seed {job['seed']}", file=sys.stderr)
    print(table(rows(out)))


def jobs(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All jobs, as the fields that identify their results."""
    alike = {name: getattr(options, name) for name in ("world", "samples", "batch", "test")}
    if options.data:
        alike |= {"world": options.data, "latent": options.latent}
    for architecture, active in product(options.architectures, options.active):
        for lr in options.lr:
            of = {"architecture": architecture, "lr": lr, **alike, "active": active, "speed": 0.0, "shared": False}
            if OURS in options.sides:
                yield {"side": OURS, **of, "seed": 0, "seeds": options.seeds}
            if THEIRS in options.sides:
                yield from ({"side": THEIRS, **of, "seed": seed, "seeds": 1} for seed in range(options.seeds))
        if options.speed and OURS in options.sides:
            timed = {"side": OURS, **of, "seed": 0, "speed": options.speed}
            yield {**timed, "seeds": 1}
            if options.seeds > 1:
                ways = (False,) if options.data else (False, True)
                yield from ({**timed, "seeds": options.seeds, "shared": shared} for shared in ways)


def same(row: dict[str, Any], job: dict[str, Any]) -> bool:
    """Whether a row is a result of this job."""
    return all(row.get(name) == value for name, value in job.items())


def rows(path: Path) -> list[dict[str, Any]]:
    """The results so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def directory(out: Path, job: dict[str, Any]) -> Path:
    """The run directory of a job."""
    known = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:12]
    return out.with_suffix(".runs") / f"{job['architecture']}-{known}"


def split(folder: Path, test: int) -> dict[str, np.ndarray]:
    """Indices of the training and of the test rows. InputError for too few of them, and for bfloat16."""
    found = activations.read(folder)
    held = np.flatnonzero(found.lines % 10 == 9)
    if len(held) < test or found.x.dtype == BFLOAT16:
        raise InputError(
            f"{folder} has {len(held):,} test rows of {found.x.dtype}; use --test {len(held)}, and float16"
        )
    return {"train": np.flatnonzero(found.lines % 10 != 9), "test": held[:test]}


def result(job: dict[str, Any], options: argparse.Namespace, constants: Path, workdir: Path) -> list[dict[str, Any]]:
    """Run a job in its own process on one core with one thread; a row for each seed. InputError if it fails."""
    latent = options.latent if options.data else LATENTS[options.world]
    arguments = {
        **job,
        "data": options.data,
        "latent": latent,
        "levels": [latent // part for part in LEVELS],
        "constants": str(constants),
        "trees": trees(WORLDS[options.world])._asdict(),
        "workdir": str(workdir),
    }
    script, python = ("dictionaries_ours", sys.executable) if job["side"] == OURS else ("with_sae_lens", options.python)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [python, str(FOLDER / f"{script}.py"), json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **threads},
    )
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise InputError(f"{job['side']} {job['architecture']} failed, with the error above")
    found = json.loads(done.stdout.splitlines()[-1])
    each = found if isinstance(found, list) else [found]
    return [{**job, **metrics, "number": job["seed"] + i} for i, metrics in enumerate(each)]


def exported(world: str) -> dict[str, np.ndarray]:
    """The constants of a world in the parametrization of SAELens."""
    found = arrays(WORLDS[world])
    own = 1 / np.sqrt(1 + np.sum(found.slope.astype(np.float64) ** 2, axis=1))
    values = {
        "dictionary": found.dictionary,
        "bias": found.bias,
        "factor": found.slope * own[:, None],
        "own": own**2,
        "probability": ndtr(-found.threshold * own),
        "mean": found.mean,
        "std": found.std,
    }
    return {name: value.astype(np.float32) for name, value in values.items()}


def table(found: list[dict[str, Any]]) -> str:
    """Means and standard deviations over seeds, and examples per second."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in found:
        world = f"{row['world']} with {row['latent']:,} latents" if "latent" in row else row["world"]
        groups[(world, *(row[name] for name in ("samples", "active", "architecture", "lr", "side")))].append(row)
    lines = [
        f"| world, samples, L0 | architecture | rate | side | seeds | {' | '.join(METRICS)} | samples per second |",
        f"|{'---|' * (len(METRICS) + 6)}",
    ]
    for (world, samples, active, architecture, lr, side), each in sorted(groups.items()):
        trained = [row for row in each if not row["speed"]]
        cells = [spread([row[name] for row in trained if name in row]) for name in METRICS]
        first = f"| {world}, {samples:,}, {active} | {architecture} | {lr:g} | {side} | {len(trained)} |"
        lines.append(f"{first} {' | '.join(cells)} | {speeds(each)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    if len(values) < 2:
        return f"{values[0]:.4f}" if values else ""
    return f"{statistics.mean(values):.4f} +- {statistics.stdev(values):.4f}"


def speeds(each: list[dict[str, Any]]) -> str:
    """Rates of one seed, and of all seeds together in multiples of the time of one."""
    timed = {(row["seeds"], row["shared"]): row["samples_per_second"] for row in each if row["speed"]}
    if not timed:
        rates = [row["samples"] / row["seconds"] for row in each if "seconds" in row]
        return f"{statistics.median(rates):,.0f}" if rates else ""
    one = timed.pop((1, False))
    together = [
        f"{seeds} seeds{' with the same examples' * shared} in {one / rate:.2f} times the time"
        for (seeds, shared), rate in timed.items()
    ]
    return "; ".join([f"{one:,.0f}", *together])


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
