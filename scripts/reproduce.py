"""Runs the experiments by the commands of their docstrings, and records their figures.

python scripts/reproduce.py                        all of them, on MNIST as TFDS has it
python scripts/reproduce.py dense sparse           some of them
python scripts/reproduce.py --data-dir DIR --manual-dir DIR --workdir runs/reproduce

Repeating the command resumes: each run is continued in its directory, a finished one is only read. Every run that is
finished in the workdir becomes an entry of results.json in the folder --out (experiments/); the entries of the other
experiments stay. README.md, the tables of all entries, and the pictures are written beside it.
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
from jaxae.experiments import stacked
from jaxae.report import html
from jaxae.run import command_line
from jaxae.training import records

ROOT = Path(__file__).parents[1]

NAMES = experiments.names()
WIDTH = 640  # pixels
HEAD = """# Experiments

Each is one file: a docstring with source, command and measured figure, a `Config` and a `build`. A new one is a file
here (the top-level README shows one in full); an entry in results.json is optional.

## What the experiments reach

The tables show [results.json](results.json), the results of

    python scripts/reproduce.py

which runs each experiment by the command in its docstring, on the full MNIST (60,000 training and 10,000 test images),
on as many sprites with known factors, or on the data set that the command names. Expected is an upper bound or a range,
from the source or set for this project; measured is the mean and standard deviation over seeds trained in one program.
`loss` is the objective: nats or squared error per pixel, nats per image for variational, quantized and contractive
models; `code` is the mean |z| over latent dimensions; `mse`, `shift_mse` (the minimum over shifts by up to two pixels)
and `ssim` compare the test images with their reconstructions by the first seed. Time is the training time of all seeds
together, on {device}.

| experiment | source | expected | measured | seeds | reconstruction quality | time | picture |
|---|---|---|---|---|---|---|---|
"""
PLANES = """
## Defects of a 2-D latent space

Less is better; the table head has the ideal values. `unequal_areas` is the standard deviation of log area over classes;
`asymmetry` is about the origin; `holes` is the fraction of samples from a normal distribution fitted to the codes with
no code nearby; `roughness` is squared slope over variance of decoded images. The formulas are in
`jaxae/measure/plane.py`.

