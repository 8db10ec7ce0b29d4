"""Folders and patterns of ArrayRecord or Parquet files as a data set, of which a run reads a few blocks at a time."""

import glob
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxae.data import array_records, pictures, recordings, row_groups
from jaxae.data.arrays import prepared
from jaxae.data.cache import cached_array
from jaxae.data.dataset import Dataset, Kind, Split
from jaxae.data.lanes import require_grain
from jaxae.data.options import OF_SHARDS, SOURCE_OPTIONS, Options, without_effect
from jaxae.data.pieces import File, Format, Layout
from jaxae.data.rows import Rows
from jaxae.data.scaling import in_model_units
from jaxae.data.shards import Shards
from jaxae.data.splits import NAMES, amount_of, renamed, requested
from jaxae.errors import InputError

SAMPLE, RUNS = 1 << 16, 64  # rows of the sample, at most; runs of consecutive rows in it
SAMPLE_BYTES = 1 << 26
HELD_OUT = 10_000  # rows of the test split, at most, where a fraction is not given
MIB = 1 << 20
WILDCARDS = "*?"
DEFAULT = Options()
WRITERS: dict[Format, tuple[str, Callable[..., None]]] = {
    "array_record": (".array_record", lambda path, x, rows: array_records.write(path, x)),  # noqa: ARG005
    "parquet": (row_groups.SUFFIX, row_groups.write),
}


def write_shards(folder: Path | str, x: np.ndarray, files: int, how: Format = "array_record", rows: int = 1000) -> None:
    """Write an array [N, *D] as files of equal numbers of examples, up to one, for `--data FOLDER`.

    Shuffle the examples first if they are sorted. rows: of a row group of Parquet. InputError, before anything is
    written, for a number of files that exceeds that of the examples, and for a folder with another number of them.
    """
    suffix, write = WRITERS[how]
    if not 1 <= files <= len(x):
        raise InputError(f"files={files} must be from 1 to the number of examples, {len(x):,}")
    names = [f"part-{number:05}-of-{files:05}{suffix}" for number in range(files)]
    if any(path.name not in names for path in Path(folder).glob(f"part-*-of-*{suffix}")):
        raise InputError(f"{folder} holds another number of shards; use a new folder")
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, part in zip(names, np.array_split(x, files), strict=True):
        write(Path(folder) / name, part, rows)


def is_sharded(name: str) -> bool:
    """Whether a path is a pattern, an ArrayRecord file, or a folder of ArrayRecord or Parquet files.

    A folder with pictures or recordings, also in folders of splits and classes, has Parquet files about them.
    """
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            other = (*pictures.SUFFIXES, *recordings.SUFFIXES)
            inside = (child for depth in ("*", "*/*", "*/*/*") for child in path.glob(depth))
            return bool(_listed(name)) and not any(child.suffix.lower() in other for child in inside)
        return _is_pattern(name) or _format(path) == "array_record"
    except (OSError, RuntimeError, ValueError):
        return False


def all_rows(name: str, options: Options = DEFAULT) -> Shards:
    """All rows of a folder or pattern, without a sample."""
    return _shards(_listed(name), replace(options, data=name))


def title(name: str) -> str:
    """The name of a source; of a pattern, the last part of its path that is more than wildcards, without these."""
    path = Path(name)
    if not any(letter in name for letter in WILDCARDS):
        return path.stem
    parts = [re.sub(r"[*?\[\]]", "", part).strip("-_.") for part in (path.stem, *(up.name for up in path.parents))]
    return next(filter(None, parts), "shards")


