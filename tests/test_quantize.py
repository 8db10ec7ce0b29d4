"""Quantizers against NumPy."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, softmax

from conftest import apply, batch, equal, initial, new_key
from jaxae.core.batch import AXIS, Batch, Layout
from jaxae.variants import quantize
from jaxae.variants.quantize import codebook
from jaxae.variants.quantize import rotation as rotations
from jaxae.variants.quantize.entropy import joint_entropy, marginal_entropy
from jaxae.variants.quantize.named import FIELDS

RNG = np.random.default_rng(0)


def vectors(*shape, scale=1.0):
    return jnp.asarray(scale * np.random.default_rng(len(shape)).normal(size=shape), jnp.float32)


def applied(quantizer, z, variables=None, train=True):
    """Codes, indices and terms of a batch, the updates, and the variables."""
    variables = jax.jit(quantizer.init)(new_key(), z) if variables is None else variables
    apply = jax.jit(partial(quantizer.apply, mutable=[name for name in variables if name != "params"]))
    return *apply(variables, z, batch(z, training=train), new_key()), variables


def rotation(a, b):
    """The rotation of the plane of a and b that turns the direction of a into that of b."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    cosine = a @ b
    v = (b - cosine * a) / np.linalg.norm(b - cosine * a)
    sine = np.sqrt(1 - cosine**2)
    plane = np.outer(a, a) + np.outer(v, v)
    return np.eye(len(a)) + sine * (np.outer(v, a) - np.outer(a, v)) + (cosine - 1) * plane


def test_rotation_trick_has_the_value_of_q_and_the_gradient_of_a_rotation():
    z, q = vectors(3, 4, scale=2), jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)
    assert equal(jax.jit(quantize.rotated)(z, q), q)
    slope = np.asarray(vectors(3, 4, 1))[..., 0]
    weighted = jax.grad(lambda z, q: jnp.sum(quantize.rotated(z, q) * slope), argnums=(0, 1))
    to_z, to_q = map(np.asarray, jax.jit(weighted)(z, q))
    assert not to_q.any()
    for i in range(3):
        a, b = (np.asarray(v[i], np.float64) for v in (z, q))
        scaled = np.linalg.norm(b) / np.linalg.norm(a) * rotation(a, b)
        np.testing.assert_allclose(scaled @ a, b, rtol=1e-6)
        np.testing.assert_allclose(to_z[i], scaled.T @ slope[i], rtol=1e-5, atol=1e-6)


