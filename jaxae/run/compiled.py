"""Compiled programs, kept in the user's cache folder, so that the next start need not compile them again.

JAX writes an entry in place, where another process, or the next one after a kill, finds half of it. So each process
has a folder of its own with links to what there is, and at its end moves what is new, and whole, into the common one.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import jaxlib
from jax._src import compilation_cache

from jaxae.data.cache import folder

LARGEST = 1 << 30  # bytes
SETTINGS = {
    "jax_compilation_cache_dir": None,
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_enable_xla_caches": "none",  # which would put the folder's name into every key
}
MINUTE = 60  # seconds that a process has, at its start, to lock its folder


@contextmanager
def kept(largest: int = LARGEST) -> Iterator[None]:
    """Read compiled programs from the cache, and add new ones to it at the end.

    Does nothing if JAX has a cache already (`JAX_COMPILATION_CACHE_DIR`) or the folder cannot be written.
    largest: size of the cache in bytes; the oldest programs are removed first.
    """
    common = folder() / "compiled" / _machine()
    own = None
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    if not before["jax_compilation_cache_dir"]:
        with suppress(OSError):
            common.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=".", dir=common))
            lock, own = _locked(made), made
    if own is None:
        yield
        return
    for path in common.iterdir():
        with suppress(OSError):  # another process removes what is old
            if not path.name.startswith("."):
                os.link(path, own / path.name)
            elif path != own and time.time() - path.stat().st_mtime > MINUTE:
                os.close(_locked(path))
                shutil.rmtree(path)  # of a process that was killed
    _set(SETTINGS | {"jax_compilation_cache_dir": str(own)})
    try:
        yield
    finally:
        _set(before)
        with suppress(OSError):
            for path in own.iterdir():
                if not (common / path.name).exists() and _whole(path):
                    path.replace(common / path.name)
        shutil.rmtree(own, ignore_errors=True)
        os.close(lock)
        _forget_oldest(common, largest)


def _locked(directory: Path) -> int:
    """A descriptor that holds the lock of the directory. OSError where another process does."""
    opened = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(opened)
        raise
    return opened


def _whole(path: Path) -> bool:
    """Whether an entry is: where the disk was full, or a signal came, JAX leaves a part."""
    try:
        compilation_cache.decompress_executable(path.read_bytes())
    except Exception:  # of whichever library compresses
        return False
    return True


def _set(settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def _forget_oldest(common: Path, largest: int) -> None:
    with suppress(OSError):
        files = [(path.stat(), path) for path in common.iterdir() if path.is_file()]
        size = 0
        for stat, path in sorted(files, key=lambda pair: -pair[0].st_mtime):
            size += stat.st_size
            if size > largest:
                path.unlink()


def _machine() -> str:
    """Another name for other processors, whose programs cannot run here, and other versions."""
    lines: set[str] = set()
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(errors="replace")
        lines = {line for line in text.splitlines() if line.startswith(("model name", "flags", "Features", "CPU "))}
    said = "\n".join([*sorted(lines), *os.uname()[3:], jax.__version__, jaxlib.__version__])
    return hashlib.sha256(said.encode()).hexdigest()[:16]
