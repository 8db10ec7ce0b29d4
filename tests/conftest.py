"""Strict mode for all tests: implicit broadcasting raises, warnings are errors, 64-bit is off."""

import fcntl
import gc
import importlib.util
import json
import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMPILED = ROOT / ".pytest_cache" / "compiled"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# One compilation cache for all workers and subprocesses, kept for the next run; cached programs give the same bits.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import config

from jaxae import data, run
from jaxae.core.batch import Batch, Layout
from jaxae.core.types import State
from jaxae.measure import classifier
from jaxae.training.trained import Trained

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_enable_x64", False)
jax.config.update("jax_legacy_prng_key", "error")

HOSTILE = "</script><script>document.title = 'taken'</script>'\"&<img src=x onerror=\"document.title = 'taken'\">"
MNIST = Path(os.environ.get("JAXAE_DATA", ROOT.parent / "shared" / "data")) / "mnist"


# Tracing creates many objects and few cycles: a tenth of a test's time was garbage collection.
gc.set_threshold(100_000, 50, 50)


def pytest_configure(config):
    """Halve the compile time of the default suite: no LLVM optimization, no MLIR fusion emitters.

    Any other selection also checks in each of its tests that no key is used twice; the default suite checks it in those
    of `key_reuse` only.
    """
    jax.config.update("jax_debug_key_reuse", config.option.markexpr != "not slow")
    if config.option.markexpr == "not slow":
        flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
        flags += " --xla_cpu_use_fusion_emitters=false"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"


def pytest_sessionstart(session):
    """Empty the compilation cache when it exceeds 2 GiB."""
    if not hasattr(session.config, "workerinput"):
        COMPILED.mkdir(parents=True, exist_ok=True)
        if sum(file.stat().st_size for file in COMPILED.iterdir()) > 2 << 30:
            shutil.rmtree(COMPILED)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Isolate every test and module fixture from the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXAE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(scope="session")
def mnist():
    """Folder of the four original MNIST files."""
    if not MNIST.is_dir():
        pytest.skip(f"no MNIST in {MNIST}: set JAXAE_DATA to the folder that holds mnist/")
    return MNIST


@pytest.fixture(scope="session")
def digit_weights(tmp_path_factory):
    """Weights of the classifier after 6 epochs on the digits, trained once for all workers."""
    base, digits = tmp_path_factory.getbasetemp(), data.load("digits")
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "digit_classifier.npz"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            classifier.save(path, classifier.train(digits, 6))
    return classifier.load(path, digits)


def script(name):
    """Import a module of `scripts/`."""
    path = ROOT / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def sparse_run(tmp_path_factory):
    """A run of `topk` with two seeds, on activations of 20 lines of a text with a hostile token."""
    folder = tmp_path_factory.mktemp("sparse")
    rng, count = np.random.default_rng(0), 200
    arrays = {
        "activations": rng.normal(size=(count, 6)).astype(np.float16),
        "tokens": rng.integers(0, 4, count).astype(np.int32),
        "positions": (np.arange(count) % 10).astype(np.int32),
        "lines": (np.arange(count) // 10).astype(np.int32),
    }
    (folder / "activations").mkdir()
    for name, array in arrays.items():
        np.save(folder / "activations" / f"{name}.npy", array)
    for name, value in (("vocabulary", ["[CLS]", "the", HOSTILE, "##s"]), ("activations", {})):
        (folder / "activations" / f"{name}.json").write_text(json.dumps(value))
    topk = importlib.import_module("jaxae.experiments.topk")
    options = {"latent": 12, "active": 3, "epochs": 1, "batch_size": 50, "seeds": 2, "figures": "none"}
    x = str(folder / "activations" / "activations.npy")
    return run.train(topk.Config(data=x, workdir=str(folder / "run"), **options), topk.build, "topk")


def call(name, *arguments):
    """Exit code of a `jaxae` command."""
    command = importlib.import_module(f"jaxae.commands.{name}")
    with pytest.raises(SystemExit) as ended:
        command.main([*map(str, arguments)])
    return ended.value.code


def copy_repository(folder):
    """Copy the files of the repository that git does not ignore into this folder; links stay links."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("needs a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)


def batch(x, weight=None, mask=None, training=True, layout=Layout()):  # noqa: B008
    """A global batch of these examples, with indices from 0, at step 0."""
    n = len(x)
    return Batch(
        jnp.asarray(x),
        jnp.asarray(np.arange(n, dtype=np.int32)),
        jnp.asarray(np.ones(n) if weight is None else weight, jnp.float32),
        jnp.int32(0),
        observed=mask,
        y=jnp.asarray(np.full(n, -1, np.int32)),
        training=training,
        layout=layout,
    )


def trained(experiment, params, extra, shape):
    """A trained model with these parameters."""
    return Trained(experiment, State(jnp.int32(0), params, (), extra), shape)


def new_key():
    """A fresh copy of one fixed key, which the key-reuse checker counts as unused."""
    return jax.random.key(0)


@partial(jax.jit, static_argnums=(0, 1))
def compiled(record, method, *arguments):
    """Result of a method of a hashable record, such as a likelihood, as one program in place of one per operation."""
    return getattr(record, method)(*arguments)


@partial(jax.jit, static_argnums=0, static_argnames="method")
def apply(net, variables, *inputs, method=None):
    """Outputs of a method of a network, as one program."""
    return net.apply(variables, *inputs, method=method)


def initial(net, *inputs):
    """Initial variables of a network, as one program."""
    return compiled(net, "init", new_key(), *inputs)


def evaluated(loss, variables, examples, key=None):
    """Terms and updates of a loss, computed as one program, as NumPy arrays."""
    return jax.tree.map(np.asarray, _call(loss, variables, examples, new_key() if key is None else key))


@partial(jax.jit, static_argnums=0)
def _call(function, *arguments):
    return function(*arguments)


def equal(a, b):
    """Whether two trees are equal bit for bit."""
    a, b = (jax.tree.map(np.asarray, tree) for tree in (a, b))
    same = jax.tree.map(lambda u, v: u.dtype == v.dtype and u.shape == v.shape and u.tobytes() == v.tobytes(), a, b)
    return jax.tree.structure(a) == jax.tree.structure(b) and all(jax.tree.leaves(same))


@pytest.fixture
def key_reuse():
    """Raise an error for a key that is used twice; the check takes a seventh of the time of tracing."""
    with jax.debug_key_reuse(True):
        yield


@pytest.fixture
def untyped():
    """Disable the suite's runtime type checks, which would reject such arguments before the library does."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
