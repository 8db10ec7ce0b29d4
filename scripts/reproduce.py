"""Runs the experiments by the commands of their docstrings, and writes the table of what they reach.

python scripts/reproduce.py                        all of them, on MNIST as TFDS has it
python scripts/reproduce.py dense sparse           some of them
python scripts/reproduce.py --data-dir DIR --manual-dir DIR --workdir runs/reproduce

Repeating the command goes on where it was stopped: each run is continued in its directory, a finished one is only read.
When all experiments are finished in the workdir, the table is experiments/README.md, with its pictures beside it;
before that it is README.md in the workdir.
"""

import argparse
import importlib
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from jaxae import experiments
from jaxae.report import html
from jaxae.training import records

ROOT = Path(__file__).parents[1]

NAMES = experiments.names()
WIDTH = 640  # pixels
HEAD = """# What the experiments reach

On the full MNIST (60,000 images to train, 10,000 to test), or on as many sprites, whose factors are known, by

    python scripts/reproduce.py

which runs each experiment by the command of its docstring. Expected is the figure of the source, or the one set for
this project, at most (or within a range); measured is the mean and the standard deviation over seeds that were
trained in one program. `loss` is the objective: nats or squared error per pixel, nats per image where a model is
variational, quantized or contractive; `code` is the mean size |z| of a unit of the code; `mse`, `shift_mse` (the
least over shifts by up to two pixels) and `ssim` compare the test images with their reconstructions, of the first
seed. Time is that of training, all seeds together, on {device}. Documents 000 to 004 are the five texts whose systems
are built here.

| experiment | source | expected | measured | seeds | likeness | time | picture |
|---|---|---|---|---|---|---|---|
"""
PLANES = """
## The defects of a plane

What is wrong with the plane of a code of two numbers, in numbers (less is better, the ideal stands in the head):
`unequal_areas`, deviation over the classes of the logarithm of their area; `asymmetry` about the origin; `holes`, share
of draws from the codes' normal distribution that have no code nearby; `roughness`, squared slope over variance of what
is decoded. The formulas are in `jaxae/measure/plane.py`.

| experiment | unequal areas (0) | asymmetry (0) | holes (0.01) | roughness (1) |
|---|---|---|---|---|
"""
# Tables of what stands in result.json beside the metrics: their keys, and what is said of them.
TABLES = {
    "likelihood": (
        ("log_likelihood", "monte_carlo_error", "ess", "active_units", "rate", "distortion", "bits_per_dim"),
        """
## Likelihoods

Estimates on the test split by importance sampling (`--log-likelihood-samples K`; `jaxae/measure/likelihood.py`), in
nats per image: the log-likelihood and its Monte Carlo error, the effective sample size of the K samples, active latent
dimensions, rate and distortion (their sum is minus the evidence lower bound), and bits per dimension.
""",
    ),
    "codebook": (
        ("perplexity", "usage"),
        """
## Codebooks

On the test split: exp of the entropy of the codes' use, and the share of codes that are used at all.
""",
    ),
    "disentanglement": (
        ("mig", "sap", "dci_disentanglement", "dci_completeness", "dci_informativeness", "factor_vae_score"),
        """
## Factors of variation

How the units of codes follow the known factors of sprites (`jaxae/measure/disentanglement.py`; 1 is best, a code of
zeros has 0, and for the FactorVAE score about 0.2). Published figures are of dSprites, which differs: see the sources
above.
""",
    ),
}
STACKED = """
## Layer by layer, or end to end

The same network ({widths}), test loss, nats per pixel; the first two are `stacked`, the last is `deep`.

| greedy, {greedy} epochs a layer | then fine-tuned, {epochs} epochs in all | end to end, {deep_epochs} epochs |
|---|---|---|
| {before} | {after} | {deep} |
"""


def command(name: str) -> list[str]:
    """The arguments in an experiment's docstring."""
    text = importlib.import_module(f"jaxae.experiments.{name}").__doc__ or ""
    found = re.search(rf"^Command: jaxae {name} (.*)$", text, re.MULTILINE)
    if found is None:
        raise ValueError(f"experiments/{name}.py: its docstring has no line 'Command: jaxae {name} ...'")
    return shlex.split(found[1])


def row(name: str, run: Path, pictures: Path) -> str:
    """The line of the table for a finished run; its pictures are written too."""
    result, config = read(run, "result.json"), read(run, "config.json")["config"]
    text = importlib.import_module(f"jaxae.experiments.{name}").__doc__ or ""
    title = " ".join(text.split("\n\n")[0].split()).rstrip(".")
    source = " ".join(text.split("Source: ")[1].split("\nCommand:")[0].split())
    metrics = [key for key in ("loss", "code") if key in result["expected"] or key == "loss"]
    reached = {True: " (reached)", False: " (**not reached**)", None: ""}[result["reached"]]
    expected = "; ".join(f"{key} {html.bound(value)}" for key, value in result["expected"].items()) or "no figure"
    measured = "; ".join(f"{key} {html.figure(result['metrics'][key])}" for key in metrics)
    likeness = "; ".join(f"{key} {value:.3g}" for key, value in result.get("likeness", {}).items()) or "-"
    special = next(kind for kind, suits in _special(run, result, config) if suits)
    images = []
    for kind in dict.fromkeys((special, "reconstructions")):
        file = f"{name}.png" if kind == special else f"{name}-{kind}.png"
        _shrink(run / "figures" / f"{kind}.png", pictures / file)
        images.append(f"[![{kind} of {name}]({file})]({file})")
    cells = (
        f"[`{name}`]({name}.py): {title}; {config['epochs']} epochs",
        source,
        expected,
        measured + reached,
        str(config["seeds"]),
        likeness,
        _time(result["wall_seconds"]),
        " ".join(images),
    )
    return f"| {' | '.join(cells)} |\n"


