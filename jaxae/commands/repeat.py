"""Repeat a finished run from its config.json, and compare the results bit for bit.

Metrics and last checkpoint must be equal. If they are not, prints the recorded facts that differ on this machine:
versions, device, data. Exit codes: 0, equal; 1, different; 2, the run cannot be repeated.
"""

import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from jaxae import run
from jaxae.commands._arguments import OneRun, module_of, parsed
from jaxae.errors import InputError
from jaxae.run import directory, loop
from jaxae.training import records
from jaxae.training.checkpoint import newest_digests


@dataclass(frozen=True, kw_only=True)
class Options(OneRun):
    """Arguments of `jaxae repeat`."""

    workdir: str = ""
    """Run directory of the repetition. (default: a temporary one)"""


def main(argv: Sequence[str]) -> NoReturn:
    """Print what differs, and exit."""
    run.program(lambda stop: compared(parsed(Options, argv), stop))


def compared(options: Options, stop: loop.Stop) -> str:
    """Repeat the run; return the line to print if it is equal. Otherwise print what differs, and exit with code 1."""
    with tempfile.TemporaryDirectory() as folder:
        different, facts = repeat(options, Path(options.workdir or Path(folder) / "run"), stop)
    if not different:
        return "equal bit for bit: metrics.jsonl and the last checkpoint"
    print(f"different: {', '.join(different)}", *(facts or ["all recorded facts are equal"]), sep="\n", flush=True)
    sys.exit(1)


def repeat(options: Options, workdir: Path, stop: loop.Stop) -> tuple[list[str], list[str]]:
    """Repeat the run in `workdir`; return the names of the differing files, and the recorded facts that differ.

    InputError for a run that is not finished, that no command repeats, or that lacks its checkpoint or data, and for a
    workdir that holds a run.
    """
    path = options.run
    saved = directory.read(path / "config.json")
    if not saved["command"]:
        raise InputError(f"{path}: its data, optimizer or experiment was passed as an object, which is not saved")
    module, config = run.recorded_experiment(path, saved, module_of(options))
    run.require_finished(path, saved)
    if (workdir / "config.json").exists():
        raise InputError(f"--workdir {workdir} already holds a run; use another")
    records.read(path / "metrics.jsonl")
    if not (before := newest_digests(path / "checkpoints")):
        raise InputError(f"{path} has no checkpoint to compare with")
    dataset = run.loaded(config)
    facts = differences(saved, directory.describe(config, saved["experiment"], dataset))
    config = dataclasses.replace(config, workdir=str(workdir), overwrite=False, track="none")
    again = run.train(config, module.build, saved["experiment"], stop, known=dataset)
    different = []
    if (path / "metrics.jsonl").read_bytes() != (again / "metrics.jsonl").read_bytes():
        different.append("metrics.jsonl")
    if before != newest_digests(again / "checkpoints"):
        different.append("the last checkpoint")
    return different, facts


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """A line for every recorded fact that differs, other than the configuration."""
    git = [f"git: {old.get('git')} then, {new.get('git')} now"] if old.get("git") != new.get("git") else []
    return git + [
        f"{part} {name}: {old[part].get(name)} then, {new[part].get(name)} now"
        for part in ("versions", "device", "data")
        for name in {**old[part], **new[part]}
        if old[part].get(name) != new[part].get(name)
    ]
