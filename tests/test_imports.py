import ast
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# In the order of jaxae/README.md: each module may import those before it.
LAYERS = re.findall(r"^\d+\. `(\w+)`", (ROOT / "jaxae" / "README.md").read_text(), re.MULTILINE)
HEAVY = ("tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "scipy.stats", "torch", "tensorboardX", "PIL")


def imported(path):
    """Modules of jaxae that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxae":
            rest = node.module.split(".")[1:]
            yield from [rest[0]] if rest else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("jaxae.")]


def test_each_module_imports_only_those_before_it_in_the_list():
    entries = [ROOT / "jaxae" / name for name in ("__init__.py", "__main__.py")]
    files = [path for path in (ROOT / "jaxae").rglob("*.py") if path not in entries]
    of = {path: path.relative_to(ROOT / "jaxae").parts[0].removesuffix(".py") for path in files}
    assert set(of.values()) == set(LAYERS)
    for path, layer in of.items():
        assert set(imported(path)) <= {*LAYERS[: LAYERS.index(layer)], layer}, path


def test_every_folder_has_a_readme():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for folder in {(ROOT / file).parent for file in tracked if not file.startswith(".")}:
        assert (folder / "README.md").exists(), folder


def test_no_experiment_has_the_name_of_a_command():
    commands = {path.stem for path in (ROOT / "jaxae" / "commands").glob("[a-z]*.py")}
    assert not commands & {path.stem for path in (ROOT / "experiments").glob("*.py")}


def test_library_does_not_import_experiments():
    for path in (ROOT / "jaxae").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {name.split(".")[0] for name in names} & {"experiments", "scripts", "tests"}, path


def test_each_third_party_api_is_used_in_one_file():
    for words, owner in (
        (("orbax",), "checkpoint.py"),
        (("pmap(", "shard_map", "NamedSharding", "Mesh("), "plan.py"),
        (("jax.distributed", "multihost_utils"), "processes.py"),
        (("tyro",), "command_line.py"),  # and help and commands, for the options of arguments
    ):
        for path in (ROOT / "jaxae").rglob("*.py"):
            code = path.read_text().replace('"orbax-checkpoint"', "")
            allowed = path.name == owner or (
                "tyro" in words and (path.name == "help.py" or path.parent.name == "commands")
            )
            assert allowed or not any(word in code for word in words), path


def loaded(statement):
    program = f"import sys; {statement}; print(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )


def test_import_loads_no_heavy_package():
    assert not loaded("import jaxae") & {"jax", "numpy", *HEAVY}
    assert not loaded("from jaxae import load") & set(HEAVY)


USE = """
import contextlib
import importlib
import json
import logging
import os
import pkgutil
import sys
import tempfile
import warnings
from pathlib import Path


def use():
    import jaxae
    from jaxae import data
    from jaxae.training.checkpoint import Checkpoints

    for module in pkgutil.walk_packages(jaxae.__path__, "jaxae."):
        importlib.import_module(module.name)
    with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder)) as checkpoints:
        assert checkpoints.restore({}) is None
    with contextlib.suppress(ValueError):
        data.load("no-such-set")


def state():
    loggers = {}
    for name in sorted(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        handlers, filters = map(str, logger.handlers), map(str, logger.filters)
        loggers[name] = [logger.level, logger.disabled, logger.propagate, *handlers, *filters]
    root = [logging.root.level, logging.root.manager.disable, *map(str, logging.root.handlers)]
    return {"loggers": loggers, "root": root, "warnings": [str(f) for f in warnings.filters], "env": dict(os.environ)}


for name in json.load(sys.stdin):
    with contextlib.suppress(Exception):
        importlib.import_module(name)
before, known = state(), set(sys.modules)
use()
after, ours = state(), {name for name in sys.modules if name.split(".")[0] == "jaxae"}
print(json.dumps([before, after, sorted(ours), [name for name in sys.modules if name not in ours | {"__main__"}]]))
"""


def used(modules):
    """State of the process before and after using jaxae, the modules of jaxae, and other modules."""
    given = json.dumps(modules)
    done = subprocess.run([sys.executable, "-c", USE], input=given, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_library_changes_no_logger_warning_or_environment():
    """Third-party packages, which do, are imported first."""
    *_, others = used([])
    before, after, ours, _ = used(others)
    assert len(ours) > 90
    own = {name: [0, False, True] for name in after["loggers"] if name not in before["loggers"]}
    assert after == {**before, "loggers": {**before["loggers"], **own}}
    assert {name.split(".")[0] for name in own} <= {"jaxae"}
