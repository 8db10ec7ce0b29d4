"""A contender of the benchmark: a process that trains one network, as many steps as it is told, turn by turn."""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Steps = Callable[[int], float]  # does that many and gives the loss of the last one


def serve(build: Callable[[dict[str, Any], np.ndarray], Steps]) -> None:
    """Build for the workload in the first argument, take a step, say so; then a turn for each line of stdin.

    build: (workload, training images as uint8 [N, D]) -> steps.
    """
    talk = sys.stdout
    sys.stdout = sys.stderr  # libraries print too
    work = json.loads(sys.argv[1])
    steps = build(work, np.load(work["images"], mmap_mode="r"))

    def say(**values: Any) -> None:
        print(json.dumps(values), file=talk, flush=True)

    steps(1)
    say(first=True)
    for line in sys.stdin:
        count = int(line)
        began = time.perf_counter()
        loss = steps(count)
        say(seconds=time.perf_counter() - began, loss=loss, memory=memory())


def memory() -> int:
    """Bytes of memory that this process had at most, without the images that it maps from their file."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - int(status["RssFile"].split()[0]))
