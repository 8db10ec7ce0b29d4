"""The world of sparse features: frequencies, correlations, hierarchy and magnitudes against their formulas."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import jaxae
from jaxae import data
from jaxae.data import features
from jaxae.data.draws import TEST
from jaxae.data.superposition import WORLDS, World, arrays, compensated, frequencies, gradient, orthogonalized, trees
from jaxae.errors import InputError
from jaxae.measure import dictionary
from test_dictionary import trained

COUNT = 20_000
SMALL = {"features": 36, "dim": 6, "roots": 2, "children": 3, "depth": 2, "rank": 2, "steps": 3, "std": 1.5, "seed": 1}
SMALL |= {"frequency": 0.8, "least_frequency": 0.35, "mean": 3.0, "last_mean": 1.0}
# The features of trees: roots 0 and 1, their children 2-4 and 5-7, grandchildren 8-25. The others have no hierarchy.
INDEPENDENT, CORRELATED = World(**SMALL, correlation=0.0), World(**SMALL, correlation=0.5, scaled=False)
TOP = [0, 1, *range(26, 36)]


def sampled(world, count=COUNT):
    """Constants, and magnitudes of all features in as many examples."""
    constants, of = arrays(world), trees(world)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(world.seed), jnp.arange(count))
    draw = jax.jit(jax.vmap(partial(features.magnitudes, trees=of), (0, None)))
    return constants, np.asarray(draw(keys, constants), np.float64)


@pytest.fixture(scope="module")
def independent():
    return sampled(INDEPENDENT)


@pytest.fixture(scope="module")
def correlated():
    return sampled(CORRELATED)


def within(found, expected, sigma=5.0, count=COUNT):
    """Whether frequencies agree with probabilities, within this many standard errors of a binomial distribution."""
    expected = np.asarray(expected)
    error = np.abs(found - expected) / np.sqrt(np.maximum(expected * (1 - expected), 1e-9) / count)
    assert np.max(error) < sigma, np.argmax(error)


def wins(q, rest):
    """The probability that a child that would fire with probability q is chosen, uniformly among all that would."""
    ways = product(*([(1 - r, 0), (r, 1)] for r in rest))
    return q * sum(np.prod([p for p, _ in way]) / (1 + sum(n for _, n in way)) for way in ways)


def positive(world, constants):
    return stats.norm.cdf(constants.mean.astype(float) / constants.std)


def test_features_without_parent_fire_with_their_frequencies(independent, correlated):
    for world, (constants, f) in ((INDEPENDENT, independent), (CORRELATED, correlated)):
        within((f[:, TOP] > 0).mean(0), (frequencies(world) * positive(world, constants))[TOP])
    assert (correlated[1][:, TOP] > 0).sum(1).max() > features.SLOTS  # more than are sampled at a time


def test_pairs_fire_together_with_the_probability_of_the_gaussian_copula(correlated):
    constants, f = correlated
    own = 1 / np.sqrt(1 + np.sum(constants.slope.astype(float) ** 2, 1, keepdims=True))
    factor, p = constants.slope * own, frequencies(CORRELATED)
    above = positive(CORRELATED, constants)
    rho = factor @ factor.T
    pairs = [(i, j) for i in TOP for j in TOP if i < j and abs(rho[i, j]) > 0.1]
    assert max(rho[i, j] for i, j in pairs) > 0.3
    assert min(rho[i, j] for i, j in pairs) < -0.3
    for i, j in pairs:
        both = stats.multivariate_normal([0, 0], [[1, rho[i, j]], [rho[i, j], 1]]).cdf(stats.norm.ppf([p[i], p[j]]))
        within(np.mean((f[:, i] > 0) & (f[:, j] > 0)), both * above[i] * above[j])


def test_children_fire_only_with_their_parent_and_never_together(independent, correlated):
    parent = trees(INDEPENDENT).parent(36)
    np.testing.assert_array_equal(parent[:9], [-1, -1, 0, 0, 0, 1, 1, 1, 2])
    np.testing.assert_array_equal(parent[23:28], [7, 7, 7, -1, -1])
    for _, f in (independent, correlated):
        fires = f > 0
        for node in range(8):
            children = fires[:, parent == node]
            assert children.shape[1] == 3
            assert not children[~fires[:, node]].any()
            assert children.sum(1).max() == 1
            assert children.any(0).all()


def test_child_is_chosen_uniformly_among_those_that_would_fire(independent):
    constants, f = independent
    q = compensated(frequencies(INDEPENDENT), trees(INDEPENDENT)) * positive(INDEPENDENT, constants)
    parent = trees(INDEPENDENT).parent(36)
    for child in range(2, 26):
        with_parent = f[f[:, parent[child]] > 0]
        rest = [q[i] for i in range(36) if parent[i] == parent[child] and i != child]
        within(np.mean(with_parent[:, child] > 0), wins(q[child], rest), count=len(with_parent))


def test_magnitudes_are_the_positive_part_of_normal_numbers(independent, correlated):
    """If scaled, that of a child is multiplied by the magnitude of its parent over the mean of its parent."""
    for world, (constants, f) in ((INDEPENDENT, independent), (CORRELATED, correlated)):
        parent = trees(world).parent(36)
        for i in (0, 3, 12, 30):
            fires = f[:, i] > 0
            m = f[fires, i]
            if world.scaled and parent[i] >= 0:
                m = m * constants.mean[parent[i]] / f[fires, parent[i]]
            mean, std = float(constants.mean[i]), float(constants.std[i])
            assert stats.kstest(m, stats.truncnorm(-mean / std, np.inf, mean, std).cdf).pvalue > 1e-4
            if parent[i] >= 0:
                raw = f[fires, parent[i]]
                assert abs(np.corrcoef(m, raw)[0, 1]) < 5 / np.sqrt(len(m))


def test_magnitudes_without_deviation_are_the_mean():
    world = World(**{**SMALL, "std": 0.0, "std_spread": 0.0}, scaled=False)
    constants, f = sampled(world, 200)
    np.testing.assert_array_equal(np.unique(f, axis=0).max(0), constants.mean * (f > 0).any(0))
    assert set(np.unique(f)) <= {0.0, *constants.mean.astype(float)}


def test_magnitudes_are_finite_for_every_uniform_number():
    """One uniform float32 number in 2^23 is 0 or, with a positive minimum, so small that a product with it is 0."""
    constants, index = arrays(World(**SMALL)), np.arange(36)
    magnitude = jax.jit(features._magnitude)
    for uniform in (0.0, np.finfo(np.float32).tiny, 2.0**-23):
        found = np.asarray(magnitude(np.full(36, uniform, np.float32), index, constants))
        assert np.all(found <= constants.mean + 5.6 * constants.std), uniform
        assert np.all(found >= constants.mean + 4.5 * constants.std), uniform


def test_examples_are_combinations_of_the_features_that_fire():
    found = data.superposition(**SMALL, train=50, test=40)
    constants = arrays(World(**SMALL))
    key = jax.random.fold_in(jax.random.key(0), TEST)
    of = trees(World(**SMALL))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(40))
    f = np.asarray(jax.jit(jax.vmap(partial(features.magnitudes, trees=of), (0, None)))(keys, constants))
    np.testing.assert_allclose(found.test.x, f @ constants.dictionary + constants.bias, rtol=1e-5, atol=1e-5)
    fires = found.test.firing[:]
    np.testing.assert_array_equal(fires, f > 0)
    np.testing.assert_array_equal(found.dictionary, constants.dictionary)
    np.testing.assert_array_equal(found.test.firing[np.arange(40)[::-1]], fires[::-1])
    assert found.info.mean().shape == (6,)


@pytest.mark.slow
def test_a_single_feature_and_no_hierarchy_are_valid():
    for constants in ({"features": 1, "dim": 2}, {"roots": 0, "depth": 0}, {"roots": 100, "children": 1}):
        found = data.superposition(**{**SMALL, "steps": 0, **constants}, train=8, test=50)
        fires = found.test.firing[:]
        assert fires.any()
        assert np.isfinite(found.test.x).all()


def test_frequencies_are_zipfian():
    p = frequencies(WORLDS["16k"])
    rank = np.arange(1, 16_385) ** -0.5
    assert (p[0], p[-1]) == (0.4, 5e-4)
    np.testing.assert_allclose((p - 5e-4) / (p[1] - 5e-4), (rank - rank[-1]) / (rank[1] - rank[-1]), rtol=1e-9)


def test_compensation_divides_by_the_parent_and_counts_competitors():
    p = np.array([0.5, 0.4, 0.1, 0.2, 0.3, 0.05, 0.9, 0.02])
    of = features.Trees(2, 2, 1, 6)
    expected = [0.5, 0.4, 0.1 / 0.5 * (1 + 0.2 / 0.5), 0.2 / 0.5 * (1 + 0.1 / 0.5)]
    expected += [0.3 / 0.4 * (1 + 0.05 / 0.4), 0.05 / 0.4 * (1 + 0.3 / 0.4), 0.9, 0.02]
    np.testing.assert_allclose(compensated(p, of), expected)
    assert compensated(np.array([0.1, 0.9]), features.Trees(1, 2, 1, 2))[1] == 1


def test_dictionary_descends_towards_orthogonality():
    start = np.random.default_rng(0).normal(size=(7, 3))
    start /= np.linalg.norm(start, axis=1, keepdims=True)

    def loss(d):
        gram, off = d @ d.T, 1 - np.eye(7)
        return jnp.sum((gram * off) ** 2) + 7 * jnp.sum((jnp.diag(gram) - 1) ** 2)

    with jax.enable_x64(True):
        moved = jnp.asarray(1.1 * start)
        np.testing.assert_allclose(gradient(1.1 * start), jax.jit(jax.grad(loss))(moved), rtol=1e-10)
        adam, d = optax.adam(1e-2), jnp.asarray(start)
        state, update_of = adam.init(d), jax.jit(adam.update)
        for _ in range(3):
            update, state = update_of(gradient(np.asarray(d)), state)
            d = np.asarray(d) + np.asarray(update)
        expected = d / np.linalg.norm(d, axis=1, keepdims=True)
        np.testing.assert_allclose(orthogonalized(3 * start, 3, 1e-2), expected, rtol=1e-8)
        assert loss(orthogonalized(start, 200, 1e-2)) < 0.8 * loss(start)


def test_dictionary_is_computed_once(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXAE_CACHE", str(tmp_path))
    first = arrays(World(**SMALL)).dictionary
    (file,) = tmp_path.glob("*.npy")
    np.save(file, 2 * first)
    np.testing.assert_array_equal(arrays(World(**SMALL)).dictionary, 2 * first)
    for other in ({"seed": 2}, {"steps": 4}, {"lr": 1e-3}, {"dim": 7}):
        assert arrays(World(**{**SMALL, **other})).dictionary.max() <= 1
    file.write_bytes(file.read_bytes()[:100])  # a damaged file is replaced
    np.testing.assert_array_equal(arrays(World(**SMALL)).dictionary, first)
    np.testing.assert_array_equal(np.load(file), first)


def test_constants_are_those_of_the_fields():
    found = arrays(World(**SMALL, bias=0.7, correlation=0.3))
    np.testing.assert_allclose(np.linalg.norm(found.dictionary, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.bias), 0.7, rtol=1e-6)
    np.testing.assert_allclose(found.mean[[0, 18, -1]], [3, 3 - 2 * 18 / 35, 1], rtol=1e-6)
    large = arrays(World(features=4000, dim=2, steps=0, rank=3, correlation=0.2, std=0.5, std_spread=0.25))
    own = 1 / np.sqrt(1 + np.sum(large.slope**2, 1, keepdims=True))
    factor = large.slope * own
    np.testing.assert_allclose(factor.std(), 0.2, rtol=0.03)
    expected = stats.norm.isf(compensated(frequencies(World(features=4000)), trees(World(features=4000))))
    np.testing.assert_allclose(large.threshold * own[:, 0], expected, rtol=1e-4, atol=1e-5)
    assert stats.kstest(large.std, stats.foldnorm(0.5 / 0.25, scale=0.25).cdf).pvalue > 1e-4
    strong = arrays(World(**SMALL, correlation=2.0))  # capped: an own variance of 0.01 is left
    np.testing.assert_allclose((1 / (1 + np.sum(strong.slope.astype(float) ** 2, 1))).min(), 0.01, rtol=1e-4)


@pytest.mark.slow
def test_true_dictionary_recovers_the_world():
    """Orthogonal features: their own encoder with a threshold below all magnitudes finds every firing."""
    found = data.superposition(
        **{**SMALL, "features": 6, "steps": 800, "lr": 0.01, "std_spread": 0.0, "std": 0.2}, test=500
    )
    d, bias = found.dictionary, arrays(World(**{**SMALL, "features": 6, "steps": 0})).bias
    model = trained(d.T, d, encoder_bias=-0.3 - d @ bias, decoder_bias=bias)
    scores = dictionary.measure(model, found)
    assert scores["mcc"] > 0.999
    assert scores["uniqueness"] == 1
    assert scores["true_l0"] == found.test.firing[:].sum(1).mean()
    assert scores["f1"] > 0.97


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("superposition/32k", "data=superposition/32k is unknown; use superposition/eighth or superposition/16k"),
        ("superposition/eighth,size=3", "size is not a field of World; use one of features, dim"),
        ("superposition,dim=3.5", "dim=3.5 must be an integer"),
        ("superposition,lr=small", "lr=small must be a number"),
        ("superposition,shared=1", "shared=1 must be true or false"),
        ("superposition,dim=0", "dim=0 must be at least 1"),
        ("superposition,frequency=1e-5", "least_frequency=0.0005 and frequency=1e-05 must be probabilities"),
        ("superposition,exponent=0", "mean, last_mean and exponent must be above 0"),
    ],
)
def test_unknown_worlds_and_constants_raise(name, says):
    with pytest.raises(InputError, match=says):
        data.load(name)


@pytest.mark.parametrize(("value", "seed"), [("true", 3), ("True", 3), ("false", None), ("False", None)])
def test_boolean_constants_may_be_capitalized(value, seed):
    assert data.load(f"superposition,train=1,test=1,steps=0,seed=3,shared={value}").train.x.seed == seed


@pytest.mark.parametrize("option", [{"scale": "standard"}, {"test": "0.1"}, {"size": 3}, {"context": ("a",)}])
def test_options_without_effect_raise(option):
    with pytest.raises(InputError, match=f"{next(iter(option))}=.* has no effect on superposition,dim=4; omit it"):
        data.load("superposition,dim=4", **option)


def test_names_hold_the_constants():
    short = ",".join(f"{name}={value}" for name, value in SMALL.items())
    found = data.load(f"superposition/eighth,{short},train=9,test=5,shared=true", scale="none")
    same = data.superposition(**SMALL, train=9, test=5, shared=True)
    assert found.fingerprint() == same.fingerprint()
    others = [{}, {"seed": 2}, {"shared": True}, {"mean": 2.0}]
    assert len({data.superposition(**{**SMALL, "steps": 0, **o}, train=9, test=5).fingerprint() for o in others}) == 4
    assert (found.kind, found.real, len(found.train.x)) == ("table", True, 9)


@pytest.mark.slow
def test_fit_trains_on_a_world_by_name(tmp_path):
    name = "superposition,features=36,dim=6,roots=2,steps=0,train=32,test=40"
    model = jaxae.fit(
        "ksparse", name, epochs=1, batch_size=16, latent=8, active=2, workdir=tmp_path / "run", figures=False
    )
    loaded = jaxae.load(tmp_path / "run")
    x = data.load(name).test.x
    np.testing.assert_array_equal(loaded.encode(x), model.encode(x))
    np.testing.assert_allclose(model.encode(2 * x), model.encode(data.load(name).test._replace(x=2 * x)))  # no scale


@pytest.mark.slow
@pytest.mark.parametrize(("name", "l0", "first"), [("eighth", 10.9, 8.3), ("16k", 34.5, 25.2)])
def test_worlds_have_the_published_l0(name, l0, first):
    """Chanin & Garriga-Alonso 2026: about 34, and 25 of the 4,096 most frequent features."""
    _, f = sampled(World(**{**vars(WORLDS[name]), "steps": 0, "dim": 2}), 2000)
    assert (f > 0).sum(1).mean() == pytest.approx(l0, abs=0.5)
    assert (f[:, : f.shape[1] // 4] > 0).sum(1).mean() == pytest.approx(first, abs=0.4)
