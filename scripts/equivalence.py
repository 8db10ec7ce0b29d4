"""Compare an older revision with the working tree, run by run: python scripts/equivalence.py --revision 6189b08

Both train every experiment for 20 steps of SGD from the same seed, with every weight off its default, on one and on
eight virtual CPU devices, with one and with three seeds, with and without microbatches. Prints the largest
relative differences of the metrics (metrics.jsonl, all collections of the newest checkpoint, likelihood and codebook in
result.json) and of the gradients summed over the steps (the difference of the parameters, relative to their change in
training). Exit code 1 for a difference above 1e-5 that `changed` does not list. A larger difference of gradients that
nearly cancel is accepted if the older revision alone differs as much between this plan and one device.

The revision is checked out as a git worktree in a temporary folder. Each tree runs in its own processes, from its
command line, with `optax.sgd` in place of other optimizers: Adam divides by the size of the gradient and turns rounding
errors into full steps.
"""

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-5
COMMON = "--data {folder}/digits --epochs 4 --batch-size 32 --seed 5 --checkpoint-every 4 --figures none"
WAYS = {  # by the number of devices
    1: ("", "--seeds 3", "--accumulate 4"),
    8: ("--seeds 3", "--parallel jit", "--accumulate 4", "--reduction reproducible --seeds 3"),
}
INITIAL = "--seeds 3 --lr 0"  # flags of a run without training, which records the initial parameters
# Mutually exclusive weights are on separate lines.
CASES = """
aae --hidden 24 --latent 4 --discriminator 16 --lr 2 --adversarial-lr 0.3
beta_vae --hidden 24 --latent 4 --lr 2e-3 --kl-weight 2.5 --kl-warmup 3 --kl-cycles 2 --capacity 2
binary --hidden 24 --latent 4 --lr 2e-3 --kl-weight 0.5 --kl-warmup 3 --log-likelihood-samples 4
contractive --latent 24 --lr 1e-3 --contraction 0.3
convolutional --filters 4 3 2 --lr 3
deep --hidden 24 16 --latent 8 --lr 3
denoising --filters 4 6 8 --lr 1 --noise 0.2
denoising_conv32 --filters 4 6 --lr 1 --noise 0.3
dense --hidden 24 16 --latent 4 --lr 3
factor_vae --hidden 24 --latent 4 --discriminator 16 --lr 2e-3 --discriminator-lr 0.1 --gamma 6 --kl-weight 0.5 \
--kl-warmup 3 --kl-cycles 2 --free-bits 0.05
factor_vae --hidden 24 --latent 4 --discriminator 16 --lr 2e-3 --discriminator-lr 0.1 --gamma 6 --kl-weight 2.5 \
--kl-warmup 3 --capacity 2 --binarize dynamic
fsq --filters 4 6 --levels 5 4 3 --lr 1e-2
infovae --hidden 24 --latent 4 --lr 2e-3 --kl-weight 0.3 --mmd-weight 50 --kl-warmup 3 --kl-cycles 2 --binarize dynamic
iwae --hidden 24 --latent 4 --lr 5e-3 --samples 3
iwae --hidden 24 --latent 4 --lr 5e-3 --samples 3 --gradient dreg
iwae --hidden 24 --latent 4 --lr 5e-3 --samples 3 --kl-warmup 3 --kl-cycles 2 --binarize static
iwae --hidden 24 --latent 4 --lr 5e-3 --samples 3 --kl-warmup 3 --gradient dreg
ksparse --latent 24 --lr 1 --active 6 --alpha 2
masked --hidden 24 --latent 8 --lr 1 --patch 3 --mask-ratio 0.4
mirrored --filters 4 6 6 6 --lr 3 --dropout 0.3
mirrored --filters 4 6 6 6 --lr 3 --dropout 0.3 --batch-norm
planar --hidden 24 16 8 --lr 10
sequence --hidden 12 --latent 8 --lr 1
sequence --hidden 12 --latent 8 --lr 3 --data {folder}/sequences.npz
sigmoid --hidden 24 --latent 8 --lr 10
simple --hidden 24 --latent 8 --lr 1
sparse --hidden 24 --latent 8 --lr 1 --sparsity 0.01
stacked --hidden 24 16 --latent 8 --lr 1 --greedy 1
strided --filters 4 6 6 6 --lr 1
tcvae --hidden 24 --latent 4 --lr 2e-3 --beta 4 --kl-warmup 3 --kl-cycles 2 --binarize dynamic
tied --latent 8 --lr 1
vae --hidden 24 --latent 4 --lr 2e-3 --kl-weight 0.5 --binarize static
vae --hidden 24 --latent 4 --lr 2e-3 --kl-weight 2.5 --kl-warmup 3
vae --hidden 24 --latent 4 --lr 2e-3 --kl-weight 2.5 --kl-warmup 3 --kl-cycles 2 --free-bits 0.05
vae --hidden 24 --latent 4 --lr 2e-3 --kl-weight 2.5 --kl-warmup 3 --capacity 2 --binarize dynamic
vampprior --hidden 24 --latent 4 --lr 2e-3 --components 6 --kl-warmup 3 --kl-cycles 2 --log-likelihood-samples 4
vqvae --filters 4 6 --latent 3 --codes 12 --lr 1e-3 --commitment 0.6 --decay 0.8 --reinit-below 0.5
vqvae --filters 4 6 --latent 3 --codes 12 --lr 1e-3 --commitment 0.6 --decay 0.8 --reinit-below 0.5 --codebook gradient
vqvae --filters 4 6 --latent 3 --codes 12 --lr 1e-3 --commitment 0.6 --reinit-below 0 --codebook gradient
wae --hidden 24 --latent 4 --lr 3e-3 --mmd-weight 3
"""
# Flag names of revision 6189b08; --kl-weight of infovae is unchanged.
RENAMED = {"--kl-warmup": "--warmup", "--kl-cycles": "--cycles", "--kl-weight": "--beta", "--figures none": ""}
RENAMED |= {"--log-likelihood-samples": "--likelihood", "--reinit-below": "--revive"}
Arrays = dict[str, np.ndarray]


