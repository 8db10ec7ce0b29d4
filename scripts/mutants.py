"""Mutation score of the unit tests: python scripts/mutants.py [WORD ...]

A mutant is the library with one error in a loss, bound, divergence, schedule or metric; it is killed if one of the unit
tests that `mutants.toml` lists for it fails. The script copies the library and its tests into a temporary folder,
checks that these tests pass there, and then applies one mutant at a time. WORD: run only the mutants whose "FILE:
DESCRIPTION" or issue contains one of the words. Exit code 1 if a mutant survives, if its old text does not occur
exactly once in its file, or if its tests do not run.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_suffix(".toml")


class Mutant(NamedTuple):
    """An error, and the tests that fail because of it."""

    file: str  # in jaxae/
    breaks: str
    old: str  # occurs exactly once in the file
    new: str
    tests: str  # separated by spaces, in tests/
    issue: str = ""  # of another project that had this defect, as OWNER/REPOSITORY#NUMBER


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD", help="default: all mutants")
    words = parser.parse_args().words
    chosen = [m for m in MUTANTS if not words or any(word in f"{m.file}: {m.breaks} {m.issue}" for word in words)]
    for mutant in chosen:
        if (count := (ROOT / "jaxae" / mutant.file).read_text().count(mutant.old)) != 1:
            sys.exit(f"jaxae/{mutant.file}: {mutant.old!r} occurs {count} times")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copy2(ROOT / "pyproject.toml", copy)
        for name in ("jaxae", "experiments", "tests"):
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        first = run(copy, sorted({test for mutant in chosen for test in mutant.tests.split()}))
        if first.returncode:
            sys.exit(f"{first.stdout}\nthe tests fail without a mutant")
        survivors = 0
        for mutant in chosen:
            path = copy / "jaxae" / mutant.file
            path.write_text(path.read_text().replace(mutant.old, mutant.new))
            killed = run(copy, mutant.tests.split(), PYTHONDONTWRITEBYTECODE="1").returncode == 1
            shutil.copy2(ROOT / "jaxae" / mutant.file, path)  # with the old time, so that its bytecode stays valid
            survivors += not killed
            print(f"{'killed' if killed else 'SURVIVED':8}  {mutant.file:28}  {mutant.breaks}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants killed")
    sys.exit(survivors > 0)


def run(copy: Path, tests: list[str], **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run these tests in this copy of the library. SystemExit if pytest cannot run them."""
    options = ["-n0", "-xq", "--tb=line", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    command = [sys.executable, "-m", "pytest", *options, *(f"tests/{test}" for test in tests)]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "compiled")}  # the one of the test suite
    environment = {**os.environ, **cache, "PYTHONPATH": str(copy), **environment}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    if done.returncode > 1:
        sys.exit(done.stdout + done.stderr)
    return done


MUTANTS = [Mutant(file, **row) for file, rows in tomllib.loads(LIST.read_text()).items() for row in rows]

if __name__ == "__main__":
    main()
