import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ORDER = [
    {"errors", "types"},
    {"batch", "prob", "ops", "data", "evaluate", "disentanglement", "mixture", "quality", "signals"},
    {"nets", "reduction", "compiled"},
    {"variants", "step"},
    {"epoch", "experiment", "config", "checkpoint", "divergence", "likelihood"},
    {"directory", "parallel", "log", "classifier"},
    {"feed", "figures"},
    {"loop"},
    {"results", "wall"},
    {"report"},
    {"run"},
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
HEAVY = ("tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "scipy.stats", "torch", "tensorboardX", "PIL")


def imported(path):
    """The jaxae modules that a file names anywhere."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxae":
            rest = node.module.split(".")[1:]
            yield from [rest[0]] if rest else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("jaxae.")]


def test_imports_only_point_down():
    files = [path for path in (ROOT / "jaxae").rglob("*.py") if path != ROOT / "jaxae" / "__init__.py"]
    assert {path.relative_to(ROOT / "jaxae").parts[0].removesuffix(".py") for path in files} == set(LEVEL)
    for path in files:
        own = path.relative_to(ROOT / "jaxae").parts[0].removesuffix(".py")
        for name in imported(path):
            if name in LEVEL:
                inside = name == own and path.parent != ROOT / "jaxae"
                assert inside or LEVEL[name] < LEVEL[own], f"{path.name} imports {name}"


def test_only_one_file_names_each_of_these():
    for words, owner in (
        (("orbax",), "checkpoint.py"),
        (("pmap(", "shard_map", "NamedSharding", "Mesh("), "parallel.py"),
    ):
        for path in (ROOT / "jaxae").rglob("*.py"):
            code = path.read_text().replace('"orbax-checkpoint"', "")
            assert path.name == owner or not any(word in code for word in words), path


def loaded(statement):
    program = f"import sys; {statement}; print(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )


def test_import_loads_nothing_heavy():
    assert not loaded("import jaxae") & {"jax", "numpy", *HEAVY}
    assert not loaded("from jaxae import load") & set(HEAVY)
