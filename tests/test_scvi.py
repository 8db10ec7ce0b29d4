"""scVI against an independent NumPy model, numerical integration and formulas; integration scores against loops."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import jaxae
from conftest import apply, batch, evaluated, new_key
from jaxae import data
from jaxae.experiments import scvi as experiment
from jaxae.likelihoods import NegativeBinomial
from jaxae.measure import integration, likelihood
from jaxae.variants import iwae, scvi, vae

rng = np.random.default_rng(0)
COUNT, GENES = 12, 5
BATCH = np.arange(COUNT) % 3
X = rng.poisson(rng.gamma(1, 4, GENES) * rng.gamma(4, 0.25, (COUNT, 1))).astype(np.float32)
X[3] = [0, 0, 2, 0, 1]
C = np.eye(3)[BATCH]
DATA = data.from_arrays(
    X, np.arange(COUNT) % 2, context={"batch": np.array(["a", "b", "c"])[BATCH]}, test=0, kind="counts"
)


def built(**fields):
    """A small model and its experiment, with random parameters away from their initial values."""
    config = experiment.Config(**{"hidden": (4,), "latent": 1, "batch_size": COUNT, **fields})
    found = experiment.build(config, DATA.info)
    variables = jax.jit(found.model.init)(new_key(), X[:1], C[:1].astype(np.float32))
    leaves, tree = jax.tree.flatten(variables["params"])
    noise = np.random.default_rng(1)
    moved = [leaf + 0.4 * noise.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    return found, {**variables, "params": jax.tree.unflatten(tree, moved)}


def numpy_log_p(params, z, kind, library, dispersion, log_l):
    """log p(x|z, batch) of all cells in SciPy, for codes z [COUNT, 1] and log library sizes [COUNT, 1]."""
    of = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["decoder"])
    layer = lambda name, h: h @ of[name]["kernel"] + of[name]["bias"]  # noqa: E731
    h = np.concatenate([np.maximum(layer("hidden0", np.concatenate([z, C], 1)), 0), C], 1)
    mean = np.exp(log_l) * special.softmax(layer("share", h), axis=1)
    r = of["log_inverse_dispersion"]
    r = np.exp(C @ r["kernel"]) if dispersion == "gene-batch" else np.exp(r)[None]
    p = stats.nbinom(r, r / (r + mean)).pmf(X)
    if kind.startswith("zero"):
        zeros = special.expit(layer("inflation", h))
        p = zeros * (X == 0) + (1 - zeros) * p
    return np.log(p).sum(1)


WAYS = list(
    product(("negative-binomial", "zero-inflated-negative-binomial"), ("observed", "latent"), ("gene", "gene-batch"))
)


@pytest.mark.parametrize(("kind", "library", "dispersion"), WAYS)
def test_log_densities_against_an_independent_numpy_model(kind, library, dispersion):
    """log p(x|z, l, batch), and the log-normal prior of the library size with the moments of the batch."""
    found, variables = built(likelihood=kind, library=library, dispersion=dispersion)

    @jax.jit
    def densities(variables, x, c, key):
        q = found.model.apply(variables, x, c, method="posterior")
        z = q.samples(jax.random.normal(key, (COUNT, 2, q.mean.shape[1])))
        return z, iwae.densities(found.model)(variables, (x, None, c), q, z)

    z, log = jax.tree.map(np.asarray, densities(variables, X, C.astype(np.float32), new_key()))
    totals = np.log(X.sum(1, dtype=np.float64))
    means, stds = (np.array([of(totals[b == BATCH]) for b in range(3)])[BATCH] for of in (np.mean, np.std))
    for k in range(2):
        code = np.asarray(z[:, k], np.float64)
        log_l = code[:, 1:] if library == "latent" else totals[:, None]
        expected = numpy_log_p(variables["params"], code[:, :1], kind, library, dispersion, log_l)
        np.testing.assert_allclose(log.likelihood[:, k], expected, rtol=2e-4)
        prior = stats.norm.logpdf(code[:, 0])
        if library == "latent":
            prior = prior + stats.norm(means, stds).logpdf(code[:, 1])
        np.testing.assert_allclose(log.prior[:, k], prior, rtol=1e-3)


@pytest.mark.parametrize("kind", ["negative-binomial", "zero-inflated-negative-binomial"])
def test_importance_sampling_agrees_with_the_integral_over_the_code(kind):
    """log p(x|batch) = log of the integral of p(x|z, batch) N(z; 0, 1) over z, by quadrature in float64."""
    found, variables = built(likelihood=kind)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    totals = np.log(X.sum(1, keepdims=True, dtype=np.float64))
    each = [numpy_log_p(variables["params"], np.full((COUNT, 1), z), kind, "observed", "gene", totals) for z in nodes]
    exact = special.logsumexp(np.array(each), axis=0, b=weights[:, None] / np.sqrt(2 * np.pi))
    of = iwae.densities(found.model)
    estimate = likelihood.estimate(of, found.model, variables, X, new_key(), 4000, c=C.astype(np.float32))
    assert abs(estimate["log_likelihood"] - exact.mean()) < 5 * estimate["monte_carlo_error"] < 0.2


def test_latent_library_size_is_centred_on_the_total_and_its_kl_is_that_of_two_normals():
    found, variables = built(library="latent")
    silent = jax.tree.map(np.zeros_like, variables["params"]["encoder"])
    variables = {**variables, "params": {**variables["params"], "encoder": silent}}
    q = jax.tree.map(np.asarray, apply(found.model, variables, X, C.astype(np.float32), method="posterior"))
    np.testing.assert_allclose(q.mean[:, 1], np.log(X.sum(1)), rtol=1e-5)
    kl = np.asarray(apply(found.model, variables, q, C.astype(np.float32), method="kl"))
    totals = np.log(X.sum(1, dtype=np.float64))
    mean, std = (np.array([of(totals[b == BATCH]) for b in range(3)])[BATCH] for of in (np.mean, np.std))
    scale = np.exp(scvi.LOG_SCALE)
    expected = np.log(std / scale) + (scale**2 + (totals - mean) ** 2) / (2 * std**2) - 0.5
    np.testing.assert_allclose(kl[:, 1], expected, rtol=1e-3)
    np.testing.assert_allclose(kl[:, 0], 0, atol=1e-6)


def test_library_moments_are_those_of_each_batch():
    totals = rng.normal(3, 1, 50) + np.arange(50) % 3
    c = np.eye(3)[np.arange(50) % 3]
    columns = np.concatenate([np.ones((50, 1)), c], axis=1)
    mean, variance = scvi.library_moments(totals, c) @ columns[:3].T
    np.testing.assert_allclose(mean, [totals[b::3].mean() for b in range(3)])
    np.testing.assert_allclose(variance, [totals[b::3].var() for b in range(3)])
    np.testing.assert_allclose(scvi.library_moments(totals, c[:, :0])[:, 0], [totals.mean(), totals.var()])


def test_shared_dispersion_has_the_value_and_the_gradient_of_one_for_each_example():
    outputs = rng.normal(size=(COUNT, GENES)).astype(np.float32)

    def total(log_r, shared):
        many = jnp.concatenate([outputs, jnp.broadcast_to(log_r, outputs.shape)], axis=1)
        return NegativeBinomial(7.0, shared).log_prob(many, jnp.asarray(X)).sum()

    log_r = rng.normal(size=(1, GENES)).astype(np.float32)
    descent = jax.jit(jax.value_and_grad(total), static_argnums=1)
    (one, slope), (other, expected) = (descent(log_r, shared) for shared in (True, False))
    np.testing.assert_allclose(one, other, rtol=1e-6)
    np.testing.assert_allclose(slope, expected, rtol=1e-5)


def test_codes_depend_on_the_batch_only_with_encode_context():
    for encode in (False, True):
        found, variables = built(encode_context=encode)
        one, other = (apply(found.model, variables, X, c.astype(np.float32), method="encode") for c in (C, C[::-1]))
        assert np.allclose(one, other) != encode


def test_loss_is_the_negative_elbo_and_classes_are_not_a_condition():
    found, variables = built(kl_weight=0.5)
    many = batch(X).replace(y=jnp.asarray(DATA.train.y), context=jnp.asarray(C, jnp.float32))
    terms, _ = evaluated(found.evaluate, variables, many)
    np.testing.assert_allclose(terms["loss"], terms["reconstruction"] + terms["kl"], rtol=1e-5)
    other, _ = evaluated(found.evaluate, variables, many.replace(y=1 - many.y))
    np.testing.assert_array_equal(other["loss"], terms["loss"])
    assert found.condition(DATA.conditions).classes == ()
    assert vae.condition_of(found.model, many)[0].shape == (COUNT, 3)


SMALL = {"epochs": 2, "batch_size": 6, "hidden": (4,), "latent": 2, "progress": False}


@pytest.mark.slow
def test_fit_measures_integration_and_decodes_cells_in_another_batch(tmp_path):
    model = jaxae.fit("scvi", DATA, workdir=tmp_path / "run", figures=False, library="latent", **SMALL)
    again = jaxae.load(tmp_path / "run")
    np.testing.assert_array_equal(
        again.extra["library"]["prior"]["moments"], model.extra["library"]["prior"]["moments"]
    )
    z = again.encode(X, context={"batch": np.array(["a", "b", "c"])[BATCH]})
    assert z.shape == (COUNT, 3)
    one, other = (np.asarray(again.decode(z, context={"batch": name})) for name in "ab")
    np.testing.assert_allclose(one.sum(1), np.exp(z[:, 2]), rtol=1e-4)  # of the same library size
    assert not np.allclose(one, other, rtol=1e-3)
    with pytest.raises(ValueError, match="y has no effect on SCVI: it depends on no classes"):
        again.decode(z, y="1", context={"batch": "a"})
    found = model.experiment.measures["integration"](model, DATA)
    assert found.keys() == {f"{score}_{of}" for score in ("silhouette", "knn") for of in ("type", "batch")}


@pytest.mark.slow
def test_cells_without_batches_have_no_condition():
    model = jaxae.fit("scvi", X, kind="counts", test=0, **SMALL)
    assert model.condition is None
    assert model.sample(new_key(), 3).shape == (3, GENES)


@pytest.mark.parametrize(
    ("fields", "info", "says"),
    [
        ({"likelihood": "poisson"}, DATA.info, "likelihood=poisson has no dispersion; use negative-binomial or"),
        ({}, data.Info((5,), 9, real=True), "scvi is for counts; read them with kind=counts"),
    ],
)
def test_other_data_and_likelihoods_raise(fields, info, says):
    with pytest.raises(ValueError, match=says):
        experiment.build(experiment.Config(**fields), info)


def test_integration_scores_against_loops():
    codes, labels = rng.normal(size=(40, 2)), rng.integers(0, 3, 40)
    codes[labels == 1] += 2
    found = integration.scores(np.concatenate([codes, codes[:3]]), np.concatenate([labels, [-1] * 3]), "type")
    apart = np.sqrt(((codes[:, None] - codes[None]) ** 2).sum(-1))
    silhouettes, right = [], []
    for i in range(40):
        means = [apart[i, (labels == k) & (np.arange(40) != i)].mean() for k in range(3)]
        own, other = means[labels[i]], min(m for k, m in enumerate(means) if k != labels[i])
        silhouettes.append((other - own) / max(own, other))
        nearest = [j for j in np.argsort(apart[i]) if j != i][: integration.NEIGHBOURS]
        right.append(np.bincount(labels[nearest]).argmax() == labels[i])
    assert found == pytest.approx({"silhouette_type": np.mean(silhouettes), "knn_type": np.mean(right)})
    assert integration.scores(codes, np.zeros(40, int), "batch") == {}


def test_batch_is_the_first_covariate_with_categories():
    context = np.array([[0.3, 0, 1, 1, 0], [0.1, 1, 0, 0, 1]])
    names = ["age", "batch=a", "batch=b", "sex=f", "sex=m"]
    assert integration.batches(context, names).tolist() == [1, 0]
    assert integration.batches(context[:, :1], names[:1]) is None
