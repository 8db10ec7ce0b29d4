"""Folders for the Hugging Face hub."""

import json
import re

import numpy as np
import pytest

import jaxae
from conftest import call
from jaxae.commands import share

pytest.importorskip("safetensors", reason="the extra lm is not installed")

TABLE = (5 + 3 * np.random.default_rng(0).normal(size=(60, 4))).astype(np.float32)
FIELDS = {"epochs": 1, "batch_size": 20, "hidden": (8,), "test": 10, "progress": False}


def test_folder_loads_elsewhere_and_its_card_states_data_command_metrics_and_figures(tmp_path):
    data = tmp_path / "private" / "table.npy"
    data.parent.mkdir()
    np.save(data, TABLE)
    fields = {**FIELDS, "test": "10"}
    model = jaxae.fit("vae", str(data), workdir=tmp_path / "run", figures=False, seeds=2, **fields)
    (tmp_path / "run/figures").mkdir()
    (tmp_path / "run/figures/samples.png").write_bytes(b"a picture")
    assert call("share", tmp_path / "run", tmp_path / "out", "--license", "mit") == 0
    written = {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file()}
    expected = {"README.md", "config.json", "figures/samples.png", "metrics.jsonl", "model.safetensors"}
    assert {str(path) for path in written} == expected
    card = (tmp_path / "out/README.md").read_text()
    assert card.startswith("---\nlicense: mit\nlibrary_name: jaxae\n")
    assert "# vae on table.npy\n" in card
    assert "- Data: table.npy, rows of shape [4]: 50 for train, 10 for test" in card
    assert "jaxae vae --data table.npy" in card
    assert "![samples](figures/samples.png)" in card
    assert "over 2 seeds" in card
    losses = [line["loss"] for line in model.history if line["split"] == "test"][-1]["seeds"]
    shown = re.search(r"\| loss \| (\S+) ± (\S+) \|", card)
    assert float(shown[1]) == pytest.approx(np.mean(losses), rel=1e-3)
    assert float(shown[2]) == pytest.approx(np.std(losses, ddof=1), rel=0.05)
    commit = json.loads((tmp_path / "run/config.json").read_text())["git"]
    assert (f"- Commit: {commit}\n" in card) == bool(commit)
    assert str(tmp_path) not in card + (tmp_path / "out/config.json").read_text()
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    (tmp_path / "run").rename(tmp_path / "gone")
    np.testing.assert_array_equal(jaxae.load(tmp_path / "elsewhere").encode(TABLE), model.encode(TABLE))


def test_only_complete_values_that_are_absolute_paths_become_names(tmp_path):
    config = {"data": "sets/data/x.npy", "data_dir": "/data", "target": "~kind", "context": ["~/a b", "/"], "epochs": 3}
    given = {"config": config, "command": "jaxae vae --data sets/data/x.npy --data-dir /data --context '~/a b' /"}
    given |= {"experiment": "vae", "versions": {}, "device": {}}
    given |= {"data": {"fingerprint": "", "shape": [4], "train": 9}}
    (tmp_path / "config.json").write_text(json.dumps(given))
    found = share._without_folders(tmp_path / "config.json")
    expected = {"data": "sets/data/x.npy", "data_dir": "data", "target": "~kind", "context": ["a b", "/"], "epochs": 3}
    assert found["config"] == expected
    assert found["command"] == "jaxae vae --data sets/data/x.npy --data-dir data --context 'a b' /"
    assert json.loads((tmp_path / "config.json").read_text()) == found


@pytest.mark.slow
def test_license_is_left_open_and_an_existing_folder_is_kept(tmp_path, capsys):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    jaxae.fit("vae", TABLE, workdir=tmp_path / "run", figures=False, **FIELDS)
    assert call("share", tmp_path / "run", tmp_path / "out") == 0
    found = hub.ModelCard.load(tmp_path / "out/README.md").data.to_dict()
    assert found == {"library_name": "jaxae", "tags": ["autoencoder", "jax", "flax"]}
    assert json.loads((tmp_path / "out/config.json").read_text())["experiment"] == "vae"
    before = (tmp_path / "out/README.md").read_bytes()
    assert call("share", tmp_path / "run", tmp_path / "out") == 2
    assert "exists" in capsys.readouterr().err
    assert (tmp_path / "out/README.md").read_bytes() == before
    assert call("share", tmp_path / "run", tmp_path / "out", "--overwrite") == 0
    (tmp_path / "other").mkdir()
    assert call("share", tmp_path / "run", tmp_path / "other", "--overwrite") == 2
