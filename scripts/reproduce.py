"""Run the experiments by the commands in their docstrings, and record their results.

python scripts/reproduce.py                        all of them, on MNIST from TFDS
python scripts/reproduce.py dense sparse           some of them
python scripts/reproduce.py --data-dir DIR --manual-dir DIR --workdir runs/reproduce

Repeating the command resumes: unfinished runs continue, and finished ones are only read. Every finished run in the
workdir becomes an entry of results.json in the folder --out (experiments/); the entries of other experiments are kept.
README.md, with the tables of all entries (`tables.py`), and the pictures are written beside it.
"""

import argparse
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tables
from PIL import Image

from jaxae import experiments
from jaxae.commands._docstrings import docstrings, fields
from jaxae.training import records

ROOT = Path(__file__).parents[1]

NAMES = experiments.names()
WIDTH = 640  # pixels


def command(name: str) -> list[str]:
    """The arguments of the command in an experiment's docstring."""
    words = shlex.split(fields(docstrings("jaxae.experiments")[name]).get("Command", ""))
    if words[:2] != ["jaxae", name]:
        raise ValueError(f"experiments/{name}.py: its docstring has no line 'Command: jaxae {name} ...'")
    return words[2:]


def entry(name: str, run: Path) -> dict[str, Any]:
    """The entry of a finished run in results.json."""
    result, saved = read(run, "result.json"), read(run, "config.json")
    config = saved["config"]
    found = {
        "command": shlex.join(["jaxae", name, *command(name)]),
        **{field: config[field] for field in ("data", "epochs", "seeds")},
        "device": _device(saved["device"]),
        "time": _time(result["wall_seconds"]),
        **{key: result[key] for key in ("expected", "reached", "metrics")},
        **{key: result[key] for key in ("plane", *tables.TABLES) if key in result},
        "pictures": list(dict.fromkeys((special(run, result, config), "reconstructions"))),
    }
    if name == "stacked":  # the test loss before fine-tuning
        layers = len(config["hidden"]) + 1
        lines = records.read(run / "metrics.jsonl")
        tests = {line["epoch"]: line for line in lines if line["split"] == "test"}
        found["greedy"] = tests[config["greedy"] * layers]["loss"]
    return {key: _averages(value) for key, value in found.items()}


def _averages(value: Any) -> Any:
    """The metric without the values of single seeds, in nested dictionaries."""
    if not isinstance(value, dict):
        return value
    return {key: _averages(part) for key, part in value.items() if key != "seeds"}


def special(run: Path, result: dict[str, Any], config: dict[str, Any]) -> str:
    """The most characteristic figure of an experiment, by file name."""
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


def record(workdir: Path, out: Path) -> None:
    """Add the finished runs of the workdir to results.json in this folder, with their pictures, and write README.md."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    for name in NAMES:
        run = workdir / name
        if (run / "report.html").exists():
            results[name] = entry(name, run)
            for kind, picture in tables.files(name, results[name]["pictures"]).items():
                _shrink(run / "figures" / f"{kind}.png", out / picture)
    results = dict(sorted(results.items()))
    file.write_text(json.dumps(results, indent=1) + "\n")
    (out / "README.md").write_text(tables.page(results, docstrings("jaxae.experiments")))


def read(run: Path, file: str) -> dict[str, Any]:
    """A JSON file of a run."""
    found: dict[str, Any] = json.loads((run / file).read_text())
    return found


def call(arguments: list[str]) -> int:
    """Run Python, and return its exit code. Signals are passed on: the run saves its last step and reports it."""
    with subprocess.Popen([sys.executable, *arguments], cwd=ROOT) as child:
        signal.signal(signal.SIGINT, lambda *_: None)  # a terminal also sends it to the child
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        return child.wait()


def main(call: Callable[[list[str]], int] = call) -> None:
    """Run the experiments, and record the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"experiments (default: all): {', '.join(NAMES)}")
    parser.add_argument("--workdir", type=Path, default=ROOT / "runs" / "reproduce", help="holds a directory per run")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "experiments", help="folder of results.json, README.md and the pictures"
    )
    parser.add_argument("--data-dir", type=Path, help="folder of prepared TFDS data sets")
    parser.add_argument("--manual-dir", type=Path, help="folder of archives already downloaded")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"unknown experiments {', '.join(sorted(unknown))}: use {', '.join(NAMES)}")
    workdir = options.workdir.absolute()
    folders = {"--data-dir": options.data_dir, "--manual-dir": options.manual_dir}
    where = [f"{flag}={folder.absolute()}" for flag, folder in folders.items() if folder]
    failed = 0
    for name in options.names or NAMES:
        own = command(name)
        of_tfds = "--data" in own and not own[own.index("--data") + 1].startswith(("sprites", "."))
        arguments = ["-m", "jaxae", name, *own, f"--workdir={workdir / name}", *(where if of_tfds else ())]
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
