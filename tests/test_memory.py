"""Memory of a run on large images, from start to report."""

import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize(
    ("experiment", "count", "flags"), [("vae", 6000, ["--hidden", "64"]), ("convolutional", 400, [])]
)
def test_run_on_images_of_128_pixels_stays_within_a_gibibyte_above_its_data(tmp_path, experiment, count, flags):
    """Training, evaluation, measures, figures and report; anonymous memory, without the files of the libraries."""
    ramp = np.linspace(0, 255, 128, dtype=np.uint8)
    image = np.stack([np.add.outer(ramp // 2, ramp // 2), *np.meshgrid(ramp, ramp)], axis=2).astype(np.uint8)
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, (count, *image.shape))
    for number in range(count):
        x[number] = np.roll(image, 21 * number, axis=(0, 1))
    x.flush()
    options = ["--data", "x.npy", "--epochs", "1", "--batch-size", "32", "--workdir", "run", *flags]
    command = [sys.executable, "-m", "jaxae", experiment, *options]
    most = 0
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            if found := re.search(r"RssAnon:\s+(\d+) kB", status):
                most = max(most, 1024 * int(found[1]))
            time.sleep(0.05)
    assert process.returncode == 0
    assert (tmp_path / "run" / "report.html").exists()
    print(f"{experiment}: {(most - x.nbytes) / 2**20:,.0f} MiB above {x.nbytes / 2**20:,.0f} MiB of data")
    assert most - x.nbytes < 2**30
