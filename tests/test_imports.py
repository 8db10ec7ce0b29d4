import ast
import json
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
# In the order of jaxae/README.md: each module may import those before it.
LAYERS = re.findall(r"^\d+\. `(\w+)`", (ROOT / "jaxae" / "README.md").read_text(), re.MULTILINE)
HEAVY = ("tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "scipy.stats", "torch", "tensorboardX", "PIL")


def module(path):
    """The full name of the module in a file; experiments are in jaxae.experiments."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] in ("jaxae", "scripts") else ("jaxae", *parts)).removesuffix(".__init__")


FILES = {module(path): path for name in ("jaxae", "experiments", "scripts") for path in (ROOT / name).rglob("*.py")}


def imported(code):
    """The modules that this code imports anywhere; of `from a import b`, a.b if that is a module, else a."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from names & FILES.keys()
            if names - FILES.keys():
                yield "." * node.level + (node.module or "")
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


IMPORTS = {name: set(imported(path.read_text())) for name, path in FILES.items()}


def layer(name):
    """The entry of a module in the list; `jaxae` itself has the names of `run`."""
    first, *rest = name.split(".")
    return first if first == "scripts" else rest[0] if rest else "run"


def test_each_module_imports_only_those_before_it_in_the_list():
    files = {name: found for name, found in IMPORTS.items() if name not in ("jaxae", "jaxae.__main__")}
    assert {layer(name) for name in files} == set(LAYERS)
    for name, found in files.items():
        layers = {layer(other) for other in found if other.split(".")[0] in ("jaxae", "scripts")}
        assert layers <= {*LAYERS[: LAYERS.index(layer(name)) + 1]}, name


def cycle(imports):
    """Modules each of which imports the next, from one module back to itself; none without a cycle."""
    try:
        TopologicalSorter({name: found & imports.keys() for name, found in imports.items()}).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_imports_have_no_cycle():
    """Neither at the top of the file nor within a function."""
    assert cycle(IMPORTS) == []
    held_open = "def load():\n    from jaxae.data import files"
    example = {"jaxae.data": held_open, "jaxae.data.files": "from jaxae.data import Dataset"}
    assert len(cycle({name: set(imported(code)) for name, code in example.items()})) == 3


def test_every_folder_has_a_readme():
    """Each says what its files may import, and where to start reading."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for folder in {(ROOT / file).parent for file in tracked if not file.startswith(".")}:
        text = " ".join((folder / "README.md").read_text().lower().split())
        assert folder == ROOT or ("may import" in text and "start with" in text), folder


def test_no_experiment_has_the_name_of_a_command():
    commands = {path.stem for path in (ROOT / "jaxae" / "commands").glob("[a-z]*.py")}
    assert not commands & {path.stem for path in (ROOT / "experiments").glob("*.py")}


OUTSIDE = ("jaxae.experiments", "experiments", "scripts", "tests")


def outside(names):
    """The names of other packages that the library imports only where it uses them."""
    return {name for name in names if any(f"{name}.".startswith(f"{package}.") for package in OUTSIDE)}


def test_library_does_not_import_experiments():
    for code in (
        "from jaxae.experiments import vae",
        "from jaxae import experiments",
        "import jaxae.experiments.vae",
        "from jaxae.experiments.vae import Config",
        "import experiments",
        "from scripts import tables",
    ):
        assert outside(imported(code)), code
    for name, found in IMPORTS.items():
        assert outside([name]) or not outside(found), name


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


def test_private_modules_of_jax_are_used_in_two_files_under_an_upper_bound():
    private = sorted(name for name, found in IMPORTS.items() if any(other.startswith("jax._") for other in found))
    assert private == ["jaxae.devices.processes", "jaxae.run.compiled"]
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert any(re.fullmatch(r"jax>=[\d.]+,<[\d.]+", requirement) for requirement in requirements)


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
