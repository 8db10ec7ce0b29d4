"""JAX's persistent compilation cache in the user's cache folder: a second start does not recompile.

JAX locks the cache, bounds its size and evicts entries. The keys contain the versions and the instruction set of the
processor, so machines may share the folder.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import jax
from jax._src.compilation_cache import decompress_executable
from jax.experimental.compilation_cache import compilation_cache

from jaxae.data.cache import folder

LARGEST = 1 << 30  # bytes


@contextmanager
def persistent_cache(largest: int = LARGEST) -> Iterator[None]:
    """Read compiled programs from the cache, and add new ones to it.

    Does nothing if JAX has a cache already (`JAX_COMPILATION_CACHE_DIR`) or the folder cannot be written.
    largest: size of the cache in bytes; the least recently used programs are removed first.
    """
    directory = folder() / "compiled"
    settings = {
        "jax_compilation_cache_dir": str(directory),
        "jax_compilation_cache_max_size": largest,
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_enable_xla_caches": "none",  # XLA's own caches have no size limit
    }
    before = {name: getattr(jax.config, name) for name in settings}
    if before["jax_compilation_cache_dir"] or not _repair(directory):
        yield
        return
    _set(settings)
    try:
        yield
    finally:
        _set(before)


def _set(settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX opens the configured cache only once


def _repair(directory: Path) -> bool:
    """Remove the entries that JAX could never replace. False if the folder cannot be written.

    A killed process or a full disk leaves a truncated entry, for which JAX warns and recompiles at every start, or an
    entry without access time, which prevents JAX from writing any other.
    """
    checked = directory / ".checked"  # modified when every entry was last known to be complete
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(directory / ".lockfile", timeout=10):  # JAX's own lock
            since = checked.stat().st_mtime_ns if checked.exists() else 0
            for entry in directory.glob("*-cache"):
                accessed = entry.with_name(entry.name.removesuffix("cache") + "atime")
                if not accessed.exists() or (entry.stat().st_mtime_ns >= since and not _complete(entry)):
                    entry.unlink()
            checked.touch()
    except OSError:
        return False
    return True


def _complete(entry: Path) -> bool:
    try:
        decompress_executable(entry.read_bytes())
    except Exception:  # zlib's or Zstandard's
        return False
    return True
