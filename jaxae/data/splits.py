"""Training, validation and test splits: those of the source, of other sources, or held out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from jaxae.data.dataset import Dataset, Kind, Split
from jaxae.errors import InputError

# In names of folders and arrays.
NAMES = {
    "train": "train",
    "training": "train",
    "val": "valid",
    "valid": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
}
ORDER = ("train", "valid", "test")
HELD_OUT = "0.1"  # of the examples of a source without a test split


class RawDataset(NamedTuple):
    """A data set as read, in the user's units: all examples as `train`, or those of its splits."""

    splits: dict[str, Split]  # by name, of those in `ORDER`
    classes: tuple[str, ...] = ()
    kind: Kind = "image"
    features: tuple[str, ...] = ()  # names of the columns of a table
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()  # of the examples of all splits, if they have names
    groups: Int[np.ndarray, " N"] | None = None  # of the training examples; those of a group stay in one split
    spans: Int[np.ndarray, "N 2"] | None = None  # first step, and the step after the last, of windows of series
    sample_rate: int = 0  # of recordings, in Hz
    from_bytes: bool = False  # of series: whether they were uint8, and are divided by 255
    applicable: tuple[str, ...] = ()  # options in `SOURCE_OPTIONS` that apply to this source
    covariates: tuple[str, ...] = ()  # names of the columns of `Split.context`, which are encoded last

    def concatenated(self) -> Split:
        """The examples of all splits, in `ORDER`; sequences are padded to the longest."""
        return _joined([self.splits[name] for name in ORDER if name in self.splits])


def with_splits(raw: RawDataset, test: str, valid: str, read: Callable[[str], RawDataset]) -> Dataset:
    """A data set with a test split, and with a validation split if one is wanted.

    test, valid: a fraction of the training examples, their number, or the name of a source with all examples of the
    split; "": the split of the source. Without a test split the validation split of the source takes its place, or a
    tenth of its examples. test="0": the training examples are also the test split; valid="0": no validation split.
    Held-out examples, or groups of them, are chosen by a fixed seed, stratified by class. From a single group the last
    examples are held out, and windows that overlap with them are left out. InputError for a split that exists already,
    and for a source of other examples.
    """
    splits, classes = dict(raw.splits), raw.classes
    notes = raw.notes + renamed(splits, test)
    held_out: dict[str, float] = {}
    for name, wanted in requested(splits, test, valid).items():
        amount = amount_of(name, wanted)
        if amount is None:
            try:
                other = read(wanted)
            except InputError as error:
                raise InputError(str(error).replace(f"data={wanted}", f"{name}={wanted}")) from None
            every = other.concatenated()
            _require_alike(raw, other.kind, every.x, f"{name}={wanted}")
            if raw.covariates != other.covariates:
                mine, theirs = (", ".join(names) or "no covariates" for names in (raw.covariates, other.covariates))
                raise InputError(f"{name}={wanted} has {theirs}, but the training split has {mine}; use the same ones")
            new = tuple(label for label in other.classes if label not in classes)
            classes += new if classes else ()
            places = np.array([classes.index(label) if classes else -1 for label in other.classes] + [-1], np.int32)
            splits[name] = every._replace(y=places[every.y])
            notes += tuple(f"{name}: {note}" for note in other.notes)
        elif amount:
            held_out[name] = amount
    parts = _divided(raw, held_out)
    splits |= parts
    if parts and (overlapping := len(raw.splits["train"].x) - sum(len(part.x) for part in parts.values())):
        notes += (f"{overlapping:,} windows left out because they overlap held-out windows",)
    splits = _of_one_length(splits)
    train = splits["train"]
    notes += tuple(_of_one_class(name, splits[name], train, classes) for name in splits if name != "train")
    return Dataset(
        splits["train"],
        splits.get("test", splits["train"]),
        classes,
        raw.kind,
        features=raw.features,
        notes=tuple(filter(None, notes)),
        sample_rate=raw.sample_rate,
        from_bytes=raw.from_bytes,
        valid=splits.get("valid"),
        covariates=raw.covariates,
    )


def renamed(splits: dict[str, Any], test: str) -> tuple[str, ...]:
    """Make the validation split of a source the test split if there is no other; notes. test: as in `with_splits`."""
    if "valid" not in splits or "test" in splits or test:
        return ()
    splits["test"] = splits.pop("valid")
    return ("the validation split is used as the test split (test=0.1 holds out another one)",)


def requested(splits: Mapping[str, Any], test: str, valid: str) -> dict[str, str]:
    """Amount or source of each requested split, a tenth for a missing test split. InputError for one that exists."""
    wanted = {"test": test or ("" if "test" in splits else HELD_OUT), "valid": valid}
    for name, value in wanted.items():
        if value and name in splits:
            raise InputError(f"{name}={value} has no effect, since the data have a {name} split of their own; omit it")
    return {name: value for name, value in wanted.items() if value}


