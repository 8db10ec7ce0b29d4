"""Every experiment, trained by its own code on a few embedded digits."""

import dataclasses
import importlib
import json
import shlex
from pathlib import Path
from typing import get_args

import jax
import numpy as np
import pytest

import jaxae
import short_runs
from conftest import equal
from jaxae import data, experiments, likelihoods, run
from jaxae.commands import _docstrings
from jaxae.core.types import Info
from jaxae.data.sources import is_world
from jaxae.errors import InputError, Interrupted
from jaxae.run import command_line
from jaxae.training import records
from jaxae.training.examples import condition_of, own_conditions

NAMES = experiments.names()
SMALL = short_runs.fields("dense")
GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())
# Figures of noise, of sequences, and of spatial codes; `test_run.py` covers those of a prior and of 2-D codes.
DRAWN = {"denoising", "sequence", "strided"}
# One of every kind; the losses of the others have tests of their own.
DEFAULT = {"batch_topk", "convolutional", "cvae", "dense", "masked", "sequence", "vae", "vqvae"}
pytestmark = pytest.mark.usefixtures("key_reuse")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A file of 80 digits."""
    return short_runs.few(tmp_path_factory.mktemp("data"))


def module(name):
    return importlib.import_module(f"jaxae.experiments.{name}")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in DEFAULT)) for n in NAMES])
def test_experiment_trains_loads_and_reaches_its_golden_values(name, few, tmp_path):
    """Encoder, decoder and reconstruction agree, every metric is finite, and the figures are drawn."""
    experiment = module(name)
    fields = short_runs.fields(name) | {"figures": "all" if name in DRAWN else "none"}
    settings = experiment.Config(**{"data": str(few), **fields}, workdir=str(tmp_path / "run"))
    workdir = run.train(settings, experiment.build, name)
    result = json.loads((workdir / "result.json").read_text())
    assert all(np.isfinite(value) for value in result["metrics"].values() if isinstance(value, float))
    model = jaxae.load(workdir)
    assert all(figures.keys() <= result["metrics"].keys() for figures in model.experiment.expected.values())
    assert result["expected"] == {}  # expected results are for the documented run
    found = data.load(settings.data, binarize=settings.binarize)
    digits, given = found.test.x, own_conditions(model, found, found.test)
    z = model.encode(digits, **given)
    assert equal(z, model.encode(digits, **given))  # deterministic
    assert not equal(z[0], z[1])
    pixels = model.decode(z, **given)
    assert equal(pixels, model.reconstruct(digits, **given))
    assert pixels.shape == digits.shape
    assert found.real or 0 <= pixels.min() < pixels.max() <= 1
    if not (found.real or model.experiment.corrupt):
        assert result["reconstruction_quality"]["mse"] == pytest.approx(
            float(np.mean((pixels - digits / 255) ** 2)), rel=1e-4
        )
    if name in DRAWN:
        assert {"loss", "reconstructions", "latent"} <= {path.stem for path in (workdir / "figures").iterdir()}
    if name in GOLDEN:  # up to rounding, which differs between processors
        assert short_runs.reached(workdir) == pytest.approx(GOLDEN[name], rel=1e-4), (
            f"the golden values of {name} have changed. If that was intended, say why in the commit, and record the "
            f"new ones: python tests/short_runs.py tests/golden.json {name}"
        )


def test_golden_values_are_of_experiments():
    assert GOLDEN.keys() <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_docstring_has_a_source_and_a_command_that_parses(name):
    """A world is also generated, with one example of each split."""
    text = module(name).__doc__
    said = _docstrings.fields(text)
    assert said["Source"]
    _, program, *arguments = shlex.split(said["Command"])
    assert program == name
    config = command_line.parse(module(name).Config, text, arguments)
    if is_world(config.data):
        fewer = "steps=0" if config.data.startswith("superposition") else "genes=5"
        data.load(f"{config.data},train=2,test=1,{fewer}")


@pytest.mark.parametrize("name", NAMES)
def test_configuration_has_at_most_two_levels_of_inheritance(name):
    """The deepest chain: run.Config -> vae.Config -> beta_vae.Config."""

    def depth(kind):
        return max((1 + depth(base) for base in kind.__bases__ if issubclass(base, run.Config)), default=0)

    assert issubclass(module(name).Config, run.Config)
    assert depth(module(name).Config) <= 2


@pytest.mark.parametrize("name", ["denoising", "denoising_conv32"])
def test_denoising_experiments_add_noise_to_the_convolutional_one(name):
    kinds = [module(name).Config, module("convolutional").Config]
    noisy, plain = ({field.name for field in dataclasses.fields(kind)} for kind in kinds)
    assert issubclass(*kinds)
    assert noisy - plain == {"noise"}


@pytest.mark.parametrize(
    "name",
    [
        "sequence",
        "tied",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("convolutional", "mirrored", "stacked", "vae")),
    ],
)
def test_summary_counts_every_parameter_once(name):
    experiment, info = module(name), Info((28, 28, 1), 60_000)
    model = experiment.build(experiment.Config(), info).model
    params = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 28, 28, 1), np.float32))["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    tables = run.layer_tables(dataclasses.replace(experiment.Config(), data="digits"), experiment.build)
    assert tables.count("Total Parameters") == 3  # encoder, decoder, both
    assert f"Total Parameters: {count:,}" in tables.split("end to end")[1]


@pytest.mark.slow
def test_picture_every_draws_while_training(few, tmp_path):
    experiment = module("strided")
    settings = experiment.Config(
        **{**SMALL, "picture_every": 2, "figures": "all"}, data=str(few), workdir=str(tmp_path / "run")
    )
    workdir = run.train(settings, experiment.build, "strided")
    assert [path.name for path in sorted((workdir / "figures" / "training").iterdir())] == [
        "0000002.png",
        "0000004.png",
        "0000005.png",  # the end of the first epoch, and the last
    ]
    assert (workdir / "figures" / "training.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        pytest.param("stacked", {"epochs": 4, "greedy": 1, "hidden": (16, 8), "latent": 4}, id="phases"),
        pytest.param(
            "mirrored", {"filters": (4, 4), "strides": (2,), "batch_norm": True, "dropout": 0.5}, id="dropout"
        ),
        pytest.param(
            "factor_vae",
            {"hidden": (8,), "discriminator": (8,), "kl_warmup": 0.5, "binarize": "dynamic"},
            id="adversary",
        ),
        pytest.param("vqvae", {"filters": (4, 4), "codes": 8, "latent": 3}, id="codebook"),
        pytest.param(
            "vqvae",
            {"filters": (4, 4), "codes": 8, "latent": 4, "kmeans": 2, "residual": 2, "quantizer_dropout": 0.5}
            | {"reinit_from": "error", "reinit_below": 0.9},
            id="residual codebooks",
        ),
        pytest.param("cvae", {"hidden": (8,), "latent": 3}, id="condition"),
        pytest.param(
            "kl_autoencoder",
            {**short_runs.FIELDS["kl_autoencoder"], "augment": ("flip", "crop", "colour"), "skip": 0.5, "ema": 0.9},
            id="patch discriminator",
        ),
        *(
            pytest.param(name, short_runs.FIELDS[name], id=f"dead latents of {name}")
            for name in ("topk", "batch_topk", "matryoshka", "matching_pursuit")
        ),
        *(
            pytest.param(name, short_runs.FIELDS[name], id=f"controller of {name}")
            for name in ("gated", "jump_relu", "l1")
        ),
        pytest.param(
            "mirrored",
            {"filters": (4, 4, 4, 4), "batch_norm": True, "dropout": 0.5, "picture_every": 2, "figures": "all"},
            id="pictures",
        ),
    ],
)
def test_resume_with_phases_batch_norm_and_dropout_is_bit_exact(name, fields, few, tmp_path):
    experiment = module(name)
    settings = experiment.Config(**{**SMALL, **fields}, data=str(few))
    whole, parts = (dataclasses.replace(settings, workdir=str(tmp_path / kind)) for kind in ("whole", "parts"))
    run.train(whole, experiment.build, name)
    stops = 0
    while not (tmp_path / "parts" / "result.json").exists():
        count = iter(range(1000))
        try:
            run.train(parts, experiment.build, name, lambda _: next(count) >= 4)  # noqa: B023
        except Interrupted:
            stops += 1
    assert stops
    models = [jaxae.load(tmp_path / kind) for kind in ("whole", "parts")]
    assert equal(models[0].params, models[1].params)
    assert equal(models[0].extra, models[1].extra)
    files = ["metrics.jsonl", *(f"figures/training/{step:07d}.png" for step in (2, 4) if settings.picture_every)]
    for file in files:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()


LIKELIHOODS = get_args(likelihoods.Name)[1:]
SMALL_FLAGS = "--epochs 2 --batch-size 16 --hidden 16 --latent 3 --figures none".split()
VARIATIONAL = {
    "vae": [],
    "iwae": ["--samples", "3"],
    "miwae": ["--samples", "3"],
    "tcvae": [],
    "infovae": [],
    "flow_vae": ["--prior-flow", "realnvp", "--flow-hidden", "8"],
    "cvae": [],
    "vampprior": ["--components", "8"],
    "factor_vae": ["--discriminator", "8"],
}
DEFAULT = (("vae", "normal-learned"), ("vae", "negative-binomial"))
WITH_LIKELIHOOD = [
    pytest.param(name, kind, marks=() if (name, kind) in DEFAULT else pytest.mark.slow)
    for name in VARIATIONAL
    for kind in LIKELIHOODS
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), WITH_LIKELIHOOD)
def test_every_likelihood_trains_from_the_command_line(name, kind, few, tmp_path, capsys):
    experiment, workdir = module(name), tmp_path / "run"
    flags = [*SMALL_FLAGS, *VARIATIONAL[name], "--likelihood", kind]
    fixed, counts = kind in likelihoods.SCALED, kind in likelihoods.COUNTS
    flags += ["--likelihood-scale", "0.3"] if fixed else []
    flags += [] if kind == "bernoulli" else ["--log-likelihood-samples", "20"]
    if counts:
        few = tmp_path / "counts.npz"
        np.savez(few, x=np.random.default_rng(0).poisson(3, (40, 6)), y=np.arange(40) % 2)
        flags += ["--kind", "counts", "--binarize", "none"]
    with pytest.raises(SystemExit) as ended:
        run.main(experiment.Config, experiment.build, [*flags, "--data", str(few), "--workdir", str(workdir)])
    assert ended.value.code == 0, capsys.readouterr().err
    saved = json.loads((workdir / "config.json").read_text())["config"]
    assert (saved["likelihood"], saved["likelihood_scale"]) == (kind, 0.3 if fixed else 1.0)
    lines = records.read(workdir / "metrics.jsonl")
    assert all(np.isfinite(line[metric]) for line in lines for metric in records.names(line))
    model = jaxae.load(workdir)
    found = data.load(str(few), kind="counts" if counts else "auto")
    z, c = model.encode(found.test), condition_of(model, found.test.y, None)
    outputs = model.experiment.model.apply(model.variables, z, *c, method="outputs")
    likelihood = model.experiment.model.likelihood
    shape = (6,) if counts else (28, 28, 1)
    learned = kind.endswith(("-learned", "negative-binomial"))
    assert outputs.shape[1:] == (*shape[:-1], likelihood.parameters(shape)[-1] + learned * shape[-1])
    means = np.asarray(likelihood.mean(outputs))
    decoded = model.decode(z, **own_conditions(model, found, found.test))
    np.testing.assert_allclose(decoded, means if counts else np.clip(means, 0, 1), rtol=1e-5, atol=1e-6)
    scale = 0.3
    if kind.endswith("-learned"):
        scale = float(np.exp(model.params["decoder"]["log_scale"])[0])
        assert scale != 1  # initial value
        np.testing.assert_allclose(np.exp(outputs[..., -1]), scale, rtol=1e-6)
    if (fixed or kind.endswith("-learned")) and name in ("vae", "cvae", "infovae", "tcvae", "factor_vae"):
        assert lines[-1]["scale"] == pytest.approx(scale, rel=1e-5)  # KL weight of the test loss
    if kind != "bernoulli":
        found = json.loads((workdir / "result.json").read_text())["likelihood"]
        assert np.isfinite(found["log_likelihood"])


def train(name, workdir, **fields):
    experiment = module(name)
    return run.train(experiment.Config(**{**SMALL, **fields}, workdir=str(workdir)), experiment.build, "x")


def test_bad_configuration_raises_before_anything_is_written(few, tmp_path):
    np.savez(tmp_path / "s.npz", *(np.zeros((n + 1, 3), np.float32) for n in range(40)))
    np.save(tmp_path / "t.npy", np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32))
    sequences = {"data": str(tmp_path / "s.npz")}
    for says, name, fields in (
        (
            r"strides=\[2, 2, 2\]: 3 values for 2 filters; use 2, or one for all",
            "mirrored",
            {"filters": (2, 4), "strides": (2, 2, 2)},
        ),
        ("dropout=1.5 must be below 1", "mirrored", {"dropout": 1.5}),
        ("log_likelihood_samples=10: grey pixels have no density", "beta_vae", {"log_likelihood_samples": 10}),
        ("log_likelihood_samples=1: one sample gives the ELBO", "binary", {"log_likelihood_samples": 1}),
        ("kl_cycles=3 needs a KL warm-up; set kl_warmup=", "iwae", {"kl_cycles": 3}),
        ("capacity=1.0 excludes free_bits=0.5; choose one", "vae", {"capacity": 1.0, "free_bits": 0.5}),
        ("reinit_below=1.0 must be below 1", "vqvae", {"reinit_below": 1.0}),
        (r"levels=\[2, 8\]: each must be at least 3", "fsq", {"levels": (2, 8)}),
        ("their product below", "fsq", {"levels": (2000, 2000, 2000)}),
        ("batch_size=1 must be at least 2 for the MMD of codes", "wae", {"batch_size": 1}),
        ("gather needs the global batch, .*; use accumulate=1 and reduction=fast", "tcvae", {"accumulate": 2}),
        ("gather needs the global batch", "factor_vae", {"reduction": "reproducible"}),
        ("mean needs the global batch", "vae", {"accumulate": 2, "free_bits": 0.5}),
        ("mean needs the global batch", "vae", {"accumulate": 2, "capacity": 0.5, "capacity_of": "batch"}),
        ("total needs the global batch", "vqvae", {"accumulate": 2}),
        ("a microbatch cannot update .* batch norm", "mirrored", {"accumulate": 2, "batch_norm": True}),
        ("greedy=20 epochs for each layer leave none of epochs=60", "stacked", {"epochs": 60}),
        (r"hidden=\(4,\) must have one width for each of 2 layers", "ladder", {"hidden": (4,), "latent": (2, 2)}),
        (r"examples of shape \(3,\) are not images: vdvae needs", "vdvae", {"data": str(tmp_path / "t.npy")}),
        ("data holds sequences of different lengths; use an experiment for sequences", "simple", sequences),
        ("data holds sequences of different lengths; use an experiment for sequences", "convolutional", sequences),
    ):
        with pytest.raises(InputError, match=says) as error:
            train(name, tmp_path / "run", **{"data": str(few), **fields})
        assert "\n" not in str(error.value)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("says", "name", "fields"),
    [
        (r"^kernels=\(\) is empty; give at least one value", "convolutional", {"kernels": ()}),
        (r"^filters=\(\) is empty; give at least one value", "strided", {"filters": ()}),
        ("^kernels=0 must be at least 1", "strided", {"kernels": (0,)}),
    ],
)
def test_empty_and_zero_fields_raise(says, name, fields):
    with pytest.raises(ValueError, match=says):
        module(name).Config(**fields)
