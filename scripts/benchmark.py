"""Benchmark jaxae against other libraries on the same networks and data: python scripts/benchmark.py --data mnist

Each contender runs in its own process; the processes take turns (A B A B ...), so that other load on the machine
affects all of them alike. For jaxae, the compiled program that its experiments train with is timed. The table has:

- milliseconds per step (median over the turns) and images per second
- the time of a contender divided by that of jaxae: median, minimum and maximum of the ratios within each turn
- the peak memory, including the images (45 MiB as uint8, 180 MiB as float32)
- the seconds from the start of the process to its first step
- the fraction of the machine's peak rate: the minimum time of a step divided by the measured one. The minimum is the
  larger of its floating-point operations at the rate of a large matrix product and its bytes at the bandwidth of a
  long array, both measured in the same turn. Operations are counted from the definition of the network.

With --whole it measures instead the time of `jaxae vae --epochs 10` from the start of its process to its end, pictures
included, and that of training the same network in PyTorch; and the time from the start of the process to the first
step, with an empty and with a filled compilation cache.

A contender that is not installed is skipped with a message: pip install -e '.[bench]' installs all of them.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from contenders.workloads import SMALL, WORKLOADS, Workload

from jaxae import run
from jaxae.errors import InputError

FOLDER = Path(__file__).parent / "contenders"
OURS = "jaxae"
# name: script, package, further arguments
CONTENDERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    OURS: ("ours", "jax", {}),
    "PyTorch": ("pytorch", "torch", {"compile": False}),
    "torch.compile": ("pytorch", "torch", {"compile": True}),
    "pythae": ("with_pythae", "pythae", {}),
    "Keras on JAX": ("keras_jax", "keras", {}),
    "plain Flax loop": ("plain_flax", "flax", {}),
}
MIXED = (OURS, "PyTorch", "torch.compile")  # contenders that support bfloat16
COLOUR = ("resnet_vae", "kl_autoencoder")  # networks for colour images; only some contenders have them
LARGE = 4096  # number of images in workloads with enlarged images


class Contender:
    """A running process that trains on request."""

    def __init__(self, script: str, work: dict[str, Any]) -> None:
        began = time.monotonic()
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        command = [sys.executable, str(FOLDER / f"{script}.py"), json.dumps(work)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=on(work["device"]),
        )
        self.read()
        self.first = time.monotonic() - began  # seconds to the first step

    def read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            self.errors.seek(0)
            sys.stderr.write(self.errors.read())
            raise InputError("the process failed, with the error above")
        result: dict[str, Any] = json.loads(line)
        return result

    def turn(self, count: int) -> dict[str, Any]:
        """Train this many steps; return seconds, loss and memory."""
        self.process.stdin.write(f"{count}\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        return self.read()

    def end(self) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()


def measure(
    name: str, work: Workload, precision: str, options: argparse.Namespace, images: Path
) -> list[dict[str, Any]]:
    """A row for each contender."""
    flags = [*work.flags, "--batch-size", str(work.batch), "--seeds", str(work.seeds), "--precision", precision]
    if work.shape != (28, 28, 1):
        path = images.with_name(f"{work.net}.npy")
        np.save(path, enlarged(np.load(images, mmap_mode="r")[:LARGE], work.shape))
        images = path
    task = {"images": str(images), "device": options.device, "precision": precision, "flags": flags}
    task |= {field: getattr(work, field) for field in ("net", "experiment", "batch", "lr", "hidden", "latent", "shape")}
    running = {"limit": Contender("limit", task)}
    try:
        for contender in options.contenders:
            script, _, more = CONTENDERS[contender]
            if (contender == "pythae" and work.net != "vae") or (precision == "mixed" and contender not in MIXED):
                continue
            if work.net in COLOUR:
                if contender not in MIXED:
                    continue
                script = script.replace("pytorch", "pytorch_colour")
            try:
                running[contender] = Contender(script, task | more)
            except InputError as error:
                print(f"{name}: {contender} is skipped: {error}", file=sys.stderr)
                continue
            print(f"{name}: {contender}, first step after {running[contender].first:.1f} s", file=sys.stderr)
        counts = {}
        for contender, process in running.items():
            if contender != "limit":
                process.turn(10)
                counts[contender] = max(3, round(10 * options.seconds / process.turn(10)["seconds"]))
        turns: list[dict[str, Any]] = []
        for _ in range(options.turns):
            rates = [running["limit"].turn(count)["loss"] for count in (1, 2)]
            turn: dict[str, Any] = {"limit": 1e3 * max(work.operations / rates[0], work.moved / rates[1])}
            for contender, count in counts.items():
                running[contender].turn(max(3, count // 5))  # warm up after the idle time
                reply = running[contender].turn(count)
                once = 1 if contender == OURS else work.seeds  # the others train their seeds sequentially
                turn[contender] = reply | {"ms": 1e3 * once * reply["seconds"] / count}
            turns.append(turn)
    finally:
        for process in running.values():
            process.end()
    return [row(name, work, contender, running[contender].first, turns) for contender in counts]


def enlarged(images: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Images [N, 784] with pixels and channels repeated to this shape, [N, H * W * C]."""
    rows, columns = (np.arange(size) * 28 // size for size in shape[:2])
    x = images.reshape(-1, 28, 28)[:, rows][:, :, columns]
    return np.repeat(x[..., None], shape[2], axis=-1).reshape(len(x), -1)


def row(name: str, work: Workload, contender: str, first: float, turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarize the turns of a contender."""
    ms = statistics.median(turn[contender]["ms"] for turn in turns)
    ratios = [turn[contender]["ms"] / turn[OURS]["ms"] for turn in turns] if OURS in turns[0] else []
    return {
        "workload": name,
        "contender": contender,
        "ms": ms,
        "images_per_second": 1e3 * work.batch * work.seeds / ms,
        "ratio": [f(ratios) for f in (statistics.median, min, max)] if ratios else None,
        "limit": statistics.median(turn["limit"] / turn[contender]["ms"] for turn in turns),
        "memory": max(turn[contender]["memory"] for turn in turns),
        "first": first,
        "loss": turns[-1][contender]["loss"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| workload | | ms per step | images per second | time / jaxae | of peak rate | memory | first step |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        ratio = "{:.2f} ({:.2f} to {:.2f})".format(*r["ratio"]) if r["ratio"] else ""
        ratio = "1" if r["contender"] == OURS else ratio
        lines.append(
            f"| {r['workload']} | {r['contender']} | {r['ms']:.3g} | {r['images_per_second']:,.0f} | {ratio} "
            f"| {r['limit']:.0%} | {r['memory'] / 2**20:,.0f} MiB | {r['first']:.1f} s |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="data set, as for the experiments (default: %(default)s)")
    parser.add_argument("--data-dir", default="")
    parser.add_argument("--manual-dir", default="")
    names = {**WORKLOADS, **SMALL}
    parser.add_argument("--workloads", nargs="+", choices=names, help="default: all; on a CPU without batch size 8")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    kinds = ("float32", "mixed")
    parser.add_argument("--precision", nargs="+", choices=kinds, help="default: float32, on a GPU also mixed")
    parser.add_argument("--turns", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=1.0, help="duration of a turn (default: %(default)s)")
    parser.add_argument("--whole", action="store_true", help="time a complete experiment, as described above")
    parser.add_argument(
        "--json",
        type=Path,
        default=Path("runs/benchmark.json"),
        help="file of the results; the table is written beside it as .md (default: %(default)s)",
    )
    options = parser.parse_args()
    try:
        print(whole(options) if options.whole else benchmark(options, names))
    except InputError as error:
        parser.exit(2, f"error: {error}\n")


def benchmark(options: argparse.Namespace, names: dict[str, Workload]) -> str:
    """Run all workloads, and return the table."""
    wanted = [name for name in CONTENDERS if name in options.contenders]
    for name in list(wanted):
        if importlib.util.find_spec(CONTENDERS[name][1]) is None:
            print(f"{name} is not installed and is skipped: pip install -e '.[bench]'", file=sys.stderr)
            wanted.remove(name)
    options.contenders = wanted
    images = training_images(options)
    if images.shape[1:] != (28, 28, 1):
        raise InputError(f"--data {options.data} has examples of shape {images.shape[1:]}; use grey images of 28x28")
    chosen = options.workloads or (names if options.device == "gpu" else WORKLOADS)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, images.reshape(len(images), -1))
        for precision in options.precision or (("float32", "mixed") if options.device == "gpu" else ("float32",)):
            for name in chosen:
                if precision == "mixed" and names[name].net == "sequence":
                    continue  # the LSTMs of jaxae stay in float32
                label = name if precision == "float32" else f"{name}, bfloat16"
                rows += measure(label, names[name], precision, options, path)
                text = written({"rows": rows}, options)
    return text


def training_images(options: argparse.Namespace) -> np.ndarray:
    """The training images of the data set in the options."""
    return run.loaded(run.Config(data=options.data, data_dir=options.data_dir, manual_dir=options.manual_dir)).train.x


def written(result: dict[str, Any], options: argparse.Namespace) -> str:
    """Write the result to the files, and return it as text."""
    packages = ("jax", "flax", "torch", "keras", "pythae")
    versions = {name: importlib.metadata.version(name) for name in packages if importlib.util.find_spec(name)}
    machine = {"device": device(options.device), "cores": os.cpu_count(), "versions": versions}
    heading = f"{machine['device']}, {machine['cores']} cores; {', '.join(map(' '.join, versions.items()))}"
    body = table(result["rows"]) if "rows" in result else "\n".join(f"{name}: {v}" for name, v in result.items())
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"machine": machine} | result, indent=1) + "\n")
    options.json.with_suffix(".md").write_text(f"{heading}\n\n{body}\n")
    return f"{heading}\n\n{body}"


def whole(options: argparse.Namespace) -> str:
    """Time a complete experiment and its start; return the seconds, one line each."""
    task = {"device": options.device, "precision": "float32", "compile": False, "optimizer": "rmsprop"}
    task |= {"net": "vae", "batch": 100, "lr": 1e-3, "hidden": 256, "latent": 2}
    images = training_images(options)
    where = ["--data", options.data, "--data-dir", options.data_dir, "--manual-dir", options.manual_dir]
    torch = importlib.util.find_spec("torch") is not None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = on(options.device) | {"XDG_CACHE_HOME": name, "JAXAE_CACHE": ""}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        np.save(folder / "images.npy", images.reshape(len(images), -1))

        def seconds(*command: str) -> float:
            began = time.monotonic()
            done = subprocess.run(
                [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise InputError(f"{' '.join(command)}: {done.stderr.splitlines()[-1]}")
            return time.monotonic() - began

        first = [str(FOLDER / "first.py"), "vae", *where]
        seconds(*first)  # also decodes the data into the cache
        for compiled in folder.glob("jaxae/compiled"):
            shutil.rmtree(compiled)
        cold, warm = seconds(*first), [seconds(*first) for _ in range(options.turns)]
        ours, theirs = [], []
        for turn in range(options.turns):
            workdir = str(folder / f"run{turn}")
            ours.append(seconds("-m", "jaxae", "vae", "--epochs", "10", *where, "--workdir", workdir))
            if torch:
                contender = Contender("pytorch", task | {"images": str(folder / "images.npy")})
                theirs.append(contender.turn(10 * len(images) // 100)["seconds"])
                contender.end()
        result = json.loads((folder / "run0" / "result.json").read_text())
    found = {
        "start to first step, seconds": round(cold, 1),
        "with all compiled before": round(statistics.median(warm), 1),
        "ten epochs from start to last picture, seconds": round(statistics.median(ours), 1),
        "with nothing but the steps compiled before": round(ours[0], 1),
        "memory, GiB": round(result["peak_memory_bytes"] / 2**30, 2),
    }
    if torch:
        found["training alone in PyTorch, seconds"] = round(statistics.median(theirs), 1)
    return written(found, options)


def on(kind: str) -> dict[str, str]:
    """Environment of a process that uses this kind of device, without reserving all of its memory."""
    platform = "cpu" if kind == "cpu" else "cuda"
    return os.environ | {"JAX_PLATFORMS": platform, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def device(kind: str) -> str:
    """Name of the processor or the accelerator."""
    if kind == "gpu":
        command = [sys.executable, "-c", "import jax; print(jax.devices()[0].device_kind)"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[-2]
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")


if __name__ == "__main__":
    main()
