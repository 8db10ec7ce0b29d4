"""Training data for the compiled steps: resident on the device, or streamed in prefetched blocks.

Both give the same batches in the same order, which is a function of (seed, epoch, step): see `epoch`.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jaxtyping import Int

from jaxae.core.types import Examples
from jaxae.data import Split
from jaxae.devices.plan import Plan, memory, place
from jaxae.training import epoch

BLOCK = 1 << 26  # approximate bytes of a block
AHEAD = 2  # blocks to prefetch


class Portion(NamedTuple):
    """Data of the next steps."""

    data: Examples  # on the device; with an axis of seeds if streamed
    order: jax.Array  # of the rows of data
    start: int  # in the order
    steps: int  # number of steps that it covers


Feed: TypeAlias = Callable[[int, int], Portion]  # (epoch, step) -> the portion that begins with this step


def feed(split: Split, plan: Plan, seeds: range, batch_size: int, limit: float = 0.0, block_bytes: int = BLOCK) -> Feed:
    """The split in portions: a single one on the device, or streamed blocks if it exceeds the limit.

    limit: bytes per device (0: a quarter of its memory). block_bytes: approximate size of a block.
    """
    limit = plan.processes.broadcast_json(limit or memory() / 4)  # the same for all processes
    if split.x.nbytes > limit:
        return _streamed(split, plan, seeds, batch_size, block_bytes)
    return _resident(split, plan, seeds, batch_size)


def orders(seeds: range, now: int, count: int, batch_size: int) -> Int[np.ndarray, "*S N_plus_B"]:
    """`epoch.order` of each seed, side by side if there are several."""
    each = [epoch.order(seed, now, count, batch_size) for seed in seeds]
    return each[0] if len(seeds) == 1 else np.stack(each)


def flat_examples(split: Split) -> Examples:
    """A split as flat rows."""
    observed = None if split.observed is None else split.observed.reshape(len(split.x), -1)
    return Examples(split.x.reshape(len(split.x), -1), split.y, split.lengths, observed)


def _resident(split: Split, plan: Plan, seeds: range, size: int) -> Feed:
    count = len(split.x)
    data = place(flat_examples(split), plan, False)
    of: dict[int, jax.Array] = {}  # the order of the epoch

    def portion(now: int, step: int) -> Portion:
        if now not in of:
            of.clear()
            of[now] = place(orders(seeds, now, count, size), plan, len(seeds) > 1)
        return Portion(data, of[now], step * size - now * count, epoch.first_step(now + 1, count, size) - step)

    return portion


def _streamed(split: Split, plan: Plan, seeds: range, size: int, block_bytes: int) -> Feed:
    count = len(split.x)
    steps = max(1, min(block_bytes // (len(seeds) * size * split.x[:1].nbytes), -(-count // size)))
    order = place(np.arange(steps * size, dtype=np.int32), plan, False)
    at = (-1, -1)  # epoch, and number within it, of the block on the device
    block: Any = None
    following: Iterator[Examples] = iter(())

    def portion(now: int, step: int) -> Portion:
        nonlocal at, block, following
        first, end = (epoch.first_step(e, count, size) for e in (now, now + 1))
        number = (step - first) // steps
        if at != (now, number):
            if at != (now, number - 1):
                rows = orders(seeds, now, count, size)[..., first * size - now * count :]
                following = _blocks(split, rows, steps * size, range(number, -(-(end - first) // steps)))
            at, block = (now, number), place(next(following), plan, len(seeds) > 1)
        begin = step - first - number * steps
        return Portion(block, order, begin * size, min(steps - begin, end - step))

    return portion


def _blocks(split: Split, order: np.ndarray, length: int, numbers: range) -> Iterator[Examples]:
    """The blocks of these numbers, prefetched by threads; the last one of an epoch is padded with its last row."""

    def read(number: int) -> Examples:
        at = np.minimum(np.arange(number * length, (number + 1) * length), order.shape[-1] - 1)
        rows = order[..., at]
        part = split.take(rows)
        x, observed = (None if a is None else a.reshape(*rows.shape, -1) for a in (part.x, part.observed))
        return Examples(x, part.y, part.lengths, observed)  # type: ignore[arg-type]

    threads, pending = ThreadPoolExecutor(AHEAD), deque[Future[Examples]]()
    try:
        for number in numbers:
            pending.append(threads.submit(read, number))
            if len(pending) > AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)
