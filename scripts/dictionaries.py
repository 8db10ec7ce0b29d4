"""Compare sparse autoencoders with SAELens on known features: python scripts/dictionaries.py --out runs.jsonl

Both libraries train on data with the same constants (features, frequencies, correlations, hierarchy, magnitudes), each
in its own process with one thread on one core. jaxae trains all seeds as one program, SAELens one seed after another.
Both are evaluated with the same metrics on the same number of new examples. The rates include data generation; those of
jaxae are timed separately for one seed, for all seeds with their own examples, and for all seeds with shared examples.

Each result is appended to the file, and a repeated command runs only the missing jobs. `--limit 400` starts no new job
after 400 seconds. SAELens needs its own environment, since it requires torch: python -m venv sae &&
sae/bin/pip install sae-lens, then --python sae/bin/python.
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
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr

from jaxae.data.superposition import WORLDS, arrays, trees
from jaxae.errors import InputError

FOLDER = Path(__file__).parent / "contenders"
OURS, THEIRS = "jaxae", "SAELens"
ARCHITECTURES = ("batch_topk", "matryoshka", "l1", "jump_relu", "topk")
SIZES = {"eighth": (512, (16, 64, 256)), "16k": (4096, (128, 512, 2048))}  # latents, inner levels of Matryoshka
METRICS = ("f1", "mcc", "explained_variance", "uniqueness", "l0", "dead")


def main() -> None:
    """Run what is missing, and print the tables."""
    known = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known.add_argument("--out", required=True, help="file of results, one JSON object a line")
    known.add_argument("--world", choices=[*WORLDS], default="eighth")
    known.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=[*ARCHITECTURES[:3]])
    known.add_argument("--sides", nargs="*", choices=(OURS, THEIRS), default=[OURS, THEIRS])
    known.add_argument("--lr", nargs="+", type=float, default=[1e-3], help="learning rates")
    known.add_argument("--active", type=int, default=8, help="active latents, L0")
    known.add_argument("--samples", type=int, default=2_000_000)
    known.add_argument("--batch", type=int, default=1024)
    known.add_argument("--seeds", type=int, default=5)
    known.add_argument("--test", type=int, default=100_000, help="examples of the evaluation")
    known.add_argument("--speed", type=float, default=0.0, help="also time jaxae, for so many seconds per rate")
    known.add_argument("--limit", type=float, default=float("inf"), help="seconds after which nothing new is started")
    known.add_argument("--python", default=sys.executable, help="interpreter of an environment with sae-lens")
    options = known.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # of this process and all that it starts
    out, began = Path(options.out), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        constants = Path(folder) / "world.npz"
        for job in jobs(options):
            if any(same(row, job) for row in rows(out)):
                continue
            if time.monotonic() - began > options.limit:
                print("the time limit is reached: repeat the command to continue", file=sys.stderr)
                break
            if job["side"] == THEIRS and not constants.exists():
                np.savez(constants, **exported(options.world))
            done = result(job, options, constants)
            with out.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in done)
            print(f"{job['side']} {job['architecture']} lr {job['lr']:g} seed {job['seed']}", file=sys.stderr)
    print(table(rows(out)))


def jobs(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Everything to run: the fields by which a result is known."""
    alike = {name: getattr(options, name) for name in ("world", "active", "samples", "batch", "test")}
    for architecture in options.architectures:
        for lr in options.lr:
            of = {"architecture": architecture, "lr": lr, **alike, "speed": 0.0, "shared": False}
            if OURS in options.sides:
                yield {"side": OURS, **of, "seed": 0, "seeds": options.seeds}
            if THEIRS in options.sides:
                yield from ({"side": THEIRS, **of, "seed": seed, "seeds": 1} for seed in range(options.seeds))
        if options.speed and OURS in options.sides:
            timed = {"side": OURS, **of, "seed": 0, "speed": options.speed}
            yield {**timed, "seeds": 1}
            if options.seeds > 1:
                yield from ({**timed, "seeds": options.seeds, "shared": shared} for shared in (False, True))


def same(row: dict[str, Any], job: dict[str, Any]) -> bool:
    """Whether a row is a result of this job."""
    return all(row.get(name) == value for name, value in job.items())


def rows(path: Path) -> list[dict[str, Any]]:
    """The results so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def result(job: dict[str, Any], options: argparse.Namespace, constants: Path) -> list[dict[str, Any]]:
    """Run a job in its own process on one core with one thread; a row for each seed. InputError if it fails."""
    latent, levels = SIZES[options.world]
    of = trees(WORLDS[options.world])
    told = {**job, "latent": latent, "levels": levels, "constants": str(constants), "trees": of._asdict()}
    script, python = ("dictionaries_ours", sys.executable) if job["side"] == OURS else ("with_sae_lens", options.python)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [python, str(FOLDER / f"{script}.py"), json.dumps(told)],
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
    """The constants of a world as SAELens takes them."""
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
        key = tuple(row[name] for name in ("world", "samples", "active", "architecture", "lr", "side"))
        groups[key].append(row)
    lines = [
        f"| world, samples, L0 | architecture | rate | side | seeds | {' | '.join(METRICS)} | samples per second |",
        f"|{'---|' * (len(METRICS) + 6)}",
    ]
    for (world, samples, active, architecture, lr, side), each in sorted(groups.items()):
        trained = [row for row in each if not row["speed"]]
        cells = [spread([row[name] for row in trained]) for name in METRICS]
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
