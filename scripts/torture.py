"""Interrupt a run at random moments, and restart it until it is finished: python scripts/torture.py --kills 25

The signal is SIGKILL, which no process can handle, or with --signal TERM or INT that signal. It is sent at any moment,
while the run starts, compiles, trains, evaluates, saves or draws. The result must equal that of an uninterrupted run
bit for bit: the SHA-256 of every array of the last checkpoint (parameters, optimizer state, extra, step) and
metrics.jsonl. After TERM and INT the exit code must be 128 + signal, and every recorded step must be saved (the run
makes no other checkpoints between its start and its end). The script prints the longest time from a signal to the end
of the process, and fails if it is above 3 seconds. Arguments after -- are the command. Exit code 0: no difference.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxae.training import records
from jaxae.training.checkpoint import newest_digests

EXPERIMENT = ["jaxae", "vae", "--epochs", "60", "--batch-size", "128", "--hidden", "16"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25, help="number of signals (default: %(default)s)")
    parser.add_argument("--signal", choices=("KILL", "TERM", "INT"), default="KILL", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments (default: %(default)s)")
    parser.add_argument("command", nargs="*", default=EXPERIMENT, help=f"default: {' '.join(EXPERIMENT)}")
    options = parser.parse_args()
    number = signal.Signals[f"SIG{options.signal}"]
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(torture(options.command, options.kills, random.Random(options.seed), Path(folder), number))  # noqa: S311


def start(command: list[str], workdir: Path) -> "subprocess.Popen[bytes]":
    """Start the command in a new process."""
    arguments = [sys.executable, "-m", *command, f"--workdir={workdir}"]
    root = Path(__file__).parents[1]
    return subprocess.Popen(arguments, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def saved(workdir: Path) -> int:
    """The step of the newest checkpoint."""
    return int(newest_digests(workdir / "checkpoints").get("step", 0)) if (workdir / "checkpoints").exists() else 0


def written(workdir: Path) -> int:
    """The last step in metrics.jsonl."""
    file = workdir / "metrics.jsonl"
    lines = records.read(file) if file.exists() else []
    return int(lines[-1]["step"]) if lines else 0


def phase(workdir: Path) -> str:
    """The phase of a run, from the files in its directory."""
    if not (workdir / "tensorboard").exists():
        return "starting and compiling"
    return "drawing" if (workdir / "result.json").exists() else "training"


def outcome(workdir: Path) -> tuple[dict[str, str], bytes]:
    """SHA-256 of every array of the newest checkpoint, and the metrics."""
    return newest_digests(workdir / "checkpoints"), (workdir / "metrics.jsonl").read_bytes()


def torture(
    command: list[str],
    kills: int,
    chance: random.Random,
    folder: Path,
    number: int = signal.SIGKILL,
    start: Callable[[list[str], Path], Any] = start,
    outcome: Callable[[Path], Any] = outcome,
) -> bool:
    """Whether any run differs from the uninterrupted one. Prints a line per run."""
    if number != signal.SIGKILL:
        command = [*command, "--checkpoint-every", "1000"]
    began = time.monotonic()
    if start(command, folder / "whole").wait():
        raise SystemExit("the command fails without a signal")
    lasts = time.monotonic() - began
    whole = outcome(folder / "whole")
    phases: Counter[str] = Counter()
    rounds, different, longest = 0, 0, 0.0
    while phases.total() < kills:
        rounds += 1
        workdir = folder / str(rounds)
        code = -1
        while code:
            process = start(command, workdir)
            try:
                # Waits long enough for progress; some runs finish before the signal.
                code = process.wait(chance.uniform(0, 1.2 * lasts) if phases.total() < kills else None)
            except subprocess.TimeoutExpired:
                phases[phase(workdir)] += 1
                sent = time.monotonic()
                process.send_signal(number)
                code = process.wait()
                longest = max(longest, time.monotonic() - sent)
                if code not in (0, -number, 128 + number):  # 0: already finished; negative: Python was still starting
                    raise SystemExit(f"exit code {code} after signal {number}: {workdir}") from None
                if number != signal.SIGKILL and saved(workdir) < written(workdir):
                    raise SystemExit(f"step {written(workdir)} was not saved: {workdir}") from None
                continue
            if code:
                raise SystemExit(f"after {phases.total()} kills the command fails with exit code {code}: {workdir}")
        same = outcome(workdir) == whole
        different += not same
        print(f"run {rounds}: {'equal' if same else 'DIFFERENT'}; {phases.total()} of {kills} kills", flush=True)
    where = ", ".join(f"{count} while {name}" for name, count in phases.most_common())
    print(f"{phases.total()} kills in {rounds} runs ({where}), each ended within {longest:.1f} s")
    print(f"{different} of {rounds} runs differ from the uninterrupted one")
    return different > 0 or (number != signal.SIGKILL and longest > 3)


if __name__ == "__main__":
    main()
