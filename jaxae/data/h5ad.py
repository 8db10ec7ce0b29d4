"""Files of AnnData (`.h5ad`): counts of genes in cells, with annotations of the cells; read and extended by h5py.

The format is that of anndata 0.8 and later (https://anndata.readthedocs.io/en/latest/fileformat-prose.html), and older
ones are read too. Links to other files are not followed.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from jaxae.data.cache import writing
from jaxae.data.options import Options
from jaxae.data.reading import reading
from jaxae.errors import InputError

SUFFIX = ".h5ad"
MAGIC = b"\x89HDF\r\n\x1a\n"
OPTIONS = ("target", "context", "layer", "genes")  # that apply to such a file


class Cells(NamedTuple):
    """The parts of a file that are used."""

    x: Float[np.ndarray, "N G"]
    genes: tuple[str, ...]
    names: tuple[str, ...]  # of the cells
    target: Shaped[np.ndarray, " N"] | None
    context: dict[str, np.ndarray]


def read(path: Path, options: Options, features: Sequence[str] = (), training: bool = True) -> Cells:
    """Counts or other numbers of `X` or a layer, with columns of `obs` as classes and covariates.

    options: layer; genes, a column of `var` whose true entries select the genes; target and context, columns of `obs`.
    features: names of the genes to read, in this order (default: all, or the selected ones). training: whether a target
    that is missing is an error. InputError for other files and for missing names.
    """
    with _opened(path) as file:
        obs, var = (_require(file, name, path) for name in ("obs", "var"))
        parent = _require(file, "layers", path) if options.layer else file
        x = _matrix(_require(parent, options.layer or "X", path), path)
        names, genes = _index(obs, path), _index(var, path)
        if x.shape != (len(names), len(genes)):
            raise InputError(f"{path}: the matrix has shape {x.shape}, not {(len(names), len(genes))}")
        if len({*genes}) < len(genes):
            twice = next(name for place, name in enumerate(genes) if name in genes[:place])
            raise InputError(f"{path}: two genes have the name {twice}; call var_names_make_unique() of AnnData")
        if features:
            places = {name: place for place, name in enumerate(genes)}
            if lacking := [name for name in features if name not in places]:
                raise InputError(f"{path} has no gene {lacking[0]}, which the model was trained on")
            x, genes = x[:, [places[name] for name in features]], tuple(features)
        elif options.genes:
            chosen = _column(var, options.genes, path)
            if not np.isin(chosen, (0, 1)).all() or not (chosen == 1).any():
                raise InputError(f"{path}: genes={options.genes} must name a column of var that is true for some genes")
            x, genes = x[:, chosen == 1], tuple(np.array(genes)[chosen == 1].tolist())
        target = None
        if options.target and (training or options.target in _names(obs)):
            target = _column(obs, options.target, path)
        context = {name: _column(obs, name, path) for name in options.context}
    return Cells(x.astype(np.float32), genes, names, target, context)


def write(path: Path, source: Path, obsm: Mapping[str, np.ndarray], obs: Mapping[str, np.ndarray]) -> None:
    """Copy a file, adding arrays [N, ...] to `obsm` and numbers [N] to `obs`; they replace those of the same name.

    OSError, and InputError for a source that is not such a file.
    """
    h5py = _h5py(source)
    with _opened(source):
        pass
    with writing(path) as file, source.open("rb") as original:
        shutil.copyfileobj(original, file)
        file.flush()
        with h5py.File(file.name, "r+") as copy:
            if "obsm" not in copy:
                copy.create_group("obsm").attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
            for name in ("obsm", "obs"):
                if not isinstance(_require(copy, name, source), h5py.Group):
                    raise InputError(f"{source}: {name} is older than AnnData 0.7; save it again with a newer AnnData")
            for parent, arrays in ((_require(copy, "obsm", source), obsm), (_require(copy, "obs", source), obs)):
                for name, values in arrays.items():
                    if name in parent:
                        del parent[name]
                    parent.create_dataset(name, data=values)
                    parent[name].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
            columns = [*_text(copy["obs"].attrs.get("column-order", [])).tolist()]
            copy["obs"].attrs["column-order"] = np.array(
                [*columns, *(name for name in obs if name not in columns)], h5py.string_dtype()
            )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    h5py = _h5py(path)
    with reading(path, MAGIC), h5py.File(path, "r") as file:
        yield file


def _h5py(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise InputError(f"{path}: needs the package h5py: pip install 'jaxae[h5ad]'") from None
    return h5py


def _require(group: Any, name: str, path: Path) -> Any:
    """A member of a group of the same file. InputError if there is none, and for data in another file."""
    if name not in group:
        inside = f"{group.name}/{name}".strip("/")
        raise InputError(f"{path} has no {inside}; it has {', '.join([*group][:20])}")
    if type(group.get(name, getlink=True)).__name__ != "HardLink":
        raise InputError(f"{path}: {name} is a link to another place, which is not followed")
    found = group[name]
    if getattr(found, "external", None) or getattr(found, "is_virtual", False):
        raise InputError(f"{path}: {name} is stored in another file, which is not read")
    return found


def _matrix(found: Any, path: Path) -> Float[np.ndarray, "N G"]:
    """A dense or sparse matrix."""
    if not hasattr(found, "keys"):
        return np.asarray(found[:])
    from scipy import sparse

    (kind,) = _text([found.attrs.get("encoding-type", found.attrs.get("h5sparse_format", "csr"))]).tolist()
    shape = tuple(int(size) for size in found.attrs.get("shape", found.attrs.get("h5sparse_shape")))
    make: Callable[..., Any] = sparse.csc_matrix if kind.startswith("csc") else sparse.csr_matrix
    parts = (_require(found, name, path)[:] for name in ("data", "indices", "indptr"))
    return np.asarray(make(tuple(parts), shape=shape).toarray())


def _names(frame: Any) -> list[str]:
    """Columns of `obs` or `var`, which is a compound dataset in old files."""
    return [*frame] if hasattr(frame, "keys") else [*(frame.dtype.names or ())]


def _index(frame: Any, path: Path) -> tuple[str, ...]:
    known = frame.attrs.get("_index", next((name for name in ("index", "_index") if name in _names(frame)), "index"))
    values = frame[str(known)] if not hasattr(frame, "keys") else _require(frame, str(known), path)[:]
    return tuple(_text(values).tolist())


def _column(frame: Any, name: str, path: Path) -> np.ndarray:
    """A column as numbers, NaN where one is missing, or as strings, "" where one is missing. InputError for others."""
    if name not in _names(frame):
        known = [column for column in _names(frame) if not column.startswith("_")]
        raise InputError(f"{path}: {frame.name.strip('/')} has no column {name}; it has {', '.join(known[:20])}")
    if not hasattr(frame, "keys"):
        return _plain(frame[name])
    found = _require(frame, name, path)
    if hasattr(found, "keys"):
        parts = {part: _require(found, part, path)[:] for part in found}
        if "codes" in parts:
            return _categorical(parts["codes"], parts["categories"])
        values = _plain(parts["values"])
        missing = "" if values.dtype.kind == "U" else np.nan
        return np.where(parts["mask"], missing, values)
    if "__categories" in frame and name in frame["__categories"]:
        return _categorical(found[:], _require(_require(frame, "__categories", path), name, path)[:])
    return _plain(found[:])


def _categorical(codes: np.ndarray, categories: np.ndarray) -> np.ndarray:
    names = _plain(categories)
    missing = np.array([""] if names.dtype.kind == "U" else [np.nan])
    return np.concatenate([names, missing])[codes]


def _plain(values: np.ndarray) -> np.ndarray:
    return _text(values) if values.dtype.kind in "OSU" else values.astype(np.float64)


def _text(values: Any) -> np.ndarray:
    decoded = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in np.asarray(values).ravel()]
    return np.array(decoded, np.str_)
