"""Sparse autoencoders as files of SAELens: written by jaxae, and read by jaxae, against SAELens' formulas in NumPy."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxae
from conftest import ROOT, call
from jaxae.core.types import Info, Scale, State
from jaxae.data import weights
from jaxae.errors import InputError
from jaxae.experiments import batch_topk, gated, jump_relu, l1, matching_pursuit, matryoshka, simple, topk
from jaxae.run import saelens
from jaxae.training.trained import Trained
from jaxae.variants.dictionary import Rule

pytest.importorskip("safetensors", reason="the extra lm is not installed")

D, N = 6, 24
RNG = np.random.default_rng(0)
X = (3 + 2 * RNG.normal(size=(200, D))).astype(np.float32)
SCALE = Scale(np.array([3.0, 2, 1, 4, 3, 2]), np.array([2.0, 1, 3, 0.5, 1.5, 2]))
MODULES = {
    "topk": topk,
    "batch_topk": batch_topk,
    "matryoshka": matryoshka,
    "jump_relu": jump_relu,
    "gated": gated,
    "l1": l1,
}
WRITTEN = {"l1": "standard", "topk": "topk", "gated": "gated"}  # the others: jumprelu
PURSUIT = {"residual_threshold": 0, "max_iterations": 4, "stop_on_duplicate_support": False}


def model(module, scale=SCALE, seeds=1, **fields):
    """An untrained model of an experiment with random parameters, input scale and threshold."""
    own = {"active": 5} if hasattr(module.Config, "active") else {}
    own |= {"levels": (8,)} if hasattr(module.Config, "levels") else {}
    experiment = module.build(module.Config(latent=N, **own, **fields), Info((D,), 1000, real=True))
    variables = experiment.model.init(jax.random.key(0), jnp.zeros((1, D)))
    rng = np.random.default_rng(1)

    def moved(leaf):
        return jnp.asarray(leaf + rng.normal(0, 0.4, leaf.shape), jnp.float32)

    params = jax.tree.map(moved, variables["params"])
    if "threshold" in params:
        params["threshold"] = jnp.abs(params["threshold"])
    statistics = {**variables["statistics"], "scale": jnp.float32(1.7)}
    if module is matching_pursuit:
        params["decoder"], statistics["scale"] = unit(params["decoder"]), jnp.float32(1)
    if "threshold" in statistics:
        statistics["threshold"] = jnp.float32(0.6)
    state = State(jnp.int32(0), params, (), {"statistics": statistics})
    if seeds > 1:
        state = jax.tree.map(lambda leaf: jnp.stack([leaf] * seeds), state)
    return Trained(experiment, state, (D,), range(seeds), scale=scale, real=True, from_bytes=False)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def pursued(v, rows, iterations):
    """Codes of SAELens' matching pursuit without a stop, one example after the other."""
    z = np.zeros((len(v), len(rows)))
    for i, residual in enumerate(v):
        for _ in range(iterations):
            best = np.argmax(np.maximum(rows @ residual, 0))
            value = max(rows[best] @ residual, 0)
            z[i, best] += value
            residual = residual - value * rows[best]
    return z


def reference(folder, x):
    """Codes and reconstructions by the formulas of SAELens' modules, in float64."""
    config = json.loads((folder / "cfg.json").read_text())
    w = {name: array.astype(np.float64) for name, array in weights.read(folder / "sae_weights.safetensors").items()}
    v = x.astype(np.float64) - w["b_dec"] * config["apply_b_dec_to_input"]
    norm = np.linalg.norm(w["W_dec"], axis=1)
    rescaled = config["architecture"] in ("topk", "batchtopk") and config["rescale_acts_by_decoder_norm"]
    if config["architecture"] == "matching_pursuit":
        assert set(w) == {"W_dec", "b_dec"}
        assert config["residual_threshold"] == 0
        assert not config["stop_on_duplicate_support"]
        z = pursued(v, w["W_dec"], config["max_iterations"] or config["d_in"])
        return z, z @ w["W_dec"] + w["b_dec"] * config["apply_b_dec_to_input"]
    if config["architecture"] == "gated":
        z = (v @ w["W_enc"] + w["b_gate"] > 0) * np.maximum(v @ (w["W_enc"] * np.exp(w["r_mag"])) + w["b_mag"], 0)
    else:
        u = v @ w["W_enc"] + w["b_enc"]
        u = u * norm if rescaled else u
        z = np.maximum(u, 0)
    if config["architecture"] == "topk":
        smallest = np.sort(u, axis=1)[:, -config["k"]]
        z = np.where(u >= smallest[:, None], z, 0)
    if config["architecture"] == "jumprelu":
        threshold = np.exp(w["log_threshold"]) if "log_threshold" in w else w["threshold"]
        z = z * (u > threshold)
    if config["architecture"] == "batchtopk":
        z = z * (z > w["topk_threshold"])
    return z, (z / norm if rescaled else z) @ w["W_dec"] + w["b_dec"]


