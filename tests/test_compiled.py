import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax import monitoring
from jax._src.lru_cache import LRUCache

from jaxae.run import compiled


@pytest.fixture
def common(tmp_path, monkeypatch):
    """The common folder of an empty cache, of which JAX has no other."""
    monkeypatch.setenv("JAXAE_CACHE", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path / "compiled" / compiled._machine()
    jax.config.update("jax_compilation_cache_dir", before)


def hits(number, **how):
    """Compile, in a new function, what is the same program for the same number: how often the cache had it."""
    events, zero = [], jnp.float32(0)
    monitoring.register_event_listener(listener := lambda name, **_: events.append(name))
    try:
        with compiled.kept(**how):
            assert float(jax.jit(lambda x: jnp.sin(x) * number + 1)(zero)) == 1
    finally:
        monitoring.unregister_event_listener(listener)
    return events.count("/jax/compilation_cache/cache_hits")


def test_a_program_is_compiled_once(common):
    assert hits(2) == 0
    entries = sorted(common.iterdir())
    assert len(entries) == 1
    assert hits(2) == 1
    assert hits(3) == 0
    assert len(list(common.iterdir())) == 2
    assert jax.config.jax_compilation_cache_dir is None


def process(program):
    """The exit code of a Python in which JAX has no other cache."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    return subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode


PROGRAM = """
import os, jax
from jaxae import compiled
with compiled.kept():
    jax.jit(lambda x: jax.numpy.sin(x) * 2 + 1)(jax.numpy.float32(0)).block_until_ready()
    os._exit(9)
"""


def test_what_a_killed_process_has_written_is_not_seen(common):
    assert process(PROGRAM) == 9
    (left,) = common.iterdir()
    assert left.name.startswith(".")
    assert list(left.iterdir())
    assert hits(2) == 0
    assert left.exists()  # it may be that of a process that begins
    os.utime(left, (0, 0))
    assert hits(2) == 1
    assert not left.exists()


def test_a_folder_of_a_process_at_work_is_left_alone(common):
    with compiled.kept():
        (own,) = common.iterdir()
        os.utime(own, (0, 0))
        assert process("from jaxae import compiled\nwith compiled.kept(): pass") == 0
        assert own.exists()
    assert not own.exists()


def test_half_an_entry_is_not_kept(common, monkeypatch):
    """As when the disk is full."""
    put = LRUCache.put
    monkeypatch.setattr(LRUCache, "put", lambda cache, key, value: put(cache, key, value[: len(value) // 2]))
    hits(2)
    assert list(common.iterdir()) == []


def test_the_newest_are_kept(common):
    hits(2)
    (old,) = common.iterdir()
    os.utime(old, (0, 0))
    hits(3, largest=old.stat().st_size * 3 // 2)
    assert not old.exists()
    assert len(list(common.iterdir())) == 1


def test_where_nothing_can_be_written_programs_are_compiled_as_ever(tmp_path, monkeypatch, common):
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAXAE_CACHE", str(tmp_path / "file"))
    assert hits(2) == hits(2) == 0


def test_a_cache_of_the_users_own_is_left_alone(tmp_path, common):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    with compiled.kept():
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
    assert not common.exists()


def test_other_processors_have_another_folder(common, monkeypatch):
    here = compiled._machine()
    monkeypatch.setattr(os, "uname", lambda: ("Linux", "host", "1", "2", "other"))
    assert compiled._machine() != here
