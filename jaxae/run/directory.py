"""The run directory: its lock, and `config.json`, the description of the run."""

import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxae.core.types import Conditions, Info, Scale
from jaxae.data import Dataset
from jaxae.errors import DAMAGED, InputError
from jaxae.run import command_line
from jaxae.run import config as configs
from jaxae.run.config import Config
from jaxae.training.checkpoint import newest_digests
from jaxae.training.records import write_json

RUN_FILES = (
    "metrics.jsonl",
    "result.json",
    "report.html",
    "checkpoints",
    "diverged",
    "tensorboard",
    "tracking.json",
    "figures",
    "scores",
    "config.json",
)
LOCK = ".lock"


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Lock the directory exclusively; the lock ends with its process. InputError if another process holds it.

    Warns if the file system does not support locks.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / LOCK).open("a")
    except OSError as error:
        raise InputError(f"workdir={workdir} cannot be written ({error.strerror}); use another") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"workdir={workdir} is in use by another process; wait until it ends, or use another workdir"
            ) from None
        except OSError:
            warning = "%s: the file system does not support locks; do not start a second run in this directory"
            logging.getLogger("jaxae").warning(warning, workdir)
        yield


def prepare(workdir: Path, config: Config, description: dict[str, Any], outdated: Sequence[Path] = ()) -> None:
    """Write config.json, or check that the directory holds this run. InputError if it cannot be used.

    outdated: files to delete, if the directory holds this run with fewer epochs.
    """
    file = workdir / "config.json"
    try:
        if links := [
            name for name in (*RUN_FILES, "checkpoints/*") for path in workdir.glob(name) if path.is_symlink()
        ]:
            raise InputError(
                f"workdir={workdir}: {links[0]} is a link, but a run writes only into its own directory; remove it"
            )
        for name in RUN_FILES:
            (workdir / f"{name}.tmp").unlink(missing_ok=True)  # left by a run that was killed while writing
        if file.exists():
            old = read(file)
            if outdated:
                for path in outdated:
                    path.unlink(missing_ok=True)
                source = {"init_from": old["init_from"]} if "init_from" in old else {}
                return write_json(file, {**description, **source})
            if not config.overwrite:
                return _same_run(workdir, old, description)
            for path in (workdir / name for name in RUN_FILES):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        elif any(path.name != LOCK for path in workdir.iterdir()):
            raise InputError(f"workdir={workdir} is not empty and holds no run; use another")
        write_json(file, description)
    except OSError as error:
        raise InputError(f"workdir={workdir} cannot be written ({error.strerror}); use another") from None


def read(file: Path) -> dict[str, Any]:
    """Read the config.json of `describe`. InputError for other content."""
    if not file.is_file():
        raise InputError(f"{file.parent} holds no run: there is no config.json; check the path")
    try:
        saved = json.loads(file.read_text())
        name, fields, about, parts = saved["experiment"], saved["config"], saved["data"], ("versions", "device")
        if not (
            isinstance(name, str)
            and isinstance(saved["command"], str)
            and isinstance(fields, dict)
            and isinstance(about["fingerprint"], str)
            and all(isinstance(saved[part], dict) for part in parts)
        ):
            raise TypeError("wrong types")
        if not all(type(size) is int and 0 < size < 2**31 for size in (*about["shape"], about["train"])):
            raise TypeError("wrong shape")
    except DAMAGED as error:
        raise InputError(f"{file} describes no run ({error!r}); use another directory") from None
    return saved


def difference(old: dict[str, Any], new: dict[str, Any], ignored: Sequence[str] = configs.PLACE) -> str:
    """The differences of two descriptions, except in the `ignored` fields; empty if there are none."""
    if old["experiment"] != new["experiment"]:
        return f"{old['experiment']} there, {new['experiment']} here"
    if old.get("program") != new.get("program"):
        return f"the model, the loss or the optimizer of {old['experiment']} has changed"
    differ = configs.differences(old["config"], new["config"], ignored)
    return differ or ("the data have changed" if old["data"]["fingerprint"] != new["data"]["fingerprint"] else "")


