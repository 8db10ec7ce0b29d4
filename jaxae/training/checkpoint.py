"""Checkpoints. No other file uses Orbax.

Orbax writes atomically but stores no checksum of array data, so a SHA-256 of every leaf is stored with it and verified
on reading: a damaged checkpoint is reported, and the newest intact one is used.
"""

import errno
import hashlib
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxae.errors import InputError, first_line

Items = dict[str, Any]  # name -> tree of arrays


class OtherArrays(InputError):
    """An intact checkpoint whose arrays differ from the expected ones. differences: a line for each array."""

    def __init__(self, step: int, differences: list[str]) -> None:
        super().__init__(
            f"checkpoint {step} was written by different code: {differences[0]}; use that code, or overwrite=True "
            "to start again"
        )
        self.differences = differences


class Checkpoints:
    """The checkpoints of one run. A context manager: leaving it waits for the last save."""

    def __init__(self, directory: Path, read_only: bool = False) -> None:
        self._directory = directory
        self._read_only = read_only
        self._saving = threading.Lock()
        if not read_only:
            directory.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2,
            cleanup_tmp_directories=not read_only,
            create=False,
            multiprocessing_options=ocp.options.MultiprocessingOptions(active_processes={jax.process_index()}),
        )
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)
        self._identity = None if read_only else directory.stat()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with suppress(Exception) if error else self._writing():  # report the first error only
            self._manager.wait_until_finished()
            self._manager.close()

    def save(self, step: int, items: Items, meta: dict[str, Any], wait: bool = False) -> None:
        """Save in the background, or with `wait` before returning; skip a step already saved with these arrays.

        meta: JSON values. OSError if this checkpoint or the previous one could not be written.
        """
        with self._saving, self._writing():
            host = jax.device_get(items)
            if step == self._manager.latest_step():
                self._manager.wait_until_finished()
                if self._meta(step)["sha256"] != digests(host):  # saved before the evaluation, now after it
                    self._manager.delete(step)
            if step != self._manager.latest_step():
                meta = {"step": step, "meta": meta, "leaves": leaves(host), "sha256": digests(host)}
                arrays = {name: ocp.args.StandardSave(tree) for name, tree in host.items()}
                self._manager.save(
                    step, args=ocp.args.Composite(meta=ocp.args.JsonSave({**meta, "seal": _seal(meta)}), **arrays)
                )
            if wait:
                self._manager.wait_until_finished()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # TensorStore reports a disk error in a long ValueError
            number = re.search(r"os_error_code='(\d+)'", first_line(error, 3000))
            code = self._trouble() or int(number[1] if number else 0)
            reason = (code != errno.EROFS and getattr(error, "strerror", None)) or (os.strerror(code) if code else "")
            if not reason:
                raise
            raise OSError(None, reason, str(self._directory)) from None

    def _trouble(self) -> int:
        """The errno of a directory that is lost (Orbax may have recreated it) or read-only; 0 otherwise."""
        try:
            if os.statvfs(self._directory).f_flag & os.ST_RDONLY:
                return errno.EROFS
            same = self._identity is None or os.path.samestat(self._identity, self._directory.stat())
            return 0 if same else errno.ENOENT
        except OSError:
            return errno.ENOENT

    @property
    def empty(self) -> bool:
        """Whether there is no checkpoint, not even a damaged one."""
        return self._manager.latest_step() is None

    def restore(self, abstract: Items, skip: tuple[str, ...] = ()) -> tuple[Items, dict[str, Any]] | None:
        """The newest intact checkpoint as (items, meta); None if there is none.

        abstract: the items as trees of jax.ShapeDtypeStruct. skip: prefixes of the paths of arrays that `abstract` may
        lack and that are not restored, for reading only. Damaged checkpoints are reported, and deleted unless this is
        read-only, since Orbax saves no step before the latest. OtherArrays, an InputError, if the arrays of the newest
        intact one differ, as after a change of the code.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                return self._restore(step, abstract, skip)
            except InputError:
                raise
            except Exception as error:  # Orbax and TensorStore raise many types of exceptions for damaged files
                logging.getLogger("jaxae").warning(
                    "checkpoint %d is damaged and is not used (%s)", step, first_line(error)
                )
                if not self._read_only:
                    self._manager.delete(step)
        return None

    def newest_digests(self) -> dict[str, str]:
        """Like the function `newest_digests`."""
        step = self._manager.latest_step()
        return {} if step is None else {**self._meta(step)["sha256"], "step": str(step)}

    def _meta(self, step: int) -> dict[str, Any]:
        meta: dict[str, Any] = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        return meta

    def _restore(self, step: int, abstract: Items, skip: tuple[str, ...]) -> tuple[Items, dict[str, Any]]:
        meta = self._meta(step)
        seal = meta.pop("seal")
        if seal != _seal(meta) or meta["step"] != step:
            raise ValueError("meta does not match its SHA-256, or its step")
        ours = leaves(abstract)
        there = {path: kind for path, kind in meta["leaves"].items() if path.split("/")[0] in abstract}
        if skip:
            there = {path: kind for path, kind in there.items() if path in ours or not path.startswith(skip)}
        if other := [path for path in {**ours, **there} if there.get(path) != ours.get(path)]:
            raise OtherArrays(
                step,
                [f"{path} is {there.get(path, 'missing')} there, {ours.get(path, 'missing')} here" for path in other],
            )
        # NumPy arrays, since the state may exceed one device; broadcasting stores a single number for each.
        hosts = jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), abstract)
        arrays = {name: _some(tree) if skip else ocp.args.StandardRestore(tree) for name, tree in hosts.items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**arrays))
        items = {name: restored[name] for name in abstract}
        if wrong := [path for path, value in digests(items).items() if meta["sha256"].get(path) != value]:
            raise ValueError(f"{wrong[0]} does not match its SHA-256")
        return items, meta["meta"]


class NoCheckpoints:
    """Null object of `Checkpoints`, for processes that do not write."""

    def __enter__(self) -> "NoCheckpoints":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def save(self, step: int, items: Items, meta: dict[str, Any], wait: bool = False) -> None:
        """Like `Checkpoints.save`."""


def newest_digests(directory: Path) -> dict[str, str]:
    """SHA-256 of every leaf of the newest checkpoint, and its step; empty if there is none.

    InputError if it is damaged.
    """
    try:
        with Checkpoints(directory, read_only=True) as checkpoints:
            return checkpoints.newest_digests()
    except Exception as error:  # as in `restore`
        raise InputError(f"{directory}: the newest checkpoint is damaged ({first_line(error)})") from None


def leaves(items: Items) -> dict[str, str]:
    """Dtype and shape of every leaf, by path."""
    return _by_path(items, lambda leaf: f"{leaf.dtype}{list(leaf.shape)}")


def digests(items: Items) -> dict[str, str]:
    """SHA-256 of every leaf, by path."""
    return _by_path(items, lambda leaf: hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest())


def _some(tree: Any) -> ocp.args.PyTreeRestore:
    """Restore only these arrays of an item. Orbax then cannot save the item with `StandardSave`."""
    how = ocp.checkpoint_utils.construct_restore_args(tree)
    return ocp.args.PyTreeRestore(tree, restore_args=how, partial_restore=True)


def _by_path(items: Items, describe: Callable[[Any], str]) -> dict[str, str]:
    pairs = jax.tree_util.tree_leaves_with_path(items)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): describe(leaf) for path, leaf in pairs}


def _seal(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True, allow_nan=False).encode()).hexdigest()
