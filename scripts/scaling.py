"""Training throughput against problem size: python scripts/scaling.py

Images per second of the VAE 784-500-20, against the batch size, the width of its hidden layers and the number of
examples, resident on the device and streamed (--device-data-limit); and for 100,000 real numbers of each type, which
are standardized as they are read. The examples are noise in a file. Times are of steps only, without compilation and
evaluation; resident and streamed runs are interleaved. Writes a table and a picture. With
--only, such as --only examples width, only the named quantities are varied.
"""

import argparse
import dataclasses
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxae import run
from jaxae.data import Dataset, Split
from jaxae.data.rows import Rows
from jaxae.data.scaling import scaled
from jaxae.devices import plan as plans
from jaxae.experiments import vae
from jaxae.run import loop
from jaxae.training.iterate import Snapshot, iterate

BATCHES = (32, 128, 512, 2048, 8192)
WIDTHS = (125, 250, 500, 1000, 2000)
COUNTS = (10_000, 100_000, 1_000_000, 10_000_000)
TYPES = ("float32", "float16", "bfloat16")
CHUNK = 10_000
BASE = vae.Config(batch_size=128, hidden=(500,), latent=20)
WAYS = {"on the device": 1e6, "streamed": 1e-9}  # --device-data-limit in GiB
EPOCHS = 2**31  # never reached


def main() -> None:
    run.program(scaling)


def scaling(stop: loop.Stop) -> str:
    """Measure all sizes, write the picture, and return the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of a turn (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="default: %(default)s")
    parser.add_argument(
        "--largest", type=int, default=COUNTS[-1], help="maximum number of examples (default: %(default)s)"
    )
    parser.add_argument("--picture", type=Path, default=Path("runs/scaling.png"), help="default: %(default)s")
    parser.add_argument("--only", choices=["batch size", "width", "examples", *TYPES], nargs="*", default=())
    options = parser.parse_args()
    rows: dict[str, dict[str, list[tuple[int, float]]]] = {}
    several = min(100_000, options.largest)
    ways = {how: dataclasses.replace(BASE, device_data_limit=limit) for how, limit in WAYS.items()}

    def wanted(what: str) -> bool:
        return not options.only or what in options.only

    def measure(what: str, number: int, data: Dataset, configs: dict[str, vae.Config]) -> None:
        for how, value in rates(data, configs, options.seconds, options.turns, stop).items():
            rows.setdefault(what, {}).setdefault(how, []).append((number, value))

    with tempfile.TemporaryDirectory() as folder:
        some = noise(Path(folder), several)
        for size in BATCHES if wanted("batch size") else ():
            measure("batch size", size, some, {"": dataclasses.replace(BASE, batch_size=size)})
        for width in WIDTHS if wanted("width") else ():
            measure("width", width, some, {"": dataclasses.replace(BASE, hidden=(width,))})
        for kind in TYPES:
            if wanted(kind):
                measure(kind, several, numbers(Path(folder), several, kind), ways)
        for count in COUNTS if wanted("examples") else ():
            if count <= options.largest:
                measure("examples", count, noise(Path(folder), count), ways)
    draw({what: rows[what] for what in rows if what not in TYPES}, options.picture)
    lines = [f"{jax.devices()[0].device_kind}", "", "| | | | images per second |", "|---|---|---|---|"]
    for what, measured in rows.items():
        for how, values in measured.items():
            lines += [f"| {what} | {number:,} | {how} | {value:,.0f} |" for number, value in values]
    return "\n".join(lines)


def noise(folder: Path, count: int) -> Dataset:
    """`count` random images in a file; the first one is the test split."""
    path = folder / "x.npy"
    path.unlink(missing_ok=True)
    rng = np.random.default_rng(0)
    x = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 28, 28, 1))
    for i in range(0, count, CHUNK):
        x[i : i + CHUNK] = rng.integers(0, 256, (min(CHUNK, count - i), 28, 28, 1), np.uint8)
    x.flush()
    train = Split(np.load(path, mmap_mode="r", allow_pickle=False), np.zeros(count, np.int32))
    return Dataset(train, Split(train.x[:1], train.y[:1]), ())


def numbers(folder: Path, count: int, kind: str) -> Dataset:
    """`count` rows of random numbers of this type in a file, not standardized; the first 100 are the test split."""
    path = folder / f"{kind}.npy"
    rng = np.random.default_rng(0)
    x = np.lib.format.open_memmap(path, "w+", np.dtype(getattr(jnp, kind)), (count, 28, 28, 1))
    for i in range(0, count, CHUNK):
        x[i : i + CHUNK] = 3 + 2 * rng.standard_normal((min(CHUNK, count - i), 28, 28, 1), np.float32)
    x.flush()
    lazy = Rows(x, x.dtype).map(lambda part: part.astype(np.float32), np.float32)
    train = Split(lazy, np.zeros(count, np.int32))  # type: ignore[arg-type]
    return scaled(Dataset(train, train.take(np.arange(100)), ()), "standard")


def rates(
    data: Dataset, configs: dict[str, vae.Config], seconds: float, turns: int, stop: loop.Stop
) -> dict[str, float]:
    """Images per second of each configuration: the median over the turns."""
    running = {how: training(data, config) for how, config in configs.items()}
    found: dict[str, list[float]] = {how: [] for how in running}
    for turn in range(turns + 1):
        for how, snapshots in running.items():
            # The first turn is a short warm-up, in which dispatches still have few steps.
            rate = steps_per_second(snapshots, seconds if turn else seconds / 5, stop)
            if turn:
                found[how].append(rate * configs[how].batch_size)
    return {how: statistics.median(values) for how, values in found.items()}


def training(data: Dataset, config: vae.Config) -> Iterator[Snapshot]:
    """Endless training on one device."""
    return iterate(
        vae.build(config, data.info),
        data,
        epochs=EPOCHS,
        batch_size=config.batch_size,
        seed=config.seed,
        plan=plans.plan("auto", config.batch_size, 1, jax.devices()[:1]),
        data_limit=config.device_data_limit * 2**30,
    )


def steps_per_second(snapshots: Iterator[Snapshot], seconds: float, stop: loop.Stop) -> float:
    """Steps per second, measured over this many seconds."""
    step, done, spent = next(snapshots).step, 0, 0.0
    while spent < seconds:
        stop(None)
        now = next(snapshots)
        if now.seconds:
            done, spent = done + now.step - step, spent + now.seconds
        step = now.step
    return done / spent


def draw(rows: dict[str, dict[str, list[tuple[int, float]]]], path: Path) -> None:
    """One panel per varied size."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    if not rows:
        return
    figure, axes = plt.subplots(1, len(rows), figsize=(4 * len(rows), 3.2), squeeze=False, layout="constrained")
    for axis, (what, ways) in zip(axes[0], rows.items(), strict=True):
        for how, values in ways.items():
            axis.plot(*zip(*values, strict=True), marker="o", label=how)
        numbers = [number for number, _ in next(iter(ways.values()))]
        axis.set(xscale="log", xlabel=what, ylabel="images per second")
        axis.set_xticks(numbers, [f"{number:,}" for number in numbers], minor=False)
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
        if len(ways) > 1:
            axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