def changed(name: str, flags: str) -> tuple[str, ...] | None:
    """Metrics with an intended difference; None: all differ."""
    if name == "iwae" and "--kl-warmup" in flags:
        # The metric elbo now has KL weight 1. The doubly reparameterized gradient was correct for this weight only.
        return None if "dreg" in flags else ("train elbo",)
    return ()


class Run(NamedTuple):
    """A run of either tree."""

    name: str  # of the experiment
    flags: str
    devices: int
    way: str

    def workdir(self, folder: Path) -> Path:
        return folder / re.sub(r"[^a-z0-9.]+", "-", " ".join(map(str, self)))

    def task(self, folder: Path, old: bool) -> dict[str, Any]:
        """The task of this run for `drive`."""
        flags = f"{COMMON} {self.flags} {self.way} --workdir {self.workdir(folder)}"
        if self.way == INITIAL:
            flags = re.sub(r"lr \S+", "lr 0", flags)
        for flag, before in RENAMED.items() if old else ():
            flags = flags if (self.name, flag) == ("infovae", "--kl-weight") else flags.replace(flag, before)
        seeds = 3 if "--seeds 3" in flags else 1
        return {
            "argv": flags.format(folder=folder.parent).split(),
            "workdir": str(self.workdir(folder)),
            "seeds": seeds,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="EXPERIMENT", help="default: all")
    parser.add_argument("--revision", required=True, help="the older revision")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        worktree = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*worktree, "add", "--quiet", "--detach", str(tree), options.revision], check=True)
        try:
            unequal = compare(tree, options.names, Path(folder))
        finally:
            subprocess.run([*worktree, "remove", "--force", str(tree)], check=True)
    sys.exit(unequal > 0)