def held_out_mask(y: Int[np.ndarray, " N"], amount: float, seed: int | None = 0) -> Bool[np.ndarray, " N"]:
    """Mask of the held-out examples, stratified by class. amount: a fraction below 1, or a number of examples.

    seed: of the random selection; None: evenly spaced after sorting by class. InputError for fewer than two examples.
    """
    count = len(y)
    if count < 2:
        raise InputError(f"{count} example: at least 2 are needed, one of them for the test split")
    fraction = amount if amount < 1 else amount / count
    order = np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)
    chosen = np.zeros(count, bool)
    wanted = min(max(1, int(fraction * count + 1e-9)), count - 1)
    places = np.minimum(np.ceil(np.arange(1, wanted + 1) / fraction - 1e-9).astype(int) - 1, count - 1)
    chosen[order[np.argsort(y[order], kind="stable")][places]] = True
    return chosen


def hold_out(x: np.ndarray, y: np.ndarray, classes: tuple[str, ...]) -> Dataset:
    """A data set of these examples, of which a tenth is the test split, as in `with_splits`."""
    return with_splits(RawDataset({"train": Split(x, y)}, classes), "", "", _no_source)


def _no_source(name: str) -> RawDataset:
    raise InputError(f"{name} is neither a fraction nor a number of examples; pass one of them")


def _divided(raw: RawDataset, held_out: dict[str, float]) -> dict[str, Split]:
    """The remaining training examples, and the held-out ones by name, all in their order."""
    if not held_out:
        return {}
    train, parts = raw.splits["train"], {}
    places = np.arange(len(train.x))
    for name, amount in held_out.items():
        if amount >= len(places):
            raise InputError(f"{name}={amount:g} holds out all {len(places):,} examples; use fewer")
        chosen = _held_out_groups(train.y[places], amount, None if raw.groups is None else raw.groups[places])
        parts[name], places = places[chosen], places[~chosen]
        if raw.spans is not None and raw.groups is not None and len(np.unique(raw.groups)) == 1:
            places = places[raw.spans[places, 1] <= raw.spans[parts[name], 0].min()]
            if not len(places):
                raise InputError(
                    f"{name}={amount:g}: all other windows overlap with held-out ones; use a smaller {name} or window"
                )
    return {name: train.select(part) for name, part in {"train": places, **parts}.items()}


def _held_out_groups(y: np.ndarray, amount: float, groups: np.ndarray | None) -> np.ndarray:
    """`held_out_mask` of complete groups; for a single group, that of its last examples."""
    if groups is None:
        return held_out_mask(y, amount)
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    if len(first) == 1:
        return np.sort(held_out_mask(np.zeros(len(y), int), amount))
    return held_out_mask(y[first], amount if amount < 1 else amount / len(y))[group]


def amount_of(name: str, wanted: str) -> float | None:
    """A fraction below 1, or a number of examples; None for the name of a source. InputError for another number."""
    try:
        amount = float(wanted)
    except ValueError:
        return None
    if not (0 <= amount < 1 or (amount.is_integer() and amount > 0)):
        raise InputError(f"{name}={wanted} must be a fraction below 1, a number of examples, or a path")
    return amount


def _require_alike(raw: RawDataset, kind: Kind, theirs: np.ndarray, where: str) -> None:
    mine = raw.splits["train"].x
    steps = 1 if raw.splits["train"].lengths is not None else 0  # lengths may differ
    alike = (mine.dtype == np.uint8) == (theirs.dtype == np.uint8)
    if raw.kind != kind or mine.shape[1 + steps :] != theirs.shape[1 + steps :] or not alike:
        raise InputError(
            f"{where}: its examples are {kind} {[*theirs.shape[1:]]} {theirs.dtype}, but those of the training "
            f"split are {raw.kind} {[*mine.shape[1:]]} {mine.dtype}; convert one of them"
        )


def _of_one_class(name: str, split: Split, train: Split, classes: Sequence[str]) -> str:
    """A note on a split whose examples are all of one class; else empty."""
    present = np.unique(split.y[split.y >= 0])
    if len(present) == 1 and len(split.y) >= 10 and len(np.unique(train.y[train.y >= 0])) > 1:
        return f"all {name} examples are of class {classes[present[0]]}: were the data sorted when they were split?"
    return ""


def _of_one_length(splits: dict[str, Split]) -> dict[str, Split]:
    """If one split has sequences of different lengths, all splits with lengths, padded to the longest."""
    if all(split.lengths is None for split in splits.values()):
        return splits
    longest = max(split.x.shape[1] for split in splits.values())
    return {name: _padded(split, longest) for name, split in splits.items()}


def _joined(parts: Sequence[Split]) -> Split:
    if len(parts) == 1:
        return parts[0]
    parts = [*_of_one_length({str(number): part for number, part in enumerate(parts)}).values()]
    arrays = ([array for array in arrays if array is not None] for arrays in zip(*parts, strict=True))
    return Split(*(np.concatenate(array) if array else None for array in arrays))  # type: ignore[arg-type]


def _padded(split: Split, longest: int) -> Split:
    count, steps = split.x.shape[:2]
    lengths = np.full(count, steps, np.int32) if split.lengths is None else split.lengths
    return split._replace(x=np.pad(split.x, ((0, 0), (0, longest - steps), (0, 0))), lengths=lengths)
