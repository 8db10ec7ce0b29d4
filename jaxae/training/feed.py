"""Training data for the compiled steps: resident on the device, or streamed in prefetched blocks.

Both give the same batches in the same order, which is a function of (seed, epoch, step): see `epoch`.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import numpy as np
from jaxtyping import Int

from jaxae.core.types import Examples, Generator
from jaxae.data import Split
from jaxae.data.draws import Draws
from jaxae.data.lanes import Lanes
from jaxae.data.rows import Rows
from jaxae.data.shards import Shards
from jaxae.devices.plan import Plan, memory, parts, place, place_parts
from jaxae.training import epoch
from jaxae.training.epoch import Dealt
from jaxae.training.start import DATA, keys

BLOCK = 1 << 26  # approximate bytes of a block
AHEAD = 2  # blocks to prefetch
T = TypeVar("T")


class Portion(NamedTuple):
    """Data of the next steps."""

    data: Examples | Generator | Dealt  # on the device; with an axis of seeds if streamed
    order: jax.Array  # of the rows of data; for a generator, the key of its examples; for dealt batches, unused
    start: int  # in the order; for a generator, the number of the first example
    steps: int  # number of steps that it covers


Feed: TypeAlias = Callable[[int, int], Portion]  # (epoch, step) -> the portion that begins with this step
Blocks: TypeAlias = Callable[[], Iterator[tuple[Examples, int]]]  # (block of a split, index of its first example)


def exceed(splits: Iterable[Split], plan: Plan, limit: float = 0.0) -> bool:
    """Whether the splits together are larger than the limit in bytes (0: a quarter of the memory of a device).

    Generated and sharded splits have no size. The result is the same for all processes.
    """
    sizes = {id(split.x): split.x.nbytes for split in splits if not (isinstance(split.x, Draws) or is_sharded(split))}
    return bool(sum(sizes.values()) > plan.processes.broadcast_json(limit or memory() / 4))


def feed(
    split: Split,
    plan: Plan,
    seeds: range,
    batch_size: int,
    streams: bool = False,
    block_bytes: int = BLOCK,
    stack: ExitStack | None = None,
) -> Feed:
    """A function that returns the portion of the split for a step: the complete split on the device, or a block.

    streams: whether blocks are streamed, of about `block_bytes` each. The examples of a generated split are generated
    in the step, those of a sharded one are streamed, to each device its part. stack: ends reads that began ahead.
    """
    if is_sharded(split):
        return _dealt(split.x, plan, seeds, batch_size, block_bytes, stack or ExitStack())
    if isinstance(split.x, Draws):
        return _generated(split.x, plan, seeds, batch_size)
    if streams:
        return _streamed(split, plan, seeds, batch_size, block_bytes)
    return _resident(split, plan, seeds, batch_size)


def within(stack: ExitStack, items: Iterator[T]) -> Iterator[T]:
    """The items; the stack is closed after the last one, when the consumer stops, and after an error."""
    with stack:
        yield from items


def is_sharded(split: Split) -> bool:
    """Whether the examples are read from shards."""
    return isinstance(split.x, Rows) and isinstance(split.x.base, Shards)


def blocks(split: Split, plan: Plan, batch_size: int, streams: bool = False, block_bytes: int = BLOCK) -> Blocks:
    """A split for evaluation: a single block on the device, or streamed ones, as in `feed`."""
    count = len(split.x)
    if not streams:
        data = place(flat_examples(split), plan, False)
        return lambda: iter([(data, 0)])
    length = batch_size * _steps(split, batch_size, block_bytes)

    def streamed() -> Iterator[tuple[Examples, int]]:
        firsts = range(0, count, length)
        for first, block in zip(firsts, _blocks(split, np.arange(count), length, range(len(firsts))), strict=True):
            yield place(block, plan, False), first

    return streamed


def _steps(split: Split, size: int, block_bytes: int) -> int:
    """Number of batches in a block."""
    return max(1, min(block_bytes // (size * split.x[:1].nbytes), -(-len(split.x) // size)))


def orders(seeds: range, now: int, count: int, batch_size: int) -> Int[np.ndarray, "*S N_plus_B"]:
    """`epoch.order` of each seed, stacked if there are several."""
    each = [epoch.order(seed, now, count, batch_size) for seed in seeds]
    return each[0] if len(seeds) == 1 else np.stack(each)


def flat_examples(split: Split) -> Examples:
    """A split as flat rows."""
    observed = None if split.observed is None else np.asarray(split.observed).reshape(len(split.x), -1)
    x = np.asarray(split.x).reshape(len(split.x), -1)
    return Examples(x, split.y, split.lengths, observed, split.context)


def _resident(split: Split, plan: Plan, seeds: range, size: int) -> Feed:
    count = len(split.x)
    data = place(flat_examples(split), plan, False)
    order: dict[int, jax.Array] = {}  # of the current epoch

    def portion(now: int, step: int) -> Portion:
        if now not in order:
            order.clear()
            order[now] = place(orders(seeds, now, count, size), plan, len(seeds) > 1)
        return Portion(data, order[now], step * size - now * count, epoch.first_step(now + 1, count, size) - step)

    return portion


def _generated(draws: Draws, plan: Plan, seeds: range, size: int) -> Feed:
    own = range(draws.seed, draws.seed + 1) if draws.seed is not None else seeds
    data, key = place(draws.generator, plan, False), place(keys(own, DATA), plan, len(own) > 1)

    def portion(now: int, step: int) -> Portion:
        return Portion(data, key, epoch.signed(step * size), epoch.first_step(now + 1, len(draws), size) - step)

    return portion


def _streamed(split: Split, plan: Plan, seeds: range, size: int, block_bytes: int) -> Feed:
    count = len(split.x)
    steps = _steps(split, size, block_bytes // len(seeds))
    order = place(np.arange(steps * size, dtype=np.int32), plan, False)
    at = (-1, -1)  # (epoch, index within the epoch) of the block on the device
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


def _dealt(x: Any, plan: Plan, seeds: range, size: int, block_bytes: int, stack: ExitStack) -> Feed:
    """Blocks of steps, read by a thread in their order; block k begins with step k times their number of steps."""
    mine = parts(plan, size)
    lanes = [Lanes(x.base, size, seed) for seed in seeds]
    row = math.prod(x.shape[1:]) * x.dtype.itemsize
    steps = max(1, min(block_bytes // (len(seeds) * size * row), -(-len(x) // size)))
    order = place(np.zeros(1, np.int32), plan, False)
    thread, pending = ThreadPoolExecutor(1), deque[Future[np.ndarray]]()
    at, block = -1, Dealt(order)
    for of in lanes:
        stack.callback(of.close)
    stack.callback(thread.shutdown, wait=False, cancel_futures=True)

    def read(number: int) -> np.ndarray:
        each = []
        for of in lanes:
            found = of.read(number * steps, steps, mine)
            flat = x.converted(found.reshape(-1, *x.shape[1:])).reshape(steps, len(mine), -1, math.prod(x.shape[1:]))
            each.append(np.moveaxis(flat, 1, 0))
        return np.stack(each) if len(each) > 1 else each[0]

    def portion(now: int, step: int) -> Portion:
        nonlocal at, block
        number, begin = divmod(step, steps)
        if number != at:
            if number != at + 1 or at < 0:
                while pending:
                    pending.popleft().cancel()
                pending.extend(thread.submit(read, number + later) for later in range(AHEAD))
            pending.append(thread.submit(read, number + AHEAD))
            at, block = number, Dealt(place_parts(pending.popleft().result(), plan, len(seeds) > 1))
        end = epoch.first_step(now + 1, len(x), size)
        return Portion(block, order, begin * size, min(steps - begin, end - step))

    return portion


def complete(portion: Portion, plan: Plan) -> tuple[Examples | Generator, Any]:
    """Data and order of a portion for one device: of dealt batches, those of all processes."""
    if not isinstance(portion.data, Dealt):
        return portion.data, portion.order
    x = np.asarray(plan.processes.gather(portion.data.x))
    x = np.moveaxis(x, 1, 0) if x.ndim == 5 and plan.mode == "pmap" else x
    x = x.swapaxes(-4, -3)  # [T, n, B / n, D]
    x = x.reshape(*x.shape[:-4], -1, x.shape[-1])
    return Examples(x, np.full(x.shape[:-1], -1, np.int32)), np.arange(x.shape[-2])


def _blocks(split: Split, order: np.ndarray, length: int, numbers: range) -> Iterator[Examples]:
    """The blocks with these indices, prefetched by threads; the last block of an epoch is padded with its last row."""

    def read(number: int) -> Examples:
        at = np.minimum(np.arange(number * length, (number + 1) * length), order.shape[-1] - 1)
        rows = order[..., at]
        part = split.take(rows)
        x, observed = (None if a is None else a.reshape(*rows.shape, -1) for a in (part.x, part.observed))
        return Examples(x, part.y, part.lengths, observed, part.context)  # type: ignore[arg-type]

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