def compare(tree: Path, names: list[str], folder: Path) -> int:
    """Print the table, and return the number of rows that are not equal."""
    write_data(folder)
    new, old = folder / "new", folder / "old"
    cases = [line.split(" ", 1) for line in CASES.strip().splitlines()]
    largest, unequal = (0.0, 0.0), 0
    print("| experiment | flags | devices | mode | metrics | gradients | |\n|---|---|---|---|---|---|---|", flush=True)
    for name in names or dict.fromkeys(name for name, _ in cases):
        for devices, ways in WAYS.items():
            own = [flags for other, flags in cases if other == name]
            runs = [Run(name, flags, devices, way) for flags in own for way in ways]
            starts = [Run(name, flags, 1, INITIAL) for flags in own if devices == 1]
            processes = [start(ROOT, new, [*starts, *runs]), start(tree, old, runs)]
            for process in processes:
                process.wait()
            for run in runs:
                numbers, remark = row(run, new, old)
                unequal += remark.startswith(("ABOVE", "FAILED"))
                if numbers and not remark:
                    largest = (max(largest[0], numbers[0]), max(largest[1], numbers[1]))
                figures = " | ".join(f"{number:.1e}" for number in numbers or ()) or "- | -"
                print(f"| {name} | {run.flags} | {devices} | {run.way or 'auto'} | {figures} | {remark} |", flush=True)
    print(f"\nlargest: metrics {largest[0]:.1e}, gradients {largest[1]:.1e}; rows that are not equal: {unequal}")
    return unequal


def row(run: Run, new: Path, old: Path) -> tuple[tuple[float, float] | None, str]:
    """The largest relative differences of metrics and of gradients, and a remark if they are not small."""
    codes = [file.read_text() if (file := run.workdir(folder) / "code").exists() else "" for folder in (new, old)]
    if codes == ["2", "2"] and re.search("accumulate|reproducible", run.way):
        return None, "an error in both"  # the loss needs the global batch
    if codes != ["0", "0"]:
        return None, f"FAILED: exit codes {codes}"
    found, before = (results(run.workdir(folder)) for folder in (new, old))
    initial = results(run._replace(devices=1, way=INITIAL).workdir(new))
    ignored = changed(run.name, run.flags)
    for name in ignored or ():
        del found[name], before[name]
    if odd := found.keys() ^ before.keys():
        return None, f"FAILED: {sorted(odd)} only in one"
    params = [name for name in found if name.startswith("params ")]
    if all(np.array_equal(before[name], initial[name]) for name in params):
        return None, "FAILED: nothing was trained"
    metrics = largest_difference(found, before, [name for name in found if name not in params], {})
    gradients = largest_difference(found, before, params, initial)
    above = ", ".join(name for number, name in (metrics, gradients) if not number <= TOLERANCE)
    if above and ignored is not None:
        one = results(run._replace(devices=1, way="--seeds 3" if "--seeds" in run.way else "").workdir(old))
        rounding = max(largest_difference(before, one, params, initial)[0], TOLERANCE)
        above = "" if metrics[0] <= TOLERANCE and gradients[0] <= rounding else above
    remark = "changed on purpose" if ignored is None else f"ABOVE: {above}" if above else ""
    return (metrics[0], gradients[0]), remark


def largest_difference(new: Arrays, old: Arrays, names: list[str], initial: Arrays) -> tuple[float, str]:
    """The largest |new - old| / |old - initial| over these arrays, in the Euclidean norm, and the name of its array."""

    def relative(name: str) -> float:
        apart = np.linalg.norm(np.ravel(new[name] - old[name]))
        return float(apart / np.linalg.norm(np.ravel(old[name] - initial.get(name, 0.0)))) if apart else 0.0

    return max((relative(name), name) for name in names)


