import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# In the order of the house: what each module may import of the others, which must stand before it.
LAYERS = {
    "errors": "",
    "ops": "",
    "core": "errors",
    "likelihoods": "core",
    "nets": "core ops",
    "variants": "core errors likelihoods nets ops",
    "data": "core errors",
    "devices": "core errors",
    "training": "core data devices errors",
    # measures
    "evaluate": "",
    "disentanglement": "errors",
    "mixture": "core errors",
    "quality": "errors",
    "likelihood": "core variants",
    "classifier": "core data devices errors nets training",
    # what a run directory holds
    "config": "errors training",
    "checkpoint": "errors",
    "diverged": "checkpoint errors",
    "compiled": "data",
    "log": "errors",
    "directory": "config data errors",
    "loop": "checkpoint config core data devices diverged errors log training",
    # what is made of a finished run
    "figures": "core data log mixture training",
    "wall": "data figures training",
    "results": "core data disentanglement errors evaluate figures log loop training",
    "report": "data directory figures log results training wall",
    "run": "*",
}
HEAVY = ("tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "scipy.stats", "torch", "tensorboardX", "PIL")


def imported(path):
    """The jaxae modules that a file names anywhere."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxae":
            rest = node.module.split(".")[1:]
            yield from [rest[0]] if rest else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("jaxae.")]


def allowed(layer):
    """The layers that this one may import."""
    before = list(LAYERS)[: list(LAYERS).index(layer)]
    return set(before) if LAYERS[layer] == "*" else set(LAYERS[layer].split())


def test_layers_are_in_order():
    for layer in LAYERS:
        assert allowed(layer) <= set(list(LAYERS)[: list(LAYERS).index(layer)]), layer


def test_each_module_imports_only_the_layers_below_it():
    files = [path for path in (ROOT / "jaxae").rglob("*.py") if path != ROOT / "jaxae" / "__init__.py"]
    of = {path: path.relative_to(ROOT / "jaxae").parts[0].removesuffix(".py") for path in files}
    assert set(of.values()) == set(LAYERS)
    for path, layer in of.items():
        within = {layer} if path.parent != ROOT / "jaxae" else set()
        assert set(imported(path)) <= allowed(layer) | within, path


def test_library_does_not_import_experiments():
    for path in (ROOT / "jaxae").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {name.split(".")[0] for name in names} & {"experiments", "scripts", "tests"}, path


def test_only_one_file_names_each_of_these():
    for words, owner in (
        (("orbax",), "checkpoint.py"),
        (("pmap(", "shard_map", "NamedSharding", "Mesh("), "plan.py"),
        (("jax.distributed", "multihost_utils"), "processes.py"),
        (("tyro",), "config.py"),
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
