"""What the code must not do anywhere: run what it reads, or unpack what it has not checked."""

import ast
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("jaxae", "experiments", "scripts") for path in (ROOT / folder).rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {"eval", "exec", "compile", "__import__"}


def offences(source):
    """Lines that run code from data: pickles, eval and exec, archives unpacked without a filter."""
    tree = ast.parse(source)
    ours = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            if {name.split(".")[0] for name in names} & MODULES:
                yield node.lineno
        elif isinstance(node, ast.Call):
            function = node.func
            name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
            keywords = {word.arg: word.value for word in node.keywords}
            allowed = keywords.get("allow_pickle")
            numpy = ast.unparse(function).startswith(("np.", "numpy."))
            bad = (
                isinstance(function, ast.Name) and name in CALLS - ours,
                allowed is not None and not (isinstance(allowed, ast.Constant) and allowed.value is False),
                name in ("extractall", "extract", "unpack_archive")
                and ast.unparse(keywords.get("filter", tree)) != "'data'",
                numpy and name in ("load", "read_array") and allowed is None,
                "shell" in keywords,
            )
            if any(bad):
                yield node.lineno


def test_no_code_runs_what_it_reads():
    assert len(FILES) > 50
    for path in FILES:
        assert list(offences(path.read_text())) == [], path


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "exec(text)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "np.load(path)",
        "tarfile.open(path).extractall(folder)",
        "shutil.unpack_archive(path)",
        "archive.extractall(folder, filter='fully_trusted')",
        "subprocess.run(line, shell=True)",
    ],
)
def test_offences_are_found(line):
    assert list(offences(f"x = 1\n{line}")) == [2]


@pytest.mark.parametrize("line", ["model.eval()", "jax.eval_shape(f)", "archive.extractall(folder, filter='data')"])
def test_harmless_calls_are_no_offences(line):
    assert list(offences(line)) == []


def test_key_reuse_is_an_error_in_every_test():
    """A key that is used twice, or one of the old kind, is an error wherever a test runs."""
    key = jax.random.key(0)
    jax.random.normal(key)
    with pytest.raises(jax.errors.KeyReuseError):
        jax.random.uniform(key)
    with pytest.raises(ValueError, match="Legacy"):
        jax.random.normal(jax.random.PRNGKey(0))
