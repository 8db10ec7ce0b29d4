"""The protocol of a contender: a process that trains one network, turn by turn, for the requested number of steps."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Steps = Callable[[int], float]  # number of steps -> loss of the last one


def serve(build: Callable[[dict[str, Any], np.ndarray], Steps]) -> None:
    """Build the workload in the first argument, take a step and report it; then serve a turn per line of stdin.

    build: (workload, training images as uint8 [N, D]) -> steps.
    """
    replies = sys.stdout
    sys.stdout = sys.stderr  # libraries print too
    work = json.loads(sys.argv[1])
    steps = build(work, np.load(work["images"], mmap_mode="r", allow_pickle=False))

    def reply(**values: Any) -> None:
        print(json.dumps(values), file=replies, flush=True)

    steps(1)
    reply(first=True)
    for line in sys.stdin:
        count = int(line)
        began = time.perf_counter()
        loss = steps(count)
        reply(seconds=time.perf_counter() - began, loss=loss, memory=memory())


def memory() -> int:
    """Peak memory in bytes: of the accelerator, or else of the process, including libraries and data."""
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    if jax and (stats := jax.local_devices()[0].memory_stats()):
        return int(stats["peak_bytes_in_use"])
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status["VmHWM"].split()[0])


def shape(net: str, image: tuple[int, ...]) -> tuple[int, ...]:
    """Input shape of the network; image: the shape of an image, for convolutional networks."""
    return {"dense": (784,), "vae": (784,), "sequence": (28, 28)}.get(net, image)


def pixels(images: np.ndarray, net: str) -> np.ndarray:
    """Images as float32 in [0, 1] in the input shape of the network, channels last, without a second copy."""
    x = images.astype(np.float32).reshape(-1, *shape(net, (28, 28, 1)))
    x /= 255
    return x


def epochs(count: int, most: int) -> list[int]:
    """Split steps into epochs of at most `most`, for libraries that train by epochs."""
    return [most] * (count // most) + [count % most] * (count % most > 0)
