"""The prior over codes against enumeration of all codes of a tiny alphabet."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxae
from conftest import apply, batch, equal, evaluated, new_key
from jaxae import nets
from jaxae.commands import share
from jaxae.core.types import Info
from jaxae.errors import InputError
from jaxae.experiments import code_prior as code_prior_run
from jaxae.experiments import masked_prior as masked_prior_run
from jaxae.experiments import vqvae as vqvae_run
from jaxae.experiments import vqvae2 as vqvae2_run
from jaxae.variants import code_prior, quantize, vqvae

K, T, C = 3, 3, 2


def net(**options):
    """A transformer and variables with logits that are not uniform."""
    model = nets.CausalTransformer(K, T, width=8, heads=2, layers=2, **options)
    variables = jax.jit(model.init)(new_key(), jnp.zeros((1, T), jnp.int32), jnp.zeros((1, C)))
    return model, jax.tree.map(lambda leaf: leaf + 0.4 * jax.random.normal(new_key(), leaf.shape), variables)


SEQUENCES = np.array(list(itertools.product(range(K), repeat=T)))  # all 27
CONDITION = jnp.tile(jnp.array([[0.3, -1.0]]), (len(SEQUENCES), 1))


def log_probabilities(model, variables, condition):
    """log p of all sequences, in double precision from the logits."""
    logits = np.asarray(jax.jit(model.apply)(variables, jnp.asarray(SEQUENCES), condition), np.float64)
    normalized = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return logits, np.take_along_axis(normalized, SEQUENCES[..., None], axis=-1).sum((1, 2))


def test_probabilities_of_all_sequences_sum_to_one_and_depend_on_the_condition():
    model, variables = net()
    logits, log_p = log_probabilities(model, variables, CONDITION)
    np.testing.assert_allclose(np.exp(log_p).sum(), 1, rtol=1e-6)
    assert np.ptp(log_p) > 0.5
    for i in range(T):  # logits of token i are the same for all sequences with the same tokens before it
        first = {tuple(s[:i]): row[i] for s, row in zip(SEQUENCES[::-1], logits[::-1], strict=True)}
        for s, row in zip(SEQUENCES, logits, strict=True):
            np.testing.assert_allclose(row[i], first[tuple(s[:i])], rtol=1e-5, atol=1e-5)
    _, other = log_probabilities(model, variables, -CONDITION)
    assert np.abs(other - log_p).max() > 0.1


def test_cached_steps_have_the_logits_of_the_complete_sequence():
    model, variables = net()
    whole, _ = log_probabilities(model, variables, CONDITION)
    step = jax.jit(lambda *given: model.apply(variables, *given, method="step"))
    caches, before = model.caches(len(SEQUENCES)), jnp.full(len(SEQUENCES), 2)
    for i in range(T):
        logits, caches = step(before, CONDITION, jnp.int32(i), caches)
        np.testing.assert_allclose(logits, whole[:, i], rtol=1e-5, atol=1e-5)
        before = jnp.asarray(SEQUENCES[:, i])


def small():
    """A prior over three signs of a line of three pixels, 2^3 sequences of 2 codes, and its variables."""
    tokenizer = vqvae.VQVAE(nets.MLP((), (3, 1), axes=1), nets.MLP((), (3,), axes=2), quantize.LFQ(1))
    model = code_prior.CodePrior(tokenizer, nets.CausalTransformer(2, 3, width=8, heads=2, layers=1), (3,))
    x = jax.random.normal(new_key(), (16, 3))
    variables = jax.jit(model.init)(new_key(), x)
    moved = jax.tree.map(
        lambda leaf: leaf + 0.5 * jax.random.normal(new_key(), leaf.shape), variables["params"]["prior"]
    )
    return model, {"params": {**variables["params"], "prior": moved}}, x


def test_loss_is_the_exact_log_likelihood_of_the_codes_and_samples_follow_it():
    model, variables, x = small()
    terms, updates = jax.jit(code_prior.loss(model))(variables, batch(x), new_key())
    assert updates == {}
    every = np.array(list(itertools.product(range(2), repeat=3)))
    logits = np.asarray(apply(model, variables, every, method="logits"), np.float64)
    p = np.prod(np.take_along_axis(np.exp(logits), every[..., None], -1)[..., 0] / np.exp(logits).sum(-1), axis=1)
    rows = np.asarray(apply(model, variables, x, method="indices")) @ [4, 2, 1]
    assert len(set(rows)) > 2
    np.testing.assert_allclose(terms["loss"], -np.log(p[rows]), rtol=1e-5)
    np.testing.assert_allclose(terms["bits_per_index"], -np.log2(p[rows]) / 3, rtol=1e-5)
    codes = code_prior.prior(model)(jax.device_get(variables), new_key(), 4000)  # as a checkpoint holds them
    assert codes.shape == (4000, 3, 1)
    counts = np.bincount((np.asarray(codes)[..., 0] > 0) @ [4, 2, 1], minlength=8)
    assert stats.chisquare(counts, 4000 * p).pvalue > 1e-3
    assert np.ptp(p) > 0.05


def test_logits_start_uniform_and_heads_must_divide_the_width():
    built = code_prior_run.build(
        code_prior_run.Config(filters=(2,), codes=8, width=8, heads=2, layers=1), Info((4, 4, 1), 10)
    )
    x = jax.random.uniform(new_key(), (2, 4, 4, 1))
    terms, _ = evaluated(built.evaluate, jax.jit(built.model.init)(new_key(), x), batch(x))
    np.testing.assert_allclose(terms["loss"], 4 * np.log(8), rtol=1e-6)
    np.testing.assert_allclose(terms["bits_per_index"], 3, rtol=1e-6)
    with pytest.raises(ValueError, match="heads=3 does not divide width=8; use a divisor"):
        nets.CausalTransformer(K, T, width=8, heads=3).init(new_key(), jnp.zeros((1, T), jnp.int32))


@pytest.mark.slow
@pytest.mark.parametrize(("tokenizers", "experiment"), [(vqvae_run, code_prior_run), (vqvae2_run, masked_prior_run)])
def test_prior_of_a_finished_run_keeps_its_tokenizer_and_samples_by_class(tokenizers, experiment, tmp_path):
    """The variables of the tokenizer are those of the run; training changes the prior alone."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (40, 8, 8, 1)).astype(np.uint8), np.arange(40) % 2
    fields = {"epochs": 1, "batch_size": 20, "figures": False, "progress": False, "test": 8}
    small = {"filters": (4,), "codes": 4, "latent": 4, "residual": 2}
    there = jaxae.fit(tokenizers, x, workdir=tmp_path / "tokenizer", **fields, **small)
    own = {"tokenizer": str(tmp_path / "tokenizer"), "width": 8, "heads": 2, "layers": 1, "class_conditional": True}
    model = jaxae.fit(experiment, x, y=y, workdir=tmp_path / "prior", **fields, **own)
    assert equal(model.params["tokenizer"], there.params)
    assert equal(model.extra["codebook"]["tokenizer"], there.extra["codebook"])
    assert np.any(model.params["prior"]["logits"]["kernel"])
    assert equal(model.encode(x, y=y), there.encode(x))
    again = jaxae.load(tmp_path / "prior")
    samples = again.sample(new_key(), 5, y="1")
    assert equal(samples, model.sample(new_key(), 5, y="1"))
    assert samples.shape == (5, 8, 8, 1)
    assert 0 <= samples.min() < samples.max() <= 1
    with pytest.raises(InputError, match="also needs the run of its tokenizer"):
        share.share(share.Options(run=tmp_path / "prior", out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="must be a run of vqvae or vqvae2 with one seed"):
        experiment.build(experiment.Config(tokenizer=str(tmp_path / "prior")), Info((8, 8, 1), 40))