def results(workdir: Path) -> Arrays:
    """Metrics over all epochs, likelihood and codebook, and the parameters and collections of the newest checkpoint."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((workdir / "result.json").read_text())
    lines += [{"split": name, **result[name]} for name in ("likelihood", "codebook") if name in result]
    found: dict[str, list[Any]] = {}
    for line in lines:
        split = line.pop("split")
        for name, value in line.items():
            # With several seeds a value is a record, or a list beside NAME_mean and NAME_std.
            if not isinstance(line.get(re.sub("_(mean|std)$", "", name)), list) or isinstance(value, list):
                found.setdefault(f"{split} {name}", []).append(value["seeds"] if isinstance(value, dict) else value)
    with np.load(workdir / "arrays.npz", allow_pickle=False) as arrays:
        return {name: np.array(values, np.float64) for name, values in {**found, **arrays}.items()}


def write_data(folder: Path) -> None:
    """160 digits for training and 75 for the test, as four IDX files, and 177 sequences of 2 to 12 steps."""
    from jaxae import data

    digits = data.load("digits")
    (folder / "digits").mkdir()
    for name, split, count in (("train", digits.train, 160), ("t10k", digits.test, 75)):
        for kind, array in (("images-idx3", split.x[:count, ..., 0]), ("labels-idx1", split.y[:count])):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (folder / "digits" / f"{name}-{kind}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 13, 177)
    np.savez(folder / "sequences.npz", x=rng.uniform(size=(lengths.sum(), 3)), lengths=lengths)


def start(tree: Path, folder: Path, runs: list[Run]) -> "subprocess.Popen[bytes]":
    """Start a process that trains these runs, of one experiment and one number of devices, from this source tree."""
    folder.mkdir(exist_ok=True)
    (folder / "tasks.json").write_text(json.dumps([run.task(folder, old=tree != ROOT) for run in runs]))
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(runs[-1].devices),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",  # compile faster
    }
    program = f"import sys; sys.path.append({str(Path(__file__).parent)!r}); import equivalence; equivalence.drive()"
    command = [sys.executable, "-c", program, f"experiments.{runs[0].name}", str(folder / "tasks.json")]
    return subprocess.Popen(command, cwd=tree, env=environment, stdout=subprocess.DEVNULL)


def drive() -> None:
    """Train the tasks of `start` in its process, and write exit codes and arrays into the run directories."""
    import jax
    import optax

    import jaxae
    from jaxae import run

    for optimizer in ("adam", "adadelta", "rmsprop"):
        setattr(optax, optimizer, lambda rate, *_, **__: optax.sgd(rate))
    module = importlib.import_module(sys.argv[1])
    if not Path(str(module.__file__)).is_relative_to(Path.cwd()):
        raise ImportError(f"{module.__file__} is not in {Path.cwd()}")
    if not hasattr(module.Config, "figures"):  # the older revision has no --figures none
        figures, report, log = (importlib.import_module(f"jaxae.{name}") for name in ("figures", "report", "log"))
        figures.draw = figures.strip = figures.codes_of = report.write = lambda *_: [None]
        log.TensorBoard.picture = log.TensorBoard.histogram = lambda *_: None
    for task in json.loads(Path(sys.argv[2]).read_text()):
        workdir, code = Path(task["workdir"]), 1
        try:
            run.main(module.Config, module.build, task["argv"])
        except SystemExit as end:
            code = end.code
        except Exception:
            traceback.print_exc()
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "code").write_text(str(code))
        if code == 0:
            seeds = range(task["seeds"])
            old = not hasattr(jaxae, "fit")
            models = [jaxae.load(workdir, seed=i) if old else jaxae.load(workdir)[i] for i in seeds]
            arrays = {
                f"{kind} {seed}{jax.tree_util.keystr(path)}": leaf
                for seed, model in enumerate(models)
                for kind in ("params", "extra")
                for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(model, kind))
            }
            np.savez(workdir / "arrays.npz", **arrays)


if __name__ == "__main__":
    main()
