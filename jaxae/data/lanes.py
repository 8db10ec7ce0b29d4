"""The order of the examples of shards: every batch has equal parts of all lanes, each of which reads its own rows.

A lane is a range of consecutive rows, shuffled by itself. The examples of an epoch are dealt to the lanes in turn, so
that every example occurs once in an epoch, and the order is a function of (seed, epoch, step), the batch size and the
files: neither of the number of hosts, nor of where a run was resumed. A host reads the lanes of its part of the batch.
"""

import importlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np

from jaxae.data import array_records, row_groups
from jaxae.data.shards import Shards
from jaxae.errors import InputError, first_line

LANES = 64  # at most; hosts of a number that divides that of the lanes read disjoint rows
READERS = 8  # threads, each of which reads a lane at a time


def require_grain() -> None:
    """Import Grain. InputError if it is not installed."""
    try:
        importlib.import_module("grain.experimental")
    except ImportError:
        raise InputError("reading shards needs Grain: pip install 'jaxae[grain]'") from None


class Deal(NamedTuple):
    """How examples are dealt: number g of all epochs together is example `g // lanes` of lane `g % lanes`."""

    examples: int  # in an epoch
    batch_size: int
    lanes: int

    @property
    def part(self) -> int:
        """Examples of a lane in a batch, at `lane * part` and the following places."""
        return self.batch_size // self.lanes

    def first(self, epoch: int, lane: int) -> int:
        """Number of the lane's first example of an epoch, counted over all epochs."""
        return -(-(epoch * self.examples - lane) // self.lanes)

    def epoch(self, lane: int, number: int) -> int:
        """The epoch of an example of the lane."""
        return (number * self.lanes + lane) // self.examples

    def rows(self, epoch: int, lane: int) -> tuple[int, int]:
        """The lane's rows in an epoch: the first, and the one after the last. Those of all lanes follow each other."""
        counts = [self.first(epoch + 1, other) - self.first(epoch, other) for other in range(lane + 1)]
        return sum(counts[:-1]), sum(counts)


def number_of_lanes(shards: Shards, batch_size: int) -> int:
    """The largest divisor of the batch size up to `LANES`.

    Of row groups at most as many as there are, and as fit into the window together.
    """
    limit = LANES
    if shards.format == "parquet":
        groups = sum(len(file.groups) for file in shards.files)
        limit = max(1, min(LANES, groups, shards.window // _largest_group(shards)))
    return max(number for number in range(1, limit + 1) if batch_size % number == 0)


def _largest_group(shards: Shards) -> int:
    """Bytes of the largest row group."""
    return max(rows for file in shards.files for rows in file.groups) * shards.layout.size


class RecordLane:
    """The records of a lane in the order of an epoch, by Grain's index shuffle over all of them."""

    def __init__(self, shards: Shards, start: int, stop: int, seed: int, share: int) -> None:  # noqa: ARG002
        from grain.experimental import index_shuffle

        self._records = array_records.Records(shards.pieces(start, stop), shards.layout)
        self._place = partial(index_shuffle, max_index=stop - start - 1, seed=seed, rounds=4)

    def read(self, first: int, count: int) -> np.ndarray:
        """Examples `first` to `first + count`."""
        return self._records.read([self._place(place) for place in range(first, first + count)])


class GroupLane:
    """The row groups of a lane in a random order, a few of which at a time form a window whose rows are shuffled.

    Windows are read in order by a thread of Grain, one ahead. share: bytes of a window.
    """

    def __init__(self, shards: Shards, start: int, stop: int, seed: int, share: int) -> None:
        import grain

        source = row_groups.RowGroups(*shards.groups(start, stop), shards.layout)
        groups = max(1, share // _largest_group(shards))  # in a window
        order = grain.MapDataset.range(len(source)).shuffle(seed=seed)
        counts = [source.pieces[order[place]].stop - source.pieces[order[place]].start for place in range(len(source))]
        self._ends = np.cumsum([sum(counts[at : at + groups]) for at in range(0, len(counts), groups)])
        self._windows = (
            grain.MapDataset.source(source)  # type: ignore[arg-type]
            .shuffle(seed=seed)
            .batch(groups, batch_fn=np.concatenate)
            .map_with_index(partial(_permuted, seed))
        )
        self._ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        self._number, self._window = -1, np.zeros(0)
        self._following: Iterator[np.ndarray] = iter(())

    def read(self, first: int, count: int) -> np.ndarray:
        """Examples `first` to `first + count`. Reads that follow each other read every window once."""
        found: list[np.ndarray] = []
        while count:
            number = int(np.searchsorted(self._ends, first, "right"))
            if number != self._number:
                if number != self._number + 1 or self._number < 0:
                    self._following = iter(self._windows.slice(slice(number, None)).to_iter_dataset(self._ahead))
                self._number, self._window = number, self._next()
            at = first - int(self._ends[number]) + len(self._window)
            found.append(self._window[at : at + count])
            first, count = first + len(found[-1]), count - len(found[-1])
        return np.concatenate(found)

    def _next(self) -> np.ndarray:
        try:
            return next(self._following)
        except InputError as error:
            raise InputError(first_line(error)) from None  # Grain adds lines to the message


Lane: TypeAlias = RecordLane | GroupLane


def _permuted(seed: int, number: int, window: np.ndarray) -> np.ndarray:
    return window[np.random.default_rng((seed, number)).permutation(len(window))]


class Lanes:
    """Reads the batches of a seed, in steps that follow each other; another step starts anew."""

    def __init__(self, shards: Shards, batch_size: int, seed: int, threads: int = READERS) -> None:
        require_grain()  # here, since threads that import it at once may wait for each other
        self.deal = Deal(len(shards), batch_size, number_of_lanes(shards, batch_size))
        self._shards, self._seed = shards, seed
        self._now: dict[int, tuple[int, Lane]] = {}  # of a lane: the epoch, and its reader
        self._threads = ThreadPoolExecutor(threads)

    def read(self, step: int, steps: int, places: Sequence[range]) -> np.ndarray:
        """The examples at some places of the batches of steps `step` to `step + steps`, [T, B', *D] as stored."""
        part = self.deal.part
        lanes = sorted({place // part for of in places for place in of})
        each = dict(zip(lanes, self._threads.map(partial(self._lane, step * part, steps * part), lanes), strict=True))
        cuts = [
            each[lane].reshape(steps, part, *self._shards.layout.shape)[
                :, max(0, of.start - lane * part) : of.stop - lane * part
            ]
            for of in places
            for lane in range(of.start // part, -(-of.stop // part))
        ]
        return np.concatenate(cuts, axis=1)

    def close(self) -> None:
        """End reads that have not begun; nothing can be read any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _lane(self, number: int, count: int, lane: int) -> np.ndarray:
        """Examples `number` to `number + count` of a lane, counted over all epochs."""
        found = []
        while count:
            epoch = self.deal.epoch(lane, number)
            end = min(number + count, self.deal.first(epoch + 1, lane))
            if self._now.get(lane, (-1,))[0] != epoch:
                self._now[lane] = (epoch, self._reader(epoch, lane))
            found.append(self._now[lane][1].read(number - self.deal.first(epoch, lane), end - number))
            number, count = end, count - (end - number)
        return np.concatenate(found)

    def _reader(self, epoch: int, lane: int) -> Lane:
        seed = int(np.random.SeedSequence((self._seed, epoch, lane)).generate_state(1)[0])
        of = RecordLane if self._shards.format == "array_record" else GroupLane
        share = self._shards.window // self.deal.lanes
        return of(self._shards, *self.deal.rows(epoch, lane), seed, share)