def load(options: Options, data_dir: str = "", manual_dir: str = "") -> Dataset:
    """A data set whose training examples are read as they are needed, by every host those of its part of the batch.

    Test and validation splits are those of files or folders with these words in their names, of `options.test` and
    `options.valid`, or the last rows, and are read into memory. Scaling and initial values are from a sample of up to
    65,536 examples. InputError for options without an effect, for files of different layouts, and for missing entries.
    """
    require_grain()
    _require_applicable(options, data_dir, manual_dir)
    files = _listed(options.data)
    if not files:
        raise InputError(f"{options.data} matches no ArrayRecord and no Parquet files; check the path")
    parts: dict[str, list[Path]] = {}
    for path in files:
        parts.setdefault(_split_of(path, options.data), []).append(path)
    if "train" not in parts:
        raise InputError(f"{options.data} has files of {' and '.join(parts)}, but none of train; rename them")
    found: dict[str, Shards] = {name: _shards(paths, options) for name, paths in parts.items()}
    kind, shape = _kind(found["train"].layout, options)
    notes = renamed(found, options.test)
    for name, wanted in requested(found, options.test, options.valid).items():
        amount = amount_of(name, wanted)
        if amount == 0 and name == "test":
            raise InputError("test=0 would read all training examples in every evaluation; give a number of them")
        if amount is None:
            found[name] = _shards(_listed(wanted), options, f"{name}={wanted}")
        elif amount:
            found["train"], found[name] = _divided(found["train"], name, amount, bool(getattr(options, name)))
            notes += (f"the last {len(found[name]):,} rows are the {name} split",)
    for name, other in found.items():
        if other.layout[:3] != found["train"].layout[:3]:
            raise InputError(
                f"{options.data}: examples of the {name} split have another shape, type or columns; write all alike"
            )
    train = found["train"]
    if train.format == "array_record":
        _require_default(options, OF_SHARDS, "ArrayRecord files")
    arrays = {name: other[:] for name, other in found.items() if name != "train"}
    train = replace(train, sample=_sample(train, arrays["test"]), layout=train.layout._replace(shape=shape))
    arrays["train"] = train.sample
    splits = {name: _without_classes(x.reshape(-1, *shape)) for name, x in arrays.items()}
    for name, split in splits.items():
        if split.x.dtype.kind == "f" and not np.isfinite(split.x).all():
            raise InputError(f"{options.data}: the {name} split has missing or infinite entries; leave these rows out")
    if left := train.layout.left_out:
        notes += (f"columns left out: {', '.join(left)}",)
    notes += (f"{len(train.files):,} {train.format.replace('_', ' ')} files, read as needed",)
    if len(train.sample) < len(train):
        notes += (f"statistics of {len(train.sample):,} examples",)
    scalars = kind == "table" and len(train.layout.columns) == shape[0]
    sampled = prepared(
        Dataset(
            splits["train"],
            splits["test"],
            (),
            kind,
            valid=splits.get("valid"),
            notes=notes,
            features=train.layout.columns if scalars else (),
        ),
        options,
    )
    x: Any = Rows(train, train.dtype)
    if sampled.train.x.dtype != np.uint8:
        x = in_model_units(_without_classes(x), sampled.scale, False, sampled.from_bytes).x
    return sampled._replace(train=_without_classes(x))


def _require_applicable(options: Options, data_dir: str, manual_dir: str) -> None:
    if options.binarize == "static":
        raise InputError("binarize=static needs images in memory, not shards; use dynamic")
    if options.kind == "counts":
        raise InputError("kind=counts is for tables in memory, not for shards; use kind=table")
    names = ("labels", "labels_seed", *(name for name in SOURCE_OPTIONS if name not in OF_SHARDS))
    _require_default(options, names, f"the shards {options.data}", data_dir=data_dir, manual_dir=manual_dir)


def _require_default(options: Options, names: Sequence[str], what: str, **more: str) -> None:
    for name, value in {**{name: getattr(options, name) for name in names}, **more}.items():
        if value != getattr(DEFAULT, name, ""):
            raise without_effect(name, value, what)


def _is_pattern(name: str) -> bool:
    return any(letter in name for letter in WILDCARDS) and any(_format(path) for path in [Path(name), *_matches(name)])


def _matches(pattern: str) -> list[Path]:
    return [Path(found) for found in glob.glob(pattern)]  # noqa: PTH207


def _format(path: Path) -> Format | None:
    if path.name.lower().endswith(row_groups.SUFFIX):
        return "parquet"
    return "array_record" if array_records.NAME.search(path.name.lower()) else None


def _listed(name: str) -> list[Path]:
    """The files of a pattern, a folder and its folders of splits, or a single file, sorted."""
    path = Path(name).expanduser()
    if path.is_dir():
        inside = [child for child in path.iterdir() if child.is_dir() and child.name.lower() in NAMES]
        every = [child for folder in (path, *inside) for child in folder.iterdir()]
    else:
        every = [path] if path.is_file() else _matches(str(path))
    return sorted(child for child in every if child.is_file() and child.name[0] != "." and _format(child))


def _split_of(path: Path, source: str) -> str:
    """The split that a file, or its folder in the source, is named after; `train` without one."""
    given = Path(source).expanduser()
    inside = path.parent != (given if given.is_dir() else given.parent)
    words = [path.parent.name.lower() if inside else "", *re.split(r"[^a-z]+", path.name.lower())]
    return next((NAMES[word] for word in words if word in NAMES), "train")