def compared(codes, decoded, ours, x, tolerance=1e-5):
    """Check that a model has these codes and reconstructions, of which some but not all entries are active."""
    found = np.asarray(ours.encode(x))
    np.testing.assert_array_equal(found != 0, codes != 0)
    assert 0.02 < np.mean(codes != 0) < 0.8
    np.testing.assert_allclose(found, codes, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(ours.decode(found), decoded, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("norm", ["scaled", "unit"])
def test_written_models_have_the_same_codes_by_the_formulas_of_saelens(tmp_path, name, norm):
    """With scaling of the data, input scale and decoder norms folded into the weights."""
    ours = model(MODULES[name], decoder_norm=norm)
    assert saelens.write(tmp_path, ours) == WRITTEN.get(name, "jumprelu")
    codes, decoded = reference(tmp_path, X)
    compared(codes, decoded, ours, X)
    again = jaxae.load(tmp_path)
    assert again.shape == (D,)
    compared(codes, decoded, again, X)


def test_written_matching_pursuit_has_the_codes_of_saelens(tmp_path):
    ours = model(matching_pursuit, None)
    assert saelens.write(tmp_path, ours) == "matching_pursuit"
    codes, decoded = reference(tmp_path, X)
    compared(codes, decoded, ours, X)
    compared(codes, decoded, jaxae.load(tmp_path), X)


def test_matching_pursuit_with_rows_of_another_norm_is_not_written(tmp_path):
    """SAELens multiplies by the rows and does not divide by their norms."""
    scaled = model(matching_pursuit, Scale(np.zeros(1), np.full(1, 2.0)))
    with pytest.raises(InputError, match="rows of norm 1 .* train with decoder_norm=unit, input_scale=none, scale=no"):
        saelens.write(tmp_path, scaled)


def test_top_k_model_is_not_read_as_relu(tmp_path):
    saelens.write(tmp_path, model(topk))
    found = jaxae.load(tmp_path)
    active = (np.asarray(found.encode(X)) != 0).sum(1)
    assert active.max() == 5
    config = json.loads((tmp_path / "cfg.json").read_text())
    old = {"d_in": D, "d_sae": N, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}}
    (tmp_path / "cfg.json").write_text(json.dumps(old))  # of a version before 6
    assert (np.asarray(jaxae.load(tmp_path).encode(X)) != 0).sum(1).max() == 3
    (tmp_path / "cfg.json").write_text(json.dumps({**config, "k": None}))
    with pytest.raises(InputError, match="its k is None, not a positive integer"):
        jaxae.load(tmp_path)


def theirs(folder, architecture, change=None, **fields):
    """A random model as SAELens saves it."""
    rng = np.random.default_rng(2)
    arrays = {"W_enc": rng.normal(0, 0.3, (D, N)), "W_dec": rng.normal(0, 0.5, (N, D)), "b_dec": rng.normal(2, 1, D)}
    if architecture == "matching_pursuit":
        arrays = {"W_dec": unit(arrays["W_dec"]), "b_dec": arrays["b_dec"]}
    elif architecture == "gated":
        arrays |= {name: rng.normal(0, 0.5, N) for name in ("b_gate", "b_mag", "r_mag")}
    else:
        arrays["b_enc"] = rng.normal(0, 0.5, N)
    arrays |= {"jumprelu": {"threshold": rng.uniform(-0.5, 1, N)}, "batchtopk": {"topk_threshold": np.array(0.6)}}.get(
        architecture, {}
    )
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    weights.save(folder / "sae_weights.safetensors", change(arrays) if change else arrays)
    config = {
        "architecture": architecture,
        "d_in": D,
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        **fields,
    }
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def with_log_threshold(arrays):
    return {**{k: v for k, v in arrays.items() if k != "threshold"}, "log_threshold": arrays["threshold"]}


def with_ones(arrays):
    return {**arrays, "scaling_factor": np.ones(N, np.float32)}


@pytest.mark.parametrize(
    ("architecture", "fields", "change"),
    [
        ("standard", {}, None),
        ("standard", {"apply_b_dec_to_input": False}, None),
        ("standard", {"normalize_activations": False, "finetuning_scaling_factor": False}, with_ones),
        ("topk", {"k": 4, "rescale_acts_by_decoder_norm": False}, None),
        ("topk", {"k": 4, "rescale_acts_by_decoder_norm": True, "apply_b_dec_to_input": False}, None),
        ("jumprelu", {}, None),
        ("jumprelu", {"rescale_acts_by_decoder_norm": True}, with_log_threshold),
        ("gated", {}, None),
        ("gated", {"apply_b_dec_to_input": False}, None),
        ("batchtopk", {"k": 4, "rescale_acts_by_decoder_norm": True}, None),
        ("matching_pursuit", PURSUIT, None),
        ("matching_pursuit", {**PURSUIT, "max_iterations": None}, None),
        ("matching_pursuit", {**PURSUIT, "apply_b_dec_to_input": False}, None),
    ],
)
def test_read_models_have_the_codes_of_saelens(tmp_path, architecture, fields, change):
    folder = theirs(tmp_path, architecture, change, **fields)
    compared(*reference(folder, X), jaxae.load(folder), X)


def test_read_model_is_written_again_and_trained_with_an_optimizer(tmp_path):
    """Without an optimizer a step is an error; with one the loss falls."""
    folder = theirs(tmp_path, "topk", k=4, rescale_acts_by_decoder_norm=True)
    found = jaxae.load(folder, optimizer=optax.adam(1e-2))
    (tmp_path / "again").mkdir()
    saelens.write(tmp_path / "again", found)
    compared(*reference(folder, X), jaxae.load(tmp_path / "again"), X)
    dataset = jaxae.data.from_arrays(X, test=0, scale="none")
    losses = [s.test["loss"] for s in jaxae.iterate(found.experiment, dataset, epochs=3, batch_size=50) if s.test]
    assert losses[-1] < losses[0]
    with pytest.raises(ValueError, match=r"without its optimizer; pass it to jaxae.load\(path, optimizer=...\)"):
        next(iter(jaxae.iterate(jaxae.load(folder).experiment, dataset, epochs=1, batch_size=50)))
    with pytest.raises(InputError, match="is a folder of SAELens; pass no other argument than optimizer"):
        jaxae.load(folder, topk)


@pytest.mark.parametrize(
    ("architecture", "fields", "change", "message"),
    [
        ("transcoder", {}, None, "architecture 'transcoder' is not supported; use standard, topk, jumprelu, gated"),
        (
            "standard",
            {"normalize_activations": "layer_norm"},
            None,
            "normalize_activations 'layer_norm' is not supported",
        ),
        (
            "standard",
            {"normalize_activations": "expected_average_only_in"},
            None,
            "fold it into the weights with SAELens",
        ),
        (
            "standard",
            {"activation_fn": "tanh-relu"},
            None,
            "activation_fn 'tanh-relu' is not supported; use relu, topk",
        ),
        (
            "standard",
            {},
            lambda a: {**a, "extra": a["b_enc"]},
            "W_enc, b_enc, W_dec, b_dec; missing or unknown: {'extra'}",
        ),
        ("standard", {}, lambda a: {**a, "scaling_factor": 2 * a["b_enc"]}, "missing or unknown: {'scaling_factor'}"),
        (
            "jumprelu",
            {},
            lambda a: {k: v for k, v in a.items() if k != "threshold"},
            "missing or unknown: {'threshold'}",
        ),
        ("standard", {}, lambda a: {**a, "W_enc": a["W_enc"].T}, r"tensor W_enc has shape \[24, 6\], not \[6, 24\]"),
        ("topk", {}, None, "its k is None, not a positive integer"),
        ("matching_pursuit", {**PURSUIT, "max_iterations": 0}, None, "its max_iterations is 0, not a positive integer"),
        (
            "matching_pursuit",
            {**PURSUIT, "residual_threshold": 0.01},
            None,
            "residual_threshold 0.01 is not supported; use 0",
        ),
        (
            "matching_pursuit",
            {**PURSUIT, "stop_on_duplicate_support": True},
            None,
            "stop_on_duplicate_support True is not supported; use False",
        ),
        (
            "matching_pursuit",
            PURSUIT,
            lambda a: {**a, "W_dec": a["W_dec"] * 1.001},
            "matching pursuit needs decoder rows of norm 1",
        ),
    ],
)
def test_models_that_cannot_be_read_exactly_are_errors(tmp_path, architecture, fields, change, message):
    folder = theirs(tmp_path, architecture, change, **fields)
    with pytest.raises(InputError, match=message):
        jaxae.load(folder)


def test_damaged_folders_are_errors(tmp_path):
    theirs(tmp_path, "standard")
    (tmp_path / "cfg.json").write_text("{")
    with pytest.raises(InputError, match=r"cfg.json cannot be read"):
        jaxae.load(tmp_path)
    theirs(tmp_path, "standard")
    (tmp_path / "sae_weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"sae_weights.safetensors cannot be read"):
        jaxae.load(tmp_path)


class Doubled(Rule):
    """An activation rule of a user."""


def test_models_without_this_format_are_errors(tmp_path, monkeypatch):
    unknown = model(topk)
    net = unknown.experiment.model.clone(rule=Doubled())
    with pytest.raises(InputError, match="SAELens has no model with the codes of Doubled; use another format"):
        saelens.write(tmp_path, replace(unknown, experiment=replace(unknown.experiment, model=net)))
    with pytest.raises(InputError, match="the model has 2 seeds, but the format holds one; use member=0 to 1"):
        saelens.write(tmp_path, model(topk, seeds=2))
    saelens.write(tmp_path, model(topk, seeds=2)[1])
    other = simple.build(simple.Config(), Info((8, 8, 1), 100))
    with pytest.raises(InputError, match="Autoencoder is not a sparse autoencoder; use another format"):
        saelens.write(tmp_path, Trained(other, State(jnp.int32(0), {}, (), {}), (8, 8, 1)))
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(InputError, match=r"needs the package safetensors: pip install 'jaxae\[lm\]'"):
        saelens.write(tmp_path, model(topk))


def test_command_exports_a_seed_of_a_run(sparse_run, tmp_path, capsys):
    x = np.load(sparse_run.parent / "activations" / "activations.npy").astype(np.float32)
    where = ["--format", "saelens", "--out", tmp_path / "out"]
    assert call("export", sparse_run, *where) == 2
    assert "use --member 0 to 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert call("export", sparse_run, *where, "--member", "1") == 0
    assert f"topk model of {sparse_run} in the format of saelens: {tmp_path / 'out'}" in capsys.readouterr().out
    compared(*reference(tmp_path / "out", x), jaxae.load(sparse_run)[1], x)
    assert call("export", sparse_run, *where, "--member", "0") == 2
    assert "exists; use another, or --overwrite to replace it" in capsys.readouterr().err
    assert call("export", sparse_run, *where, "--member", "0", "--overwrite") == 0
    compared(*reference(tmp_path / "out", x), jaxae.load(sparse_run)[0], x)


SAELENS = os.environ.get("JAXAE_SAELENS", sys.executable)


@pytest.mark.slow
def test_saelens_and_jaxae_read_each_others_models(tmp_path):
    """Codes and reconstructions by SAELens itself."""
    if subprocess.run([SAELENS, "-c", "import sae_lens"], capture_output=True, check=False).returncode:
        pytest.skip("no sae_lens: set JAXAE_SAELENS to the Python of an environment with sae-lens")
    np.save(tmp_path / "x.npy", X)
    ours = {name: model(module) for name, module in MODULES.items()}
    ours["matching_pursuit"] = model(matching_pursuit, None)
    for name, of in ours.items():
        (tmp_path / "ours" / name).mkdir(parents=True)
        saelens.write(tmp_path / "ours" / name, of)
    command = [SAELENS, ROOT / "scripts" / "with_saelens.py", tmp_path]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": ""})
    for name, of in ours.items():
        found = np.load(tmp_path / "ours" / name / "out.npz")
        compared(found["codes"], found["decoded"], of, X)
    theirs = sorted((tmp_path / "theirs").iterdir())
    assert len(theirs) == 10
    for folder in theirs:
        found = np.load(folder / "out.npz")
        compared(found["codes"], found["decoded"], jaxae.load(folder), X)
