import os
import subprocess
import sys

import filelock
import jax
import jax.numpy as jnp
import pytest
from jax import monitoring

from jaxae.run import compiled

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_enable_xla_caches",
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder as the compilation cache of JAX."""
    monkeypatch.setenv("JAXAE_CACHE", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path / "compiled"
    jax.config.update("jax_compilation_cache_dir", before)


def hits(number, **options):
    """Number of cache hits when a function of this number is compiled."""
    events, zero = [], jnp.float32(0)
    monitoring.register_event_listener(listener := lambda name, **_: events.append(name))
    try:
        with compiled.persistent_cache(**options):
            assert float(jax.jit(lambda x: jnp.sin(x) * number + 1)(zero)) == 1
    finally:
        monitoring.unregister_event_listener(listener)
    return events.count("/jax/compilation_cache/cache_hits")


def entries(cache):
    return sorted(cache.glob("*-cache"))


def accessed(entry):
    return entry.with_name(entry.name.removesuffix("cache") + "atime")


def test_program_is_compiled_once(cache):
    assert hits(2) == 0
    assert len(entries(cache)) == 1
    assert hits(2) == 1
    assert hits(3) == 0
    assert len(entries(cache)) == 2


def test_settings_of_jax_are_restored(cache):
    before = [getattr(jax.config, name) for name in SETTINGS]
    with compiled.persistent_cache():
        assert [getattr(jax.config, name) for name in SETTINGS] != before
    assert [getattr(jax.config, name) for name in SETTINGS] == before
    with pytest.raises(KeyboardInterrupt), compiled.persistent_cache():
        raise KeyboardInterrupt
    assert [getattr(jax.config, name) for name in SETTINGS] == before


KILLED = """
import os
import signal
import sys

import jax
from jax._src import path

from jaxae.run import compiled


def write_bytes(file, data):
    write(file, data if sys.argv[1] == "True" else data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)


write, path.Path.write_bytes = path.Path.write_bytes, write_bytes
zero = jax.numpy.float32(0)
with compiled.persistent_cache():
    jax.jit(lambda x: jax.numpy.sin(x) * 2 + 1)(zero)
"""


@pytest.mark.parametrize("whole", [False, True])
def test_entry_of_a_process_killed_while_writing_is_replaced(cache, whole):
    """An unreadable entry would raise a warning, which is an error in this suite."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run([sys.executable, "-c", KILLED, str(whole)], env=environment, check=False)
    assert done.returncode == -9
    assert len(entries(cache)) == 1
    for number in (3, 2):
        hits(number)
        assert hits(number) == 1


def test_truncated_entry_that_was_read_is_replaced(cache):
    """The entry has a file with an access time, written when another process read the entry."""
    hits(2)
    (entry,) = entries(cache)
    entry.write_bytes(entry.read_bytes()[:-100])
    assert accessed(entry).exists()
    assert hits(2) == 0
    assert hits(2) == 1


def test_complete_entry_is_not_verified_again(cache):
    hits(2)
    (entry,) = entries(cache)
    os.truncate(entry, 10)
    os.utime(entry, (0, 0))
    with compiled.persistent_cache():
        assert entry.exists()


def test_least_recently_used_entries_are_removed(cache):
    hits(2)
    hits(3)
    size = sum(entry.stat().st_size for entry in entries(cache))
    assert hits(2) == 1
    assert hits(4, largest=size * 5 // 4) == 0
    assert (hits(2), hits(4), hits(3)) == (1, 1, 0)


def test_unwritable_cache_is_not_used(tmp_path, monkeypatch, cache):
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAXAE_CACHE", str(tmp_path / "file"))
    assert hits(2) == hits(2) == 0


def test_locked_cache_is_not_used(cache, monkeypatch):
    cache.mkdir()
    wait = filelock.FileLock
    monkeypatch.setattr(filelock, "FileLock", lambda path, timeout: wait(path, timeout=0.1))
    program = "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(flush=True); input()"
    command = [sys.executable, "-c", program, str(cache / ".lockfile")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert hits(2) == 0
        other.communicate(b"\n")
    assert entries(cache) == []


def test_cache_configured_by_the_user_is_kept(tmp_path, cache):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    with compiled.persistent_cache():
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
    assert not cache.exists()