def _shards(paths: Sequence[Path], options: Options, where: str = "") -> Shards:
    """All rows of files. InputError for files of several formats, and for a damaged file."""
    formats = {_format(path) for path in paths}
    if len(formats) != 1:
        what = "matches no ArrayRecord and no Parquet files" if not formats else "has files of two formats"
        raise InputError(f"{where or options.data} {what}; give the files of one, such as 'FOLDER/*.parquet'")
    (format,) = formats
    assert format  # noqa: S101
    stats = [_stats(path) for path in paths]

    def index() -> np.ndarray:
        of: Any = array_records if format == "array_record" else row_groups
        groups = [of.index(path).groups for path in paths]
        filled = [path for path, rows in zip(paths, groups, strict=True) if sum(rows)]
        if not filled:
            raise InputError(f"{where or options.data} has no examples")
        layout = of.layout(filled[0], *([options.drop] if format == "parquet" else []))
        if format == "parquet":
            row_groups.require_alike(filled, layout.columns)
        return np.frombuffer(json.dumps([layout, groups]).encode(), np.uint8)

    layout, groups = json.loads(cached_array(f"shards {stats} {options.drop}", index).tobytes())
    shape, kind, columns, header, left = layout
    layout = Layout(tuple(shape), kind, tuple(columns), header, tuple(left))
    files = tuple(File(str(path), tuple(of)) for path, of in zip(paths, groups, strict=True))
    count = sum(file.rows for file in files)
    nothing = np.zeros((0, *layout.shape), layout.dtype)
    return Shards(format, files, layout, 0, count, nothing, max(1, options.shuffle_mib) * MIB)


def _stats(path: Path) -> tuple[str, str, int, int]:
    """What identifies a file on all hosts, wherever their folders are."""
    found = path.stat()
    return path.parent.name, path.name, found.st_size, found.st_mtime_ns


def _divided(shards: Shards, name: str, amount: float, given: bool) -> tuple[Shards, Shards]:
    """The remaining rows, and the last ones. given: whether the amount is not the default."""
    count = max(1, int(amount * len(shards) + 1e-9) if amount < 1 else int(amount))
    count = count if given else min(count, HELD_OUT)
    if count >= len(shards):
        raise InputError(f"{name}={amount:g} holds out all {len(shards):,} examples; use fewer")
    return replace(shards, last=shards.last - count), replace(shards, first=shards.last - count)


def _sample(shards: Shards, test: np.ndarray) -> np.ndarray:
    """Runs of consecutive rows, evenly spaced, cached.

    The key has the contents of the test split: every host reads it, but training files of its own part only.
    """
    count = min(len(shards), SAMPLE, max(1, SAMPLE_BYTES // shards.layout.size))
    runs = min(RUNS, count)
    length = count // runs
    places = np.arange(count)
    if count < len(shards):
        starts = np.linspace(0, len(shards) - length, runs).astype(int)
        places = np.unique(starts[:, None] + np.arange(length))
    stats = [(*_stats(Path(file.path)), file.groups) for file in shards.files]
    digest = hashlib.sha256(np.ascontiguousarray(test).data).hexdigest()
    key = f"sample {stats} {shards.layout} {shards.first} {shards.last} {digest}"
    return cached_array(key, lambda: shards[places])


def _kind(layout: Layout, options: Options) -> tuple[Kind, tuple[int, ...]]:
    """Kind and shape of an example."""
    rank, of_bytes = len(layout.shape), layout.dtype == np.uint8
    auto: dict[int, Kind] = {1: "table", 2: "image", 3: "image"}
    if options.series and (rank == 1 or (rank == 2 and not of_bytes)):
        auto[rank] = "series"
    ranks: dict[Any, tuple[int, ...]] = {"image": (2, 3), "table": (1,), "series": (1, 2)}
    kind: Any = auto.get(rank) if options.kind == "auto" else options.kind
    if kind is None or rank not in ranks[kind]:
        raise InputError(
            f"{options.data}: examples of shape {layout.shape} are no {options.kind} examples; use kind=auto"
        )
    if kind == "series" and of_bytes:
        raise InputError(f"{options.data}: series of bytes; write them as float32")
    shape = (*layout.shape, 1) if rank == {"image": 2, "series": 1}.get(kind) else layout.shape
    if kind == "image" and of_bytes and shape[2] not in (1, 3, 4):
        raise InputError(f"{options.data}: images of shape {shape}, not [H, W, C] with C = 1, 3 or 4")
    return kind, shape


def _without_classes(x: Any) -> Split:
    return Split(x, np.broadcast_to(np.int32(-1), (len(x),)))
