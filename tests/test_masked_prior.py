"""The masked prior against enumeration of all codes, masks, orders and samples of a tiny alphabet."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from conftest import apply, batch, new_key
from jaxae import nets
from jaxae.core.types import Info
from jaxae.experiments import masked_prior as experiment
from jaxae.variants import masked_prior, quantize, vqvae
from test_residual import randomized

K, T = 2, 3
EVERY = np.array(list(itertools.product(range(K), repeat=T)))
INPUTS = np.array(list(itertools.product(range(K + 1), repeat=T)))  # also with masks
X = np.array([[0.4, -0.2, 0.7]], np.float32)


def small(**options):
    """A prior over three signs of a line of three pixels, and its variables."""
    tokenizer = vqvae.VQVAE(nets.MLP((), (3, 1), axes=1), nets.MLP((), (3,), axes=2), quantize.LFQ(1))
    net = nets.MaskedTransformer(K, T, width=8, heads=2, layers=1)
    return masked_prior.MaskedPrior(tokenizer, net, (T,), **options)


@pytest.fixture(scope="module")
def variables():
    model = small()
    found = jax.jit(model.init)(jax.random.key(0), jnp.asarray(X))["params"]
    rng = np.random.default_rng(3)
    moved = jax.tree.map(lambda leaf: leaf + jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), found["prior"])
    return {"params": {**found, "prior": moved}}


@pytest.fixture(scope="module")
def p(variables):
    """p[tokens] of each index, [T, K], in double precision from the logits."""
    logits = np.asarray(apply(small(), variables, INPUTS, method="logits"), np.float64)
    each = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return {tuple(row.tolist()): probabilities for row, probabilities in zip(INPUTS, each, strict=True)}


def test_schedule_against_a_calculation_by_hand_with_at_least_one_index_per_step():
    assert masked_prior.masked_counts(16, 4) == [14, 11, 6, 0]  # 16 times 0.924, 0.707, 0.383, 0
    assert masked_prior.masked_counts(100, 3) == [86, 50, 0]
    assert masked_prior.masked_counts(3, 3) == [2, 1, 0]
    assert masked_prior.masked_counts(9, 1) == [0]
    for length, steps in ((49, 8), (49, 49), (5, 4)):
        counts = [length, *masked_prior.masked_counts(length, steps)]
        assert np.all(np.diff(counts) < 0)
        assert counts[-1] == 0
    for steps in (0, 4):
        with pytest.raises(ValueError, match=f"steps={steps} must be from 1 to the 3 indices"):
            masked_prior.masked_counts(3, steps)


def test_masks_have_cosine_or_uniform_counts_and_uniform_positions():
    many = batch(np.zeros((4000, 1), np.float32))
    for uniform in (False, True):
        found = np.asarray(masked_prior.masks(many, new_key(), 5, uniform=uniform))
        edges = np.arange(6) / 5  # cos(pi u / 2) <= n / 5 for u >= 2 / pi arccos(n / 5)
        cumulative = edges if uniform else 1 - 2 / np.pi * np.arccos(edges)
        counts = np.bincount(found.sum(1), minlength=6)
        assert counts[0] == 0
        assert stats.chisquare(counts[1:], 4000 * np.diff(cumulative)).pvalue > 1e-3
        np.testing.assert_allclose(found.mean(0), found.mean(), atol=0.03)


def test_loss_is_the_mean_over_masked_indices_and_its_bound_that_of_random_orders(variables, p):
    """100 copies of one example have their own masks; the expected bound over all masks is that over all orders."""
    model, part = small(), batch(np.repeat(X, 100, 0), training=False)
    row = np.asarray(apply(model, variables, X, method="indices"))[0]

    def nats(hidden):
        """-log p of the hidden indices given the others; for a single index, that of its softmax."""
        tokens = tuple(K if i in hidden else int(row[i]) for i in range(T))
        return [-np.log(p[tokens][i, row[i]]) for i in hidden]

    terms, updates = jax.jit(masked_prior.loss(model))(variables, part, new_key())
    assert updates == {}
    cosine, uniform = jax.random.split(new_key())
    hidden = [np.flatnonzero(mask).tolist() for mask in np.asarray(masked_prior.masks(part, cosine, T))]
    assert len({tuple(places) for places in hidden}) == 7  # all sets
    np.testing.assert_allclose(terms["loss"], [np.mean(nats(places)) for places in hidden], rtol=1e-4)
    right = [
        np.mean([p[tuple(K if j in places else int(row[j]) for j in range(T))][i].argmax() == row[i] for i in places])
        for places in hidden
    ]
    np.testing.assert_allclose(terms["accuracy"], right, rtol=1e-6)
    hidden = [np.flatnonzero(mask).tolist() for mask in np.asarray(masked_prior.masks(part, uniform, T, uniform=True))]
    bounds = [T * np.mean(nats(places)) for places in hidden]
    np.testing.assert_allclose(terms["bits_per_index"], np.array(bounds) / (T * np.log(2)), rtol=1e-4)
    sets = [[T * np.mean(nats(h)) for h in itertools.combinations(range(T), n)] for n in (1, 2, 3)]
    orders = [sum(nats([order[i], *order[i + 1 :]])[0] for i in range(T)) for order in itertools.permutations(range(T))]
    assert np.mean([np.mean(one) for one in sets]) == pytest.approx(np.mean(orders), rel=1e-9)


def reference(p, counts, tokens=(K,) * T):
    """Probability of every sequence for sampling without noise in the choice, by recursion over all samples."""
    found = np.zeros((K,) * T)
    if not counts:
        found[tokens] = 1
        return found
    hidden = [i for i in range(T) if tokens[i] == K]
    for values in itertools.product(range(K), repeat=len(hidden)):
        chances = [p[tokens][i, v] for i, v in zip(hidden, values, strict=True)]
        filled = list(tokens)
        for i, v in zip(hidden, values, strict=True):
            filled[i] = v
        for place in np.argsort(chances)[: counts[0]]:
            filled[hidden[place]] = K
        found += np.prod(chances) * reference(p, counts[1:], tuple(filled))
    return found


def in_random_order(p):
    found = np.zeros((K,) * T)
    for row in itertools.product(range(K), repeat=T):
        for order in itertools.permutations(range(T)):
            tokens, chance = [K] * T, 1 / 6
            for i in order:
                chance *= p[tuple(tokens)][i, row[i]]
                tokens[i] = row[i]
            found[row] += chance
    return found


@pytest.mark.parametrize(("steps", "temperature"), [(1, 4.5), (2, 0.0), (3, 0.0), (3, 1e6)])
def test_samples_follow_the_distribution_found_by_enumeration(variables, p, steps, temperature):
    """One step: independent; no noise: the most confident ones are kept; large noise: a random order."""
    model = small(steps=steps, temperature=temperature)
    expected = in_random_order(p) if temperature > 5 else reference(p, masked_prior.masked_counts(T, steps))
    np.testing.assert_allclose(expected.sum(), 1, rtol=1e-9)
    codes = jax.jit(lambda key: model.apply(variables, key, 4000, method="sample"))(new_key())
    counts = np.bincount((np.asarray(codes)[..., 0] > 0) @ [4, 2, 1], minlength=8)
    assert stats.chisquare(counts, 4000 * expected.ravel()).pvalue > 1e-3
    assert np.ptp(expected) > 0.05


def test_logits_depend_on_the_condition_and_on_all_inputs_and_start_uniform():
    net = nets.MaskedTransformer(K, T, width=8, heads=2, layers=1)
    tokens, c = INPUTS[:4], np.ones((4, 2), np.float32)
    params = jax.jit(net.init)(new_key(), tokens, c)
    assert not np.any(apply(net, params, tokens, c))
    moved = randomized(params)
    first = np.asarray(apply(net, moved, tokens, c))
    assert np.abs(first - np.asarray(apply(net, moved, tokens, -c))).max() > 1e-3
    others = np.concatenate([tokens[:, :2], (tokens[:, 2:] + 1) % 3], axis=1)
    later = np.asarray(apply(net, moved, others, c))
    assert np.abs(later - first)[:, 0].max() > 1e-3


def test_steps_are_checked_when_the_experiment_is_built():
    config = experiment.Config(filters=(2,), codes=8, width=8, heads=2, layers=1, steps=5)
    with pytest.raises(ValueError, match="steps=5 must be from 1 to the 4 indices of an example"):
        experiment.build(config, Info((4, 4, 1), 10))