| experiment | unequal areas (0) | asymmetry (0) | holes (0.01) | roughness (1) |
|---|---|---|---|---|
"""
# Tables of the measures beside the metrics: their columns and their text.
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

On the test split: perplexity, exp of the entropy of code usage, and the fraction of codes in use.
""",
    ),
    "disentanglement": (
        ("mig", "sap", "dci_disentanglement", "dci_completeness", "dci_informativeness", "factor_vae_score"),
        """
## Factors of variation

Disentanglement scores on the known factors of sprites (`jaxae/measure/disentanglement.py`; 1 is best; constant codes
score 0, and 0.2 in the FactorVAE score). Published figures are for dSprites, which differs: see the sources above.
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


def entry(name: str, run: Path) -> dict[str, Any]:
    """What results.json holds of a finished run."""
    result, saved = read(run, "result.json"), read(run, "config.json")
    config = saved["config"]
    found = {
        "command": shlex.join(["jaxae", name, *command(name)]),
        **{field: config[field] for field in ("data", "epochs", "seeds")},
        "device": _device(saved["device"]),
        "time": _time(result["wall_seconds"]),
        **{key: result[key] for key in ("expected", "reached", "metrics")},
        **{key: result[key] for key in ("reconstruction_quality", "plane", *TABLES) if key in result},
        "pictures": list(dict.fromkeys((special(run, result, config), "reconstructions"))),
    }
    if name == "stacked":  # the test loss before fine-tuning
        layers = len(config["hidden"]) + 1
        lines = records.read(run / "metrics.jsonl")
        tests = {line["epoch"]: line for line in lines if line["split"] == "test"}
        found["greedy"] = tests[config["greedy"] * layers]["loss"]
    return {key: _averages(value) for key, value in found.items()}


def _averages(value: Any) -> Any:
    """A value of a result without the figures of single seeds."""
    if not isinstance(value, dict):
        return value
    return {key: _averages(part) for key, part in value.items() if key != "seeds"}


def files(name: str, pictures: list[str]) -> dict[str, str]:
    """The files of an experiment's pictures: kind -> name."""
    return {kind: f"{name}-{kind}.png" if i else f"{name}.png" for i, kind in enumerate(pictures)}


def row(name: str, found: dict[str, Any]) -> str:
    """The line of the table for an entry."""
    text = importlib.import_module(f"jaxae.experiments.{name}").__doc__ or ""
    title = " ".join(text.split("\n\n")[0].split()).rstrip(".")
    source = " ".join(text.split("Source: ")[1].split("\nCommand:")[0].split())
    metrics = [key for key in ("loss", "code") if key in found["expected"] or key == "loss"]
    reached = {True: " (reached)", False: " (**not reached**)", None: ""}[found["reached"]]
    expected = "; ".join(f"{key} {html.bound(value)}" for key, value in found["expected"].items()) or "no figure"
    measured = "; ".join(f"{key} {html.figure(found['metrics'][key])}" for key in metrics)
    pictures = files(name, found["pictures"]).items()
    cells = (
        f"[`{name}`]({name}.py): {title}; {found['epochs']} epochs",
        source,
        expected,
        measured + reached,
        str(found["seeds"]),
        "; ".join(f"{key} {value:.3g}" for key, value in found.get("reconstruction_quality", {}).items()) or "-",
        found["time"],
        " ".join(f"[![{kind} of {name}]({file})]({file})" for kind, file in pictures),
    )
    return f"| {' | '.join(cells)} |\n"


def special(run: Path, result: dict[str, Any], config: dict[str, Any]) -> str:
    """The picture that shows best what an experiment is about."""
    exist = {path.stem for path in (run / "figures").glob("*.png")}
    suits = {
        "manifold": "manifold" in exist,
        "traversal": "traversal" in exist and result.get("disentanglement") is not None,
        "samples": "samples" in exist,
        "training": config["picture_every"] > 0,
        "latent": "plane" in result,
        "reconstructions": "noise" in config,
        "codes": "codes" in exist,
    }
    return next((kind for kind, yes in suits.items() if yes), "reconstructions")


def page(results: dict[str, dict[str, Any]]) -> str:
    """The tables of these entries."""
    devices = " and ".join(sorted({found["device"] for found in results.values()}))
    text = HEAD.format(device=devices) + "".join(row(name, found) for name, found in results.items())
    planes = {name: found["plane"] for name, found in results.items() if found.get("plane")}
    if planes:
        rows = (f"| `{name}` | {' | '.join(f'{v:.3g}' for v in plane.values())} |\n" for name, plane in planes.items())
        text += PLANES + "".join(rows)
    if {"mirrored", "vae"} <= planes.keys():
        worse = [key for key, value in planes["vae"].items() if value >= planes["mirrored"][key]]
        text += f"\n`vae` scores better than `mirrored` on {'each' if not worse else 'each but ' + ', '.join(worse)}.\n"
    for key, (columns, said) in TABLES.items():
        measured = {name: found[key] for name, found in results.items() if found.get(key)}
        if measured:
            text += f"{said}\n| experiment | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|\n"
            for name, figures in measured.items():
                text += f"| `{name}` | {' | '.join(html.figure(figures[column]) for column in columns)} |\n"
    if {"stacked", "deep"} <= results.keys():
        text += _stacked(results["stacked"], results["deep"])
    return text


def _stacked(found: dict[str, Any], deep: dict[str, Any]) -> str:
    config: Any = command_line.parse(stacked.Config, "", shlex.split(found["command"])[2:])
    widths = (*config.hidden, config.latent)
    return STACKED.format(
        widths="-".join(map(str, (*widths, *widths[-2::-1]))),
        greedy=config.greedy,
        epochs=found["epochs"],
        deep_epochs=deep["epochs"],
        before=html.figure(found["greedy"]),
        after=html.figure(found["metrics"]["loss"]),
        deep=html.figure(deep["metrics"]["loss"]),
    )


def record(workdir: Path, out: Path) -> None:
    """Add the finished runs of the workdir to results.json in this folder, with their pictures, and write README.md."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    for name in NAMES:
        run = workdir / name
        if (run / "report.html").exists():
            results[name] = entry(name, run)
            for kind, picture in files(name, results[name]["pictures"]).items():
                _shrink(run / "figures" / f"{kind}.png", out / picture)
    results = dict(sorted(results.items()))
    file.write_text(json.dumps(results, indent=1) + "\n")
    (out / "README.md").write_text(page(results))


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
    """Run, and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"experiments (default: all): {', '.join(NAMES)}")
    parser.add_argument("--workdir", type=Path, default=ROOT / "runs" / "reproduce", help="holds a directory per run")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "experiments", help="folder of results.json, README.md and the pictures"
    )
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
    record(workdir, options.out)
    print(f"table: {options.out / 'README.md'}")
    sys.exit(failed)


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 300 else f"{seconds / 60:.0f} min"


def _device(device: dict[str, Any]) -> str:
    return f"{device['cores']} CPU cores" if device["platform"] == "cpu" else f"{device['count']} x {device['kind']}"


def _shrink(picture: Path, to: Path) -> None:
    with Image.open(picture) as image:
        image.thumbnail((WIDTH, WIDTH))
        image.convert("RGB").quantize(64).save(to, optimize=True)


if __name__ == "__main__":
    main()
