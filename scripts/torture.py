"""Kills a run at random moments and starts it again until it ends: python scripts/torture.py --kills 25

SIGKILL, which nothing can handle, at any moment: while it starts, compiles, trains, evaluates, saves, draws. What it
ends with must be what a run ends with that nobody stops: the SHA-256 of every array of the last checkpoint
(parameters, optimizer state, extra, step) and the bytes of metrics.jsonl. Arguments after -- are the command.
Exit code 0: no difference.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jaxae.checkpoint import recorded

EXPERIMENT = ["experiments.vae", "--epochs", "12", "--batch-size", "128", "--hidden", "16"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("command", nargs="*", default=EXPERIMENT, help=f"default: {' '.join(EXPERIMENT)}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(torture(options.command, options.kills, random.Random(options.seed), Path(folder)))


def torture(command: list[str], kills: int, chance: random.Random, folder: Path) -> bool:
    """Whether anything differed. Says what each run of kills came to."""
    began = time.monotonic()
    if start(command, folder / "whole").wait():
        raise SystemExit("the command itself fails")
    lasts = time.monotonic() - began
    whole = outcome(folder / "whole")
    done, rounds, different = 0, 0, 0
    while done < kills:
        rounds += 1
        workdir, caught = folder / str(rounds), 0
        while not (workdir / "report.html").exists():
            process = start(command, workdir)
            try:
                # Moments far enough apart that it gets on, some of them after its end.
                code = process.wait(chance.uniform(0, 1.2 * lasts) if done + caught < kills else None)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                caught += 1
                continue
            if code:
                raise SystemExit(f"after {caught} kills the command fails with exit code {code}: {workdir}")
        done += caught
        same = outcome(workdir) == whole
        different += not same
        print(f"run {rounds}: {caught} kills, {'the same' if same else 'DIFFERENT'}; {done} of {kills}", flush=True)
    print(f"{done} kills in {rounds} runs, {different} of them different from the run that nobody stopped")
    return different > 0


def start(command: list[str], workdir: Path) -> "subprocess.Popen[bytes]":
    """The experiment, as a process of its own."""
    arguments = [sys.executable, "-m", *command, f"--workdir={workdir}"]
    root = Path(__file__).parents[1]
    return subprocess.Popen(arguments, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def outcome(workdir: Path) -> tuple[dict[str, str], bytes]:
    """SHA-256 of every array of the newest checkpoint, and the metrics."""
    return recorded(workdir / "checkpoints"), (workdir / "metrics.jsonl").read_bytes()


if __name__ == "__main__":
    main()
