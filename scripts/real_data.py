"""Train an experiment on a real data set of every kind, and print a table of the results.

python scripts/real_data.py DATA                    all data sets in the folder DATA (written $DATA in the table)
python scripts/real_data.py DATA series photos      some of them
python scripts/real_data.py DATA --workdir runs/real_data

Repeating the command resumes.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

from jaxae.report import html

COMMANDS = {
    "mnist": "vae --data $DATA/mnist --latent 10 --epochs 20",
    "frey-faces": "vae --data $DATA/frey-faces/frey.npy --valid 200 --test 200 --keep best --latent 10 --epochs 200",
    "photos": "convolutional --data $DATA/photos/pictures --size 64 --epochs 300 --batch-size 10 --filters 32 16 8 "
    "--optimizer adam --lr 0.001",
    "tables": "vae --data $DATA/tables/wine-red-missing.csv --target quality --valid 0.1 --keep best --hidden 64 "
    "--latent 4 --epochs 200",
    "anomalies": "dense --data $DATA/anomalies/satimage.npz --valid 0.1 --keep best --hidden 32 --latent 4 "
    "--epochs 100 --batch-size 100",
    "series": "sequence --data $DATA/series/basic-motions-train.npz --test $DATA/series/basic-motions-test.npz "
    "--epochs 500 --batch-size 20 --lr 0.003",
    "spoken-digits": r"dense --data $DATA/spoken-digits/recordings.tar --target-pattern '^(\d)_' "
    r"--test-pattern '_[0-4]\.wav$' --window 512 --hidden 512 --latent 64 --epochs 30",
    "cifar10-jpeg": "convolutional --data $DATA/cifar10-jpeg/train.tar --test $DATA/cifar10-jpeg/test.tar --filters 32 "
    "16 8 --optimizer adam --lr 0.001 --epochs 5",
}


def main() -> None:
    """Run the commands, with three seeds each, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"data sets (default: all): {', '.join(COMMANDS)}")
    parser.add_argument("--workdir", type=Path, default=Path("runs/real_data"), help="holds a directory per set")
    options = parser.parse_args()
    if unknown := set(options.names) - set(COMMANDS):
        parser.error(f"unknown data sets {', '.join(sorted(unknown))}: use {', '.join(COMMANDS)}")
    names = options.names or [*COMMANDS]
    for name in names:
        words = shlex.split(COMMANDS[name].replace("$DATA", str(options.data)))
        run = ["--seeds", "3", "--workdir", str(options.workdir / name)]
        if code := subprocess.run([sys.executable, "-m", "jaxae", *words, *run], check=False).returncode:
            sys.exit(code)
    print("| set | command, with `--seeds 3` | test split, mean ± std | time |\n|---|---|---|---|")
    for name in names:
        result = json.loads((options.workdir / name / "result.json").read_text())
        metrics = ", ".join(f"{key} {html.figure(result['metrics'][key])}" for key in ("loss", "mse"))
        print(f"| {name} | `jaxae {COMMANDS[name]}` | {metrics} | {result['wall_seconds']:.0f} s |")


if __name__ == "__main__":
    main()
