"""Each mutant in `mutants.toml` applies to the code; `scripts/mutants.py` runs them."""

import re
from pathlib import Path

import pytest

from conftest import script

ROOT = Path(__file__).parents[1]
README = (ROOT / "tests" / "README.md").read_text()
mutants = script("mutants")
MODULES = (
    *("core/divergences", "core/kl_term", "core/mmd", "core/step", "core/reduction", "training/epoch", "nets/lstm"),
    *("training/optimizers", "training/selection"),
)
MEASURES = (
    "dictionary",
    "measures",
    "likelihood",
    "disentanglement",
    "images",
    "mixture",
    "codebook",
    "plane",
    "quality",
    "probe",
)


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: f"{mutant.file}: {mutant.breaks}")
def test_mutant_changes_one_place_and_names_unit_tests(mutant):
    text = (ROOT / "jaxae" / mutant.file).read_text()
    assert text.count(mutant.old) == 1
    assert mutant.old != mutant.new
    compile(text.replace(mutant.old, mutant.new), mutant.file, "exec")
    assert mutant.tests
    for test in mutant.tests.split():
        file, name = test.split("::")
        assert re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), test


def test_mutants_cover_every_loss_bound_divergence_schedule_and_metric():
    files = {mutant.file for mutant in mutants.MUTANTS}
    variants, likelihoods = (
        {f"{folder}/{path.name}" for path in (ROOT / "jaxae" / folder).glob("[a-z]*.py")}
        for folder in ("variants", "likelihoods")
    )
    assert files >= variants | likelihoods | {f"{name}.py" for name in MODULES}
    assert files >= {f"measure/{name}.py" for name in MEASURES}
    assert f"all of its {len(mutants.MUTANTS)} mutants" in README
    assert f"kill (all {len(mutants.MUTANTS)})" in (ROOT / "scripts" / "README.md").read_text()


def test_defects_of_other_projects_are_mutants_that_the_named_test_kills():
    """Each row of the table in the README names the issue and a test of the mutant with this issue."""
    table = README.split("\n## Defects and surprises of other projects")[1].split("\n## ")[0]
    rows = re.findall(
        r"^\| \[.*\]\(https://github\.com/([\w./-]+)/(?:issues|pull)/(\d+)\) \| .* \| `(.*)` \|$", table, re.M
    )
    assert len(rows) == table.count("\n|") - 2
    named = {f"{repository}#{number}": test for repository, number, test in rows}
    known = {mutant.issue: mutant.tests.split() for mutant in mutants.MUTANTS if mutant.issue}
    assert named.keys() == known.keys()
    for issue, test in named.items():
        assert test in known[issue], issue


def test_tests_that_the_readme_names_exist():
    named = re.findall(r"`(test_\w+\.py)::(\w+)`", README)
    assert len(named) > 30
    for file, name in named:
        assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(), name