def _same_run(workdir: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    if differ := difference(old, new):
        raise InputError(
            f"workdir={workdir} holds another run: {differ}; use another workdir, or overwrite=True to start again"
        )


def describe(config: Config, name: str, dataset: Dataset, program: str = "") -> dict[str, Any]:
    """Contents of `config.json`, which suffice to repeat the run. program: a hash of its computation."""
    packages = ("jaxae", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    devices = jax.devices()
    return {
        "experiment": name,
        **({"program": program} if program else {}),
        **_source(config),
        "config": configs.to_json(config),
        "command": "" if program else command_line.command(config, name),
        "versions": {"python": sys.version.split()[0], **{p: importlib.metadata.version(p) for p in packages}},
        "device": {
            "kind": devices[0].device_kind,
            "platform": devices[0].platform,
            "count": len(devices),
            "cores": os.cpu_count(),
        },
        "git": _commit(),
        "data": {
            "fingerprint": dataset.fingerprint(),
            "shape": list(dataset.shape),
            "train": len(dataset.train.x),
            "test": len(dataset.test.x),
            **({} if dataset.valid is None else {"valid": len(dataset.valid.x)}),
            "classes": list(dataset.classes),
            **({} if dataset.info.labelled in (0, len(dataset.train.x)) else {"labelled": dataset.info.labelled}),
            **_units(dataset),
            **_covariates(dataset),
        },
    }


def _units(dataset: Dataset) -> dict[str, Any]:
    """Kind and scale of data other than images of bytes, which `info_of` and `scale_of` read."""
    if dataset.kind == "image" and not dataset.real and dataset.scale is None and dataset.train.observed is None:
        return {}
    return {
        "kind": dataset.kind,
        "real": dataset.real,
        "from_bytes": dataset.from_bytes,
        "missing": dataset.train.observed is not None,
        "scale": _as_json(dataset.scale),
        "features": list(dataset.features),
        "sample_rate": dataset.sample_rate,
        **({} if dataset.total is None else {"total": dataset.total}),
    }


def _covariates(dataset: Dataset) -> dict[str, Any]:
    """Names and scale of the covariates, which `conditions_of` reads."""
    if not dataset.covariates:
        return {}
    return {"covariates": list(dataset.covariates), "context_scale": _as_json(dataset.context_scale)}


def _as_json(scale: Scale | None) -> dict[str, list[float]] | None:
    return None if scale is None else {name: part.tolist() for name, part in scale._asdict().items()}


def info_of(saved: dict[str, Any]) -> Info:
    """The properties of the data of a config.json."""
    about = saved["data"]
    real, missing = (bool(about.get(name, False)) for name in ("real", "missing"))
    total = None if about.get("total") is None else float(about["total"])
    conditions = conditions_of(saved)
    return Info(
        tuple(about["shape"]),
        about["train"],
        real=real,
        missing=missing,
        total=total,
        classes=len(conditions.classes),
        context=len(conditions.covariates),
        labelled=about.get("labelled", about["train"] if conditions.classes else 0),
    )


def scale_of(saved: dict[str, Any]) -> Scale | None:
    """The scale of the data of a config.json."""
    return _scale(saved, "scale")


def conditions_of(saved: dict[str, Any]) -> Conditions:
    """Classes and covariates of the data of a config.json."""
    classes, covariates = (tuple(saved["data"].get(name, ())) for name in ("classes", "covariates"))
    return Conditions(classes, covariates, _scale(saved, "context_scale"))


def _scale(saved: dict[str, Any], name: str) -> Scale | None:
    scale = saved["data"].get(name)
    return None if scale is None else Scale(*(np.array(scale[name], np.float64) for name in Scale._fields))


def _source(config: Config) -> dict[str, str]:
    """A hash of the checkpoint that training starts from; empty if that run no longer exists, as may be on resuming."""
    if config.init_from:
        with suppress(InputError):
            leaves = newest_digests(Path(config.init_from) / "checkpoints")
            return {"init_from": hashlib.sha256(json.dumps(leaves, sort_keys=True).encode()).hexdigest()}
    return {}


def _commit() -> str | None:
    """The Git commit of the checkout of this package; None outside of a checkout, or without Git."""
    package = Path(__file__).parents[1]
    ask = ["git", "rev-parse", "--show-toplevel", "HEAD"]
    try:
        found = subprocess.run(ask, cwd=package, capture_output=True, text=True, check=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        return None
    return found[1] if Path(found[0]) == package.parent else None
