"""The front of sparse autoencoders in figures, sweeps and comparisons."""

import json

import numpy as np
import pytest

from jaxae.commands import compare as compares
from jaxae.commands import sweep as sweeps
from jaxae.report.figures import front
from jaxae.run import loop
from jaxae.training import records

FLAGS = ["--latent", "16", "--epochs", "2", "--batch-size", "50", "--seeds", "2", "--lr", "1e-2", "--figures", "none"]


def result(**values):
    return {"dictionary": values, "metrics": {}}


def test_front_shows_means_and_deviations_in_the_order_of_l0():
    """Runs without metrics of a dictionary are left out."""
    runs = [
        result(l0=16.0, explained_variance={"mean": 0.8, "std": 0.02, "seeds": [0.78, 0.82]}, other=1.0),
        None,
        {"metrics": {}},
        result(l0={"mean": 8.0, "std": 0.5, "seeds": [7.5, 8.5]}, explained_variance=0.5, f1=0.3),
    ]
    found = front.measured(runs)
    assert [[*part] for part in found] == [["l0", "explained_variance"], [], [], ["l0", "explained_variance", "f1"]]
    (axis,) = front.front({"topk": found, "l1": found[:1]}, "title").axes
    line, bars_x, bars_y = (
        axis.containers[0].lines[0],
        *(bars.get_segments() for bars in axis.containers[0].lines[2]),
    )
    np.testing.assert_allclose(line.get_xydata(), [[8, 0.5], [16, 0.8]])
    np.testing.assert_allclose(bars_x, [[[7.5, 0.5], [8.5, 0.5]], [[16, 0.8], [16, 0.8]]])
    np.testing.assert_allclose(bars_y, [[[8, 0.5], [8, 0.5]], [[16, 0.78], [16, 0.82]]])
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["topk", "l1"]


@pytest.mark.slow
def test_sweeps_of_two_architectures_and_their_comparison_show_the_same_front(tmp_path):
    rng = np.random.default_rng(0)
    np.save(
        tmp_path / "x.npy", (rng.exponential(size=(300, 12)) * (rng.random((300, 12)) < 0.3)) @ rng.normal(size=(12, 6))
    )
    runs = []
    for name, grid in (("topk", "active=2,4"), ("l1", "coefficient=0.2,1.0")):
        workdir = tmp_path / name
        said = sweeps.sweep(
            loop.never, [name, "--grid", grid, "--workdir", str(workdir), "--data", str(tmp_path / "x.npy"), *FLAGS]
        )
        assert (workdir / "summary.png").stat().st_size > 5000
        for point in sorted(path for path in workdir.iterdir() if path.is_dir()):
            measured = json.loads((point / "result.json").read_text())["dictionary"]
            for metric in ("l0", "explained_variance", "fvu"):
                assert f"{records.mean(measured[metric]):.4g} ± {records.std(measured[metric]):.2g}" in said
            runs.append((point, measured))
    page = compares.page([point for point, _ in runs])
    assert "explained variance over active latents" in page
    for _, measured in runs:
        assert f"{records.mean(measured['fvu']):.4g} ± {records.std(measured['fvu']):.2g}" in page


def test_comparison_of_other_models_has_no_front():
    assert compares._cells({"run": {}}) == {}
    assert compares._front({"run": {}}, ["vae"]) == ""