def test_rotation_trick_is_finite_for_opposite_and_for_zero_vectors():
    z = jnp.array([[1.0, 0.0], [0.0, 0.0], [2.0, 1.0]])
    q = jnp.array([[-2.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    value, gradient = jax.jit(jax.value_and_grad(lambda z: jnp.sum(quantize.rotated(z, q) ** 2)))(z)
    assert value == 6
    assert np.isfinite(gradient).all()


def lloyd(z, start, iterations):
    """k-means in NumPy, and the fraction of the vectors nearest to each centre."""
    z, centres = np.asarray(z, np.float64), np.asarray(start, np.float64)
    for i in range(iterations + 1):
        rows = ((z[:, None] - centres) ** 2).sum(-1).argmin(1)
        if i < iterations:
            centres = np.stack([z[rows == k].mean(0) if (rows == k).any() else c for k, c in enumerate(centres)])
    return centres, np.bincount(rows, minlength=len(centres)) / len(z)


@pytest.mark.parametrize(("n", "k"), [(60, 7), (4, 6)])
def test_kmeans_against_numpy_from_the_same_vectors(n, k):
    """Some of 4 vectors start two of 6 centres, the second of which gets no vectors and does not move."""
    z, kmeans = vectors(n, 3), jax.jit(codebook.kmeans, static_argnums=(1, 3))
    start, _ = kmeans(z, k, new_key(), 0)
    assert {tuple(row) for row in np.asarray(start)} <= {tuple(row) for row in np.asarray(z)}
    assert n < k or len(np.unique(np.asarray(start), axis=0)) == k
    found = kmeans(z, k, new_key(), 4)
    for a, b in zip(found, lloyd(z, start, 4), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("learned", [False, True])
def test_kmeans_of_the_first_batch_starts_the_codebook_once(learned):
    vq = quantize.VQ(5, 2, kmeans=3, learned=learned, decay=0.9, estimator=quantize.rotated)
    z = np.asarray(vectors(8, 4, 2))
    variables = initial(vq, z)
    assert not variables["codebook"]["started"]
    step = jax.jit(partial(vq.apply, mutable=["codebook"]))
    found, updates = step(variables, z, batch(z), new_key())
    kmeans = jax.jit(codebook.kmeans, static_argnums=(1, 3))
    start, _ = kmeans(z.reshape(-1, 2), 5, jax.random.fold_in(new_key(), 1), 0)
    centres, shares = lloyd(z.reshape(-1, 2), start, 3)
    np.testing.assert_allclose(found.codes, centres[np.asarray(found.indices)], rtol=1e-4, atol=1e-5)
    assert updates["codebook"]["started"]
    np.testing.assert_allclose(updates["codebook"]["use"], 5 * shares, rtol=1e-4)  # 0.9 of it, and 0.1 of the same
    again, _ = step({**variables, **updates}, z + 100, batch(z), new_key())
    assert np.abs(again.codes).max() < 10  # no k-means of the second batch


def test_replacements_are_sampled_in_proportion_to_the_squared_error():
    z = jnp.array([0.0, 1.0, 2.0, 7.0]).reshape(4, 1, 1)
    codes = np.concatenate([[[0.0], [6.0]], np.full((4998, 1), 1e3)]).astype(np.float32)
    replacements = jax.jit(codebook.replacements, static_argnums=3)
    fresh, _ = replacements(z, codes, np.ones(5000, bool), "error", batch(z), new_key())
    counts = np.array([np.sum(np.asarray(fresh) == value) for value in (0, 1, 2, 7)])
    expected = np.array([0, 1, 4, 1]) / 6 * 5000
    assert np.all(np.abs(counts - expected) <= 4 * np.sqrt(expected))


def test_reinitialized_codes_have_the_given_usage_and_leave_it_to_their_vectors():
    vq = quantize.VQ(3, 1, decay=0.5, reinit_below=0.2, reinit_usage=0.3, sampling="error")
    z = jnp.array([1.0, 1.1, 5.0, 0.9]).reshape(4, 1, 1)
    variables = {"codebook": {"codes": jnp.array([[1.0], [2.0], [-9.0]]), "use": jnp.array([1.0, 1.0, 0.1])}}
    _, updates, _ = applied(vq, z, variables)
    use = 0.5 * np.array([1, 1, 0.1]) + 0.5 * 3 * np.array([0.75, 0.25, 0])
    np.testing.assert_allclose(updates["codebook"]["use"], [*use[:2], 0.3], rtol=1e-6)
    assert np.asarray(updates["codebook"]["codes"])[2, 0] in np.asarray(z)


def test_cosine_distance_against_numpy():
    vq = quantize.VQ(6, 3, cosine=True, commitment=0.7, decay=0.6)
    z = vectors(4, 2, 3, scale=3)
    found, updates, variables = applied(vq, z)
    u = np.asarray(z, np.float64) / np.linalg.norm(z, axis=-1, keepdims=True)
    stored = np.asarray(variables["codebook"]["codes"], np.float64)
    e = stored / np.linalg.norm(stored, axis=1, keepdims=True)
    rows = (u @ e.T).argmax(-1)
    assert np.array_equal(found.indices, rows)
    np.testing.assert_allclose(found.codes, e[rows], rtol=1e-5, atol=1e-6)
    square = ((u - e[rows]) ** 2).sum((1, 2))
    np.testing.assert_allclose(found.terms["quantization"], square, rtol=1e-5)
    np.testing.assert_allclose(found.terms["loss"], 0.7 * square, rtol=1e-5)
    for k in np.unique(rows):  # the first vectors move a code to their mean
        moved = np.asarray(updates["codebook"]["codes"])[k]
        np.testing.assert_allclose(moved, u[rows == k].mean(0), rtol=1e-4, atol=1e-5)


def test_simvq_learns_the_linear_map_alone_against_numpy():
    quantizer, z = quantize.SimVQ(7, 3, commitment=0.4), vectors(4, 2, 3)
    found, updates, variables = applied(quantizer, z)
    fixed, weights = (
        np.asarray(a, np.float64) for a in (variables["codebook"]["codes"], variables["params"]["codebook"])
    )
    np.testing.assert_allclose(weights @ weights.T, np.eye(3), atol=1e-6)
    book, x = fixed @ weights, np.asarray(z, np.float64)
    rows = ((x[..., None, :] - book) ** 2).sum(-1).argmin(-1)
    assert np.array_equal(found.indices, rows)
    assert equal(updates["codebook"]["codes"], variables["codebook"]["codes"])
    square = ((x - book[rows]) ** 2).sum((1, 2))
    np.testing.assert_allclose(found.terms["loss"], 1.4 * square, rtol=1e-5)

    def loss(params, z):
        found = quantizer.apply({**variables, "params": params}, z)
        return jnp.sum(found.terms["loss"])

    to_map, to_z = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables["params"], z)
    off = (book[rows] - x).reshape(-1, 3)
    np.testing.assert_allclose(to_map["codebook"], 2 * fixed[rows.ravel()].T @ off, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(to_z, 2 * 0.4 * (x - book[rows]), rtol=1e-4, atol=1e-5)


def entropy(p):
    return stats.entropy(p, axis=-1)


@pytest.mark.parametrize(
    "quantizer",
    [
        quantize.LFQ(3, commitment=0.3, entropy=0.2, diversity=0.6, temperature=0.8),
        quantize.BSQ(3, commitment=0.3, entropy=0.2, diversity=0.6, temperature=0.4, joint=True),
        quantize.BSQ(3, commitment=0.3, entropy=0.2, diversity=0.6, temperature=0.4),
    ],
)
def test_binary_codes_and_their_entropies_against_enumeration(quantizer):
    """p(c|z) of all 8 codes, proportional to exp(z . c / temperature)."""
    z = vectors(4, 5, 3)
    found, _, _ = applied(quantizer, z, {})
    spherical = isinstance(quantizer, quantize.BSQ)
    u = np.asarray(z, np.float64)
    u = u / np.linalg.norm(u, axis=-1, keepdims=True) if spherical else u
    unit = 3**-0.5 if spherical else 1
    codes = unit * np.array([[2 * (k >> bit & 1) - 1 for bit in range(3)] for k in range(8)])
    rows = ((u[..., None, :] - codes) ** 2).sum(-1).argmin(-1)
    assert np.array_equal(found.indices, rows)
    np.testing.assert_allclose(found.codes, codes[rows], rtol=1e-6)
    p = softmax(u @ codes.T / quantizer.temperature, axis=-1)
    own, mean = entropy(p), p.mean((0, 1))
    white = [mean[codes[:, bit] > 0].sum() for bit in range(3)]
    shared = entropy(mean) if quantizer.joint else sum(entropy([share, 1 - share]) for share in white)
    square = ((u - codes[rows]) ** 2).sum((1, 2))
    np.testing.assert_allclose(found.terms["code_entropy"], own.mean(1), rtol=1e-5)
    np.testing.assert_allclose(found.terms["usage_entropy"], np.full(4, shared), rtol=1e-5)
    expected = 0.3 * square + 0.2 * (own.sum(1) - 0.6 * 5 * shared)
    np.testing.assert_allclose(found.terms["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(found.terms["quantization"], square, rtol=1e-5)
    evaluated, _, _ = applied(quantizer, z, {}, train=False)
    np.testing.assert_allclose(evaluated.terms["loss"], 0.3 * square + 0.2 * own.sum(1), rtol=1e-5)


def test_entropy_of_one_bit_and_of_none_in_a_half():
    z = np.float32([[2.0], [-1.0]])
    mean = np.mean(expit([2, -1]))
    found = jax.jit(joint_entropy)(z, np.full(2, 0.5, np.float32), batch(z))
    np.testing.assert_allclose(found, entropy([mean, 1 - mean]), rtol=1e-6)


def test_gradient_of_binary_codes_is_passed_to_the_prepared_vector():
    z = vectors(2, 3, 4)
    for kind, norm in ((quantize.LFQ, False), (quantize.BSQ, True)):
        slope = jax.jit(jax.grad(lambda z, k=kind: jnp.sum(k(4, entropy=0.0)(z).codes ** 3)))(z)
        u, length = np.asarray(z), np.linalg.norm(z, axis=-1, keepdims=True)
        codes = np.sign(u) * (0.5 if norm else 1)
        expected = 3 * codes**2
        if norm:
            unit = u / length
            expected = (expected - unit * (unit * expected).sum(-1, keepdims=True)) / length
        np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)


def test_gumbel_samples_follow_the_softmax_and_its_terms_are_exact():
    quantizer = quantize.Gumbel(4, 3, temperature=0.7, kl_weight=0.5)
    z = np.tile(vectors(1, 1, 3), (3000, 2, 1))
    found, _, variables = applied(quantizer, z)
    dense = jax.tree.map(np.asarray, variables["params"]["logits"])
    found = jax.tree.map(np.asarray, found)
    q = softmax(np.asarray(z[0, 0] @ dense["kernel"] + dense["bias"], np.float64))
    counts = np.bincount(np.ravel(found.indices), minlength=4)
    assert stats.chisquare(counts, 6000 * q).pvalue > 1e-3
    np.testing.assert_allclose(found.terms["kl"][0], 2 * np.sum(q * np.log(4 * q)), rtol=1e-4)
    np.testing.assert_allclose(found.terms["loss"], 0.5 * found.terms["kl"], rtol=1e-6)
    book = np.asarray(variables["params"]["codebook"])
    np.testing.assert_allclose(found.codes, book[found.indices], rtol=1e-6)
    certain = apply(quantizer, variables, z[:2])
    assert np.array_equal(certain.indices, np.full((2, 2), q.argmax()))


def test_gradient_of_hard_gumbel_samples_is_that_of_the_soft_ones():
    hard, soft = (quantize.Gumbel(4, 3, temperature=0.7, hard=hard) for hard in (True, False))
    z = vectors(5, 2, 3)
    variables = initial(hard, z)
    slope = vectors(5, 2, 3, 1)[..., 0]

    def value(quantizer, z):
        return jnp.sum(quantizer.apply(variables, z, batch(z), new_key()).codes * slope)

    a, b = (jax.jit(jax.grad(value, argnums=1), static_argnums=0)(quantizer, z) for quantizer in (hard, soft))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert np.abs(a).max() > 1e-3


def test_residual_stages_against_numpy():
    quantizer = quantize.Residual(tuple(quantize.VQ(5, 2, commitment=0.3, learned=True) for _ in range(3)))
    z = vectors(4, 3, 2)
    found, _, variables = applied(quantizer, z)
    z, found = jax.tree.map(np.asarray, (z, found))
    rest, loss = z.astype(np.float64), 0
    for i in range(3):
        book = np.asarray(variables["params"][f"layers_{i}"]["codebook"], np.float64)
        rows = ((rest[..., None, :] - book) ** 2).sum(-1).argmin(-1)
        assert np.array_equal(found.indices[..., i], rows)
        rest = rest - book[rows]
        loss = loss + 1.3 * (rest**2).sum((1, 2))
        partial_codes = apply(quantizer, variables, found.indices[..., : i + 1], method="embed")
        np.testing.assert_allclose(partial_codes, z - rest, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.codes, z - rest, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.terms["loss"], loss, rtol=1e-4)
    np.testing.assert_allclose(found.terms["quantization"], (rest**2).sum((1, 2)), rtol=1e-4)
    slope = jax.jit(jax.grad(lambda z: jnp.sum(quantizer.apply(variables, z).codes ** 3)))(z)
    np.testing.assert_allclose(slope, 3 * found.codes**2, rtol=1e-5)  # not three times the gradient


def test_residual_stages_of_grids_and_signs_reduce_the_error_by_their_scale():
    """L levels: at most (L / 2 rounded down)^-1 / 2 / (L - 1)^(i - 1) after i stages; signs of [-2, 2]: 2^(1 - i)."""
    z = np.linspace(-0.999, 0.999, 500, dtype=np.float32).reshape(-1, 1, 1)

    def codes(quantizer, z):
        return np.asarray(apply(quantizer, {}, z).codes)

    for i in (1, 3):
        for levels, half in ((5, 1 / 4), (8, 1 / 8)):
            grid = quantize.Residual((quantize.FSQ((levels,)),) * i)
            prepared = np.asarray(apply(grid, {}, np.arctanh(z), method="prepare"))
            error = np.abs(prepared - codes(grid, np.arctanh(z))).max()
            assert 0.9 < error / (half / (levels - 1) ** (i - 1)) < 1.001
        signs = quantize.Residual((quantize.LFQ(1, entropy=0.0),) * i)
        assert np.abs(2 * z - codes(signs, 2 * z)).max() <= 2.0 ** (1 - i) + 1e-5


def test_gradients_of_entropies_and_directions_are_finite_at_zero():
    """Codes without probability, and vectors of zeros, as on a black part of an image."""
    logits = 20 * RNG.choice([-4.0, 4.0], (8, 9)).astype(np.float32)
    for entropy in (joint_entropy, marginal_entropy):
        slope = jax.jit(jax.grad(entropy))(logits, np.full(8, 1 / 8, np.float32), batch(np.zeros((8, 1), np.float32)))
        assert np.isfinite(slope).all()
    vectors = np.float32([[0.0, 0.0], [3.0, 4.0]])
    slope = jax.jit(jax.grad(lambda a: jnp.sum(rotations.unit(a)[:, 0])))(vectors)
    np.testing.assert_allclose(slope, [[0, 0], [16 / 125, -12 / 125]], atol=1e-6)


def test_quantizer_dropout_uses_the_first_stages_in_the_given_proportion():
    quantizer = quantize.Residual((quantize.LFQ(1, entropy=0.0, commitment=1.0),) * 3, dropout=0.6)
    z = np.full((20_000, 1, 1), 1.7, np.float32)
    found, _, _ = applied(quantizer, z, {})
    values = np.round(np.ravel(found.codes), 4)
    shares = [np.mean(values == value) for value in (1.0, 1.5, 1.75)]  # after 1, 2 and 3 stages
    np.testing.assert_allclose(shares, [0.2, 0.2, 0.6], atol=4 * np.sqrt(0.25 / 20_000))
    stages = np.cumsum([0.7**2, 0.4**2, 0.2**2])  # of the residuals 1.7, 0.7 / 0.5 and 0.2 / 0.25
    by_count = dict(zip((1.0, 1.5, 1.75), stages, strict=True))
    np.testing.assert_allclose(found.terms["loss"], [by_count[value] for value in values], rtol=1e-3)
    evaluated, _, _ = applied(quantizer, z[:2], {}, train=False)
    np.testing.assert_allclose(evaluated.codes, 1.75, rtol=1e-6)


def test_groups_equal_separate_quantizers_of_their_channels():
    layers = tuple(quantize.VQ(5, 2, commitment=weight) for weight in (0.3, 0.9))
    z = np.asarray(vectors(4, 3, 4))
    found, updates, variables = applied(quantize.Grouped(layers), z)
    found = jax.tree.map(np.asarray, found)
    both = []
    for i, layer in enumerate(layers):
        own = {"codebook": variables["codebook"][f"layers_{i}"]}
        one, moved, _ = applied(layer, z[..., 2 * i : 2 * i + 2], own)
        one = jax.tree.map(np.asarray, one)
        both.append(one)
        assert equal(updates["codebook"][f"layers_{i}"], moved["codebook"])
        assert equal(found.codes[..., 2 * i : 2 * i + 2], one.codes)
        assert equal(found.indices[..., i], one.indices)
    for name, share in (("loss", 1), ("quantization", 1), ("usage", 2), ("perplexity", 2)):
        np.testing.assert_allclose(found.terms[name], sum(one.terms[name] for one in both) / share, rtol=1e-5)


OPTIONS = {
    "averages": {"decay": 0.8, "reinit_below": 0.0},
    "vq": {"kmeans": 2, "reinit_from": "error", "reinit_below": 0.5, "code_dim": 3},
    "rotated": {"gradient": "rotation", "distance": "cosine", "reinit_below": 0.9},
    "gradient": {"codebook": "gradient", "reinit_below": 0.9},
    "simvq": {"quantizer": "simvq"},
    "fsq": {"quantizer": "fsq", "levels": (5, 4)},
    "lfq": {"quantizer": "lfq"},
    "bsq": {"quantizer": "bsq", "residual": 2},
    "gumbel": {"quantizer": "gumbel", "residual": 2},
    "residual": {"residual": 2, "quantizer_dropout": 0.5, "reinit_below": 0.9},
    "grouped": {"groups": 2, "residual": 2, "quantizer": "fsq", "levels": (5, 3)},
}


DEFAULT = ("averages", "vq", "residual", "lfq")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in DEFAULT)) for n in OPTIONS])
def test_quantizer_embeds_its_indices_and_depends_on_neither_batch_size_nor_devices(name):
    """A duplicated batch has the same terms and updates; 8 devices have those of one."""
    fields = {} if OPTIONS[name].get("quantizer") == "fsq" else {"codes": 8}
    quantizer = quantize.named(quantize.Options(latent=4, **fields, **OPTIONS[name]))
    z = vectors(8, 3, 4)

    @jax.jit
    def everything():
        variables = quantizer.init(new_key(), z)
        apply = partial(quantizer.apply, variables, mutable=[kind for kind in variables if kind != "params"])
        certain = quantizer.apply(variables, z)
        again = [
            quantizer.apply(variables, given, method=method)
            for given, method in ((certain.indices, "embed"), (certain.codes, "nearest"))
        ]

        def step(z, index, layout):
            one = Batch(z, index, jnp.ones(len(index)), jnp.int32(0), layout=layout)
            return apply(z, one, new_key())

        whole = step(z, jnp.arange(8), Layout())
        twice = step(jnp.concatenate([z, z]), jnp.tile(jnp.arange(8), 2), Layout())
        parts = jax.vmap(partial(step, layout=Layout(AXIS)), axis_name=AXIS)(z[:, None], jnp.arange(8)[:, None])
        return certain, again, whole, twice, parts

    certain, again, (one, moved), (both, also), (part, on_all) = jax.tree.map(np.asarray, everything())
    assert 0 <= certain.indices.min() <= certain.indices.max() < quantizer.size
    assert certain.terms.keys() <= one.terms.keys()
    for codes in again:
        np.testing.assert_allclose(codes, certain.codes, rtol=1e-5, atol=1e-6)
    close = partial(jax.tree.map, lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6))
    assert equal(part.indices[:, 0], one.indices)
    close({term: values[:, 0] for term, values in part.terms.items()}, one.terms)
    close(jax.tree.map(lambda leaf: leaf[3], on_all), moved)
    if not (OPTIONS[name].get("reinit_below") or "kmeans" in OPTIONS[name]):  # these sample from the list of vectors
        assert equal(both.indices[:8], one.indices)
        close({term: values[:8] for term, values in both.terms.items()}, one.terms)
        close(also, moved)


