"""Repeat a finished run from its config.json alone, and compare: python scripts/reproduce_run.py RUN [--workdir DIR]

Metrics and last checkpoint must be equal bit for bit. Otherwise the recorded facts that differ on this machine are
printed: versions, device, data. Exit code 0: equal; 1: different; 2: the run cannot be repeated.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from jaxae import run
from jaxae.errors import InputError
from jaxae.run import directory
from jaxae.training import records
from jaxae.training.checkpoint import newest_digests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("--workdir", type=Path, help="run directory of the repetition (default: a temporary one)")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            different, facts = repeat(options.run, options.workdir or Path(folder) / "run")
    except InputError as error:
        parser.exit(2, f"error: {error}\n")
    if not different:
        print("equal bit for bit: metrics.jsonl and the last checkpoint")
    else:
        print(f"different: {', '.join(different)}")
        print(*(facts or ["all recorded facts are equal"]), sep="\n")
    parser.exit(bool(different))


def repeat(path: Path, workdir: Path) -> tuple[list[str], list[str]]:
    """Repeat the run; return the names of the differing files, and the recorded facts that differ."""
    saved = directory.read(path / "config.json")
    run.require_finished(path, saved)
    if not saved["command"]:
        raise InputError(f"{path}: its data, optimizer or experiment was passed as an object, which is not saved")
    if (workdir / "config.json").exists():
        raise InputError(f"--workdir {workdir}: already holds a run: give another")
    records.read(path / "metrics.jsonl")
    before = newest_digests(path / "checkpoints")
    module, config = run.recorded_experiment(path, saved)
    dataset = run.loaded(config)
    facts = differences(saved, directory.describe(config, saved["experiment"], dataset))
    again = run.train(
        dataclasses.replace(config, workdir=str(workdir), overwrite=False), module.build, saved["experiment"]
    )
    different = []
    if (path / "metrics.jsonl").read_bytes() != (again / "metrics.jsonl").read_bytes():
        different.append("metrics.jsonl")
    if before != newest_digests(again / "checkpoints"):
        different.append("the last checkpoint")
    return different, facts


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """A line for every recorded fact besides the configuration that differs."""
    git = [f"git: {old.get('git')} then, {new.get('git')} now"] if old.get("git") != new.get("git") else []
    return git + [
        f"{part} {name}: {old[part].get(name)} then, {new[part].get(name)} now"
        for part in ("versions", "device", "data")
        for name in {**old[part], **new[part]}
        if old[part].get(name) != new[part].get(name)
    ]


if __name__ == "__main__":
    main()
