"""Rates at which a host reads shards: python scripts/reading.py

Writes files of noise into a folder, and reads batches of 1,024 of them with one thread as training does, without a
model: a VAE's images of 28x28 and 64x64x3 bytes, and activations of 768 float32, as ArrayRecord and as Parquet with row
groups of about 1 MiB. Turns of the formats alternate; a turn begins after the files were dropped from the page cache.
Prints the medians over the turns: examples and MB of examples per second, and per second of the process's CPU time,
which other programs on the machine change less.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from jaxae import data, run
from jaxae.data import shard_folders
from jaxae.data.lanes import Lanes
from jaxae.run import loop

KINDS = {
    "image 28x28": ((28, 28, 1), np.uint8),
    "image 64x64x3": ((64, 64, 3), np.uint8),
    "activation 768": ((768,), np.float32),
}
FORMATS = ("array_record", "parquet")
BATCH, FILES, BLOCK, GROUP = 1024, 16, 1 << 26, 1 << 20


def main() -> None:
    run.program(rates)


def rates(stop: loop.Stop) -> str:
    """Print a row for each kind of examples and each format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=256, help="of examples of each kind (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--only", choices=KINDS, nargs="+", default=[*KINDS], help="default: all")
    options = parser.parse_args()
    print("| examples | bytes | format | per s | MB per s | per CPU s | MB per CPU s |\n|---|---|---|---|---|---|---|")
    for kind in options.only:
        shape, dtype = KINDS[kind]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        count = (options.mib << 20) // size
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            rng = np.random.default_rng(0)
            x = (
                rng.integers(0, 256, (count, *shape), np.uint8)
                if dtype == np.uint8
                else rng.random((count, *shape), dtype)
            )
            for format in FORMATS:
                data.write_shards(folder / format, x, FILES, format, rows=max(1, GROUP // size))
            found: dict[str, list[tuple[float, float]]] = {format: [] for format in FORMATS}
            for turn in range(options.turns):
                for format in FORMATS:
                    stop(None)
                    found[format].append(read(folder / format, turn, size))
        for format, turns in found.items():
            wall, cpu = (statistics.median(turn[i] for turn in turns) for i in (0, 1))
            numbers = [f"{rate:,.0f}" for rate in (wall, wall * size / 1e6, cpu, cpu * size / 1e6)]
            print(f"| {kind} | {size:,} | {format} | {' | '.join(numbers)} |", flush=True)
    return ""


def read(folder: Path, seed: int, size: int) -> tuple[float, float]:
    """Examples per second of an epoch, and per second of CPU time."""
    shards = shard_folders.all_rows(str(folder))
    for file in shards.files:
        with Path(file.path).open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    lanes = Lanes(shards, BATCH, seed, threads=1)
    steps = max(1, min(BLOCK // (BATCH * size), len(shards) // BATCH))
    began, used, done = time.perf_counter(), time.process_time(), 0
    while (done + steps) * BATCH <= len(shards):
        lanes.read(done, steps, [range(BATCH)])
        done += steps
    examples = done * BATCH
    wall, cpu = time.perf_counter() - began, time.process_time() - used
    return examples / wall, examples / cpu


if __name__ == "__main__":
    main()