def _special(run: Path, result: dict[str, Any], config: dict[str, Any]) -> list[tuple[str, bool]]:
    """Which picture shows best what the experiment is about: the first that suits."""
    exist = {path.stem for path in (run / "figures").glob("*.png")}
    return [
        ("manifold", "manifold" in exist),
        ("traversal", config["data"].startswith("sprites")),
        ("samples", "samples" in exist),
        ("training", config["picture_every"] > 0),
        ("latent", "plane" in result),
        ("reconstructions", "noise" in config),
        ("codes", "codes" in exist),
        ("reconstructions", True),
    ]


def table(workdir: Path, names: list[str], pictures: Path) -> str:
    """The page, of these finished runs."""
    devices = {_device(workdir / name) for name in names}
    text = HEAD.format(device=" and ".join(sorted(devices))) + "".join(row(n, workdir / n, pictures) for n in names)
    planes = {name: plane for name in names if (plane := read(workdir / name, "result.json").get("plane"))}
    if planes:
        rows = (f"| `{name}` | {' | '.join(f'{v:.3g}' for v in plane.values())} |\n" for name, plane in planes.items())
        text += PLANES + "".join(rows)
    if {"mirrored", "vae"} <= planes.keys():
        worse = [key for key, value in planes["vae"].items() if value >= planes["mirrored"][key]]
        text += f"\n`vae` scores better than `mirrored` on {'each' if not worse else 'each but ' + ', '.join(worse)}.\n"
    for key, (columns, said) in TABLES.items():
        results = {name: found for name in names if (found := read(workdir / name, "result.json").get(key))}
        if results:
            text += f"{said}\n| experiment | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|\n"
            for name, found in results.items():
                text += f"| `{name}` | {' | '.join(html.figure(found[column]) for column in columns)} |\n"
    if {"stacked", "deep"} <= set(names):
        text += _stacked(workdir / "stacked", workdir / "deep")
    return text


def _stacked(run: Path, deep: Path) -> str:
    config, last = (read(path, "config.json")["config"] for path in (run, deep))
    widths = (*config["hidden"], config["latent"])
    tests = {line["epoch"]: line for line in records.read(run / "metrics.jsonl") if line["split"] == "test"}
    return STACKED.format(
        widths="-".join(map(str, (*widths, *widths[-2::-1]))),
        greedy=config["greedy"],
        epochs=config["epochs"],
        deep_epochs=last["epochs"],
        before=html.figure(tests[config["greedy"] * len(widths)]["loss"]),
        after=html.figure(tests[config["epochs"]]["loss"]),
        deep=html.figure(read(deep, "result.json")["metrics"]["loss"]),
    )


def read(run: Path, file: str) -> dict[str, Any]:
    """A JSON file of a run."""
    found: dict[str, Any] = json.loads((run / file).read_text())
    return found


def call(arguments: list[str]) -> int:
    """Run Python; its exit code. Signals are for it: it saves, and says so."""
    with subprocess.Popen([sys.executable, *arguments], cwd=ROOT) as child:
        signal.signal(signal.SIGINT, lambda *_: None)  # a terminal sends it to the child too
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        return child.wait()


def main(call: Callable[[list[str]], int] = call) -> None:
    """Run, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"experiments (default: all): {', '.join(NAMES)}")
    parser.add_argument("--workdir", type=Path, default=ROOT / "runs" / "reproduce", help="holds a directory per run")
    parser.add_argument("--data-dir", type=Path, help="folder of prepared TFDS sets")
    parser.add_argument("--manual-dir", type=Path, help="folder of archives already downloaded")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no experiments named {', '.join(sorted(unknown))}: there are {', '.join(NAMES)}")
    workdir = options.workdir.absolute()
    folders = {"--data-dir": options.data_dir, "--manual-dir": options.manual_dir}
    where = [f"{flag}={folder.absolute()}" for flag, folder in folders.items() if folder]
    failed = 0
    for name in options.names or NAMES:
        arguments = ["-m", "jaxae", name, *command(name), f"--workdir={workdir / name}", *where]
        print(*arguments, flush=True)
        code = call(arguments)
        if code > 128 or code < 0:
            sys.exit(code)
        failed = failed or code
    finished = [name for name in NAMES if (workdir / name / "report.html").exists()]
    page = (ROOT / "experiments" if finished == NAMES else workdir) / "README.md"
    if finished:
        page.write_text(table(workdir, finished, page.parent))
        print(f"table: {page}")
    sys.exit(failed)


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 300 else f"{seconds / 60:.0f} min"


def _device(run: Path) -> str:
    device = read(run, "config.json")["device"]
    return f"{device['cores']} CPU cores" if device["platform"] == "cpu" else f"{device['count']} x {device['kind']}"


def _shrink(picture: Path, to: Path) -> None:
    with Image.open(picture) as image:
        image.thumbnail((WIDTH, WIDTH))
        image.convert("RGB").quantize(64).save(to, optimize=True)


if __name__ == "__main__":
    main()