def test_number_of_codes_is_that_of_the_options():
    for fields, size in (({"codes": 12}, 12), ({"quantizer": "lfq", "codes": 64}, 64), ({"quantizer": "fsq"}, 1000)):
        for several in ({}, {"residual": 3}, {"groups": 2, "latent": 8}):
            assert quantize.named(quantize.Options(**fields, **several)).size == size


def test_options_without_effect_and_out_of_range_raise():
    for says, fields in (
        ("levels=.3, 3. has no effect with quantizer=vq; omit it", {"levels": (3, 3)}),
        ("codes=64 has no effect with quantizer=fsq; omit it", {"quantizer": "fsq", "codes": 64}),
        ("kmeans=3 has no effect with quantizer=lfq", {"quantizer": "lfq", "kmeans": 3}),
        ("codes=12 must be a power of two with quantizer=bsq", {"quantizer": "bsq", "codes": 12}),
        ("quantizer_dropout=0.5 needs residual=2 or more", {"quantizer_dropout": 0.5}),
        ("residual=2 needs distance=euclidean", {"residual": 2, "distance": "cosine"}),
        ("no effect with reinit_below=0", {"reinit_below": 0.0, "reinit_from": "error"}),
        ("groups=0 must be at least 1", {"groups": 0}),
        ("quantizer_dropout=1.5 must be at least 0 and at most 1", {"quantizer_dropout": 1.5, "residual": 2}),
        ("groups=3 does not divide 16 channels; use a divisor", {"groups": 3}),
        ("reinit_below=0.5 must be below 0.5", {"reinit_below": 0.5, "reinit_usage": 0.5}),
    ):
        with pytest.raises(ValueError, match=says):
            quantize.named(quantize.Options(**fields))
    with pytest.raises(ValueError, match="bits=31 must be from 1 to 30"):
        quantize.LFQ(31, joint=False)
    with pytest.raises(ValueError, match="bits=25 are too many for an exact entropy"):
        quantize.LFQ(25)
    with pytest.raises(ValueError, match=r"layers have \[4, 8\] codes"):
        quantize.Residual((quantize.LFQ(2), quantize.LFQ(3)))


def test_every_field_has_an_effect_with_some_quantizer():
    shared = {"quantizer", "latent", "residual", "groups", "quantizer_dropout"}
    assert set(itertools.chain(*FIELDS.values())) | shared == set(quantize.Options.__dataclass_fields__)
