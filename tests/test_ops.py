"""Convolutions and resampling on small integers, whose sums are exact, so that results must be equal, not close."""

from math import isqrt
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from numpy.lib.stride_tricks import sliding_window_view

from jaxae.nets import cpu_convolution, resampling

BACKENDS = ("cpu", "gpu")
COUNTS = pytest.mark.parametrize("count", [5, pytest.param(50, marks=pytest.mark.slow)])
CANONICAL = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))  # NHWC, HWIO, NHWC


def whole(seed, *shapes, largest=4):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.integers(-largest, largest + 1, shape), jnp.float32) for shape in shapes]


def reference(x, w, stride, padding):
    return lax.conv_general_dilated(x, w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def transposed(x, w, size, stride, padding):
    image = jax.ShapeDtypeStruct((len(x), *size, w.shape[2]), jnp.float32)
    return jax.linear_transpose(lambda image: reference(image, w, stride, padding), image)(x)[0]


def with_gradients(f):
    """(a, b, cotangent) -> the value and both gradients."""

    @jax.jit
    def run(a, b, g):
        value, pull = jax.vjp(f, a, b)
        return value, *pull(g)

    return run


def equal(ours, theirs):
    for mine, exact in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, exact)


@st.composite
def convolutions(draw):
    """Hypothesis strategy for ((image, kernel, cotangent), stride, padding, backend)."""
    padding, stride = draw(st.sampled_from(["SAME", "VALID"])), draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 5)) for _ in range(2)]
    size = [draw(st.integers(1 if padding == "SAME" else k, 9)) for k in kernel]
    channels = draw(st.sampled_from([(1, 3), (3, 1), (2, 2), (3, 2)]))
    image, weights = (2, *size, channels[0]), (*kernel, *channels)
    out = jax.eval_shape(
        lambda x, w: reference(x, w, stride, padding), *(jax.ShapeDtypeStruct(s, jnp.float32) for s in (image, weights))
    )
    return whole(draw(st.integers(0, 99)), image, weights, out.shape), stride, padding, draw(st.sampled_from(BACKENDS))


def on(backend):
    """Run `cpu_convolution` as on this backend; both forms run on a CPU."""
    return mock.patch.object(jax, "default_backend", return_value=backend)


def for_convolutions(count, check):
    """Call `check` for this many convolutions."""
    settings(max_examples=count, deadline=None, derandomize=True, database=None)(given(convolutions())(check))()


@COUNTS
def test_conv_equals_the_convolution_of_lax(count):
    def check(case):
        (x, w, g), stride, padding, backend = case
        with on(backend):
            ours = with_gradients(lambda x, w: cpu_convolution.conv(x, w, stride, padding))(x, w, g)
        equal(ours, with_gradients(lambda x, w: reference(x, w, stride, padding))(x, w, g))

    for_convolutions(count, check)


@COUNTS
def test_conv_transpose_is_the_transpose_of_the_convolution_of_lax(count):
    def check(case):
        (x, w, g), stride, padding, backend = case
        size = x.shape[1:3]
        with on(backend):
            ours = with_gradients(lambda g, w: cpu_convolution.conv_transpose(g, w, size, stride, padding))(g, w, x)
        equal(ours, with_gradients(lambda g, w: transposed(g, w, size, stride, padding))(g, w, x))

    for_convolutions(count, check)


@COUNTS
def test_conv_transpose_is_the_adjoint_of_conv(count):
    """<conv(x), y> = <x, conv_transpose(y)>."""

    def check(case):
        (x, w, y), stride, padding, backend = case
        with on(backend):
            down = cpu_convolution.conv(x, w, stride, padding)
            up = cpu_convolution.conv_transpose(y, w, x.shape[1:3], stride, padding)
        assert jnp.vdot(down, y) == jnp.vdot(x, up)

    for_convolutions(count, check)


def test_conv_is_a_correlation():
    """y[i, j] = sum over k, l of x[s i + k, s j + l] w[k, l]."""
    x, w = whole(0, (2, 6, 7, 3), (3, 2, 3, 4))
    np.testing.assert_array_equal(cpu_convolution.conv(x, w, 2, "VALID"), correlation(x, w, 2, ((0, 0), (0, 0))))


def correlation(x, w, stride, padding):
    x = np.pad(np.asarray(x, np.float64), ((0, 0), *padding, (0, 0)))
    windows = sliding_window_view(x, w.shape[:2], (1, 2))[:, ::stride, ::stride]
    return np.einsum("nhwikl,klio->nhwo", windows, np.asarray(w, np.float64))


SIZE = (5, 6)
FUNCTIONS = {
    "conv": (lambda x, w: cpu_convolution.conv(x, w, 2), (2, *SIZE, 3), (2, 3, 3, 2)),
    "conv to fewer channels": (lambda x, w: cpu_convolution.conv(x, w), (2, *SIZE, 3), (2, *SIZE, 2)),
    "conv_transpose": (lambda x, w: cpu_convolution.conv_transpose(x, w, SIZE, 2), (2, 3, 3, 2), (2, *SIZE, 3)),
}


@pytest.fixture(params=FUNCTIONS)
def function(request):
    """One of the functions, with its operands and cotangent for four seeds."""
    f, image, result = FUNCTIONS[request.param]
    return f, whole(1, (4, *image), (4, 3, 3, 3, 2), (4, *result))


@pytest.mark.parametrize("axes", [(0, 0, 0), (None, 0, 0), (0, None, 0), (0, 0, None)])
def test_vmap_over_seeds_equals_a_loop_over_seeds(function, axes):
    f, operands = function
    operands = [v if axis == 0 else v[0] for v, axis in zip(operands, axes, strict=True)]
    each = [[v[i] if axis == 0 else v for v, axis in zip(operands, axes, strict=True)] for i in range(4)]
    run = with_gradients(f)
    together = jax.vmap(run, in_axes=axes)(*operands)
    for i, one in enumerate(each):
        equal([leaf[i] for leaf in together], run(*one))


def test_vmap_over_seeds_in_a_compiled_loop_equals_single_seeds(function):
    f, operands = function
    run = with_gradients(f)

    def body(i, total):
        x, w, g = (v + i for v in operands)
        return jax.tree.map(jnp.add, total, jax.vmap(run)(x, w, g))

    zero = jax.tree.map(jnp.zeros_like, jax.vmap(run)(*operands))
    total = jax.jit(lambda: lax.fori_loop(0, 3, body, zero))()
    for seed in range(4):
        parts = [run(*(v[seed] + i for v in operands)) for i in range(3)]
        equal([leaf[seed] for leaf in total], [sum(leaves) for leaves in zip(*parts, strict=True)])


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
            if hasattr(inner, "eqns"):
                yield from equations(getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize("seeds", [False, True])
def test_every_convolution_has_the_fast_layout_on_cpu(function, seeds):
    f, operands = function
    run = jax.vmap(with_gradients(f)) if seeds else with_gradients(f)
    operands = operands if seeds else [v[0] for v in operands]
    with on("cpu"):
        traced = jax.make_jaxpr(lambda *v: lax.fori_loop(0, 2, lambda i, _: run(*v), run(*v)))(*operands)
    found = [e.params for e in equations(traced.jaxpr) if e.primitive is lax.conv_general_dilated_p]
    assert len(found) == 4  # the value and the gradient of the image, before the loop and in it
    for params in found:
        assert params["dimension_numbers"] == CANONICAL
        assert params["feature_group_count"] == params["batch_group_count"] == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("stride", "channels"), [(1, (2, 1)), (1, (1, 2)), (2, (2, 1))])
def test_mixed_precision_multiplies_in_bfloat16_and_adds_in_float32(backend, stride, channels):
    """Integers up to 500: bfloat16 rounds them, float32 adds their products exactly."""
    out = -(-5 // stride)
    x, w, g = whole(2, (2, 5, 5, channels[0]), (3, 3, *channels), (2, out, out, channels[1]), largest=500)
    short = [v.astype(jnp.bfloat16).astype(jnp.float32) for v in (x, w, g)]
    with on(backend):
        y = cpu_convolution.conv(x, w, stride, precision="mixed")
        up = cpu_convolution.conv_transpose(g, w, (5, 5), stride, precision="mixed")
        down = with_gradients(lambda x, w: cpu_convolution.conv(x, w, stride, precision="mixed"))(x, w, g)
        back = with_gradients(lambda g, w: cpu_convolution.conv_transpose(g, w, (5, 5), stride, precision="mixed"))(
            g, w, x
        )
    assert y.dtype == up.dtype == jnp.float32
    np.testing.assert_array_equal(y, correlation(*short[:2], stride, ((1, 1), (1, 1))))
    assert np.any(y != correlation(x, w, stride, ((1, 1), (1, 1))))
    np.testing.assert_array_equal(up, transposed(short[2], short[1], (5, 5), stride, "SAME"))
    equal(down, with_gradients(lambda x, w: reference(x, w, stride, "SAME"))(*short))
    equal(back, with_gradients(lambda g, w: transposed(g, w, (5, 5), stride, "SAME"))(*short[::-1][:2], short[0]))


def test_conv_transpose_raises_for_a_size_that_no_convolution_has():
    x, w = whole(3, (1, 3, 3, 2), (3, 3, 1, 2))
    assert cpu_convolution.conv_transpose(x, w, (5, 6), 2).shape == (1, 5, 6, 1)
    for size in ((4, 6), (5, 7)):
        with pytest.raises(ValueError, match=r"x has \[3, 3\] pixels; .* has \[[234], [234]\]"):
            cpu_convolution.conv_transpose(x, w, size, 2)


def pooled(x, size):
    """XLA's padding SAME: half before, half (or one more) after."""
    n, height, width, channels = x.shape
    out = np.empty((n, -(-height // size), -(-width // size), channels))
    top, left = (out.shape[1] * size - height) // 2, (out.shape[2] * size - width) // 2
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            rows, columns = (slice(max(k * size - low, 0), (k + 1) * size - low) for k, low in ((i, top), (j, left)))
            out[:, i, j] = x[:, rows, columns].max((1, 2))
    return out


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("shape", [(2, 6, 6, 2), (2, 7, 5, 3), (1, 1, 4, 1)])
def test_max_pool_equals_reduce_window(shape, size):
    x = jax.random.normal(jax.random.key(0), shape)
    np.testing.assert_array_equal(resampling.max_pool(x, size), pooled(x, size))
    theirs = lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size, 1), (1, size, size, 1), "SAME")
    np.testing.assert_array_equal(resampling.max_pool(x, size), theirs)


def test_gradient_of_max_pool_is_that_of_the_maximum():
    x = jax.random.permutation(jax.random.key(0), jnp.arange(2 * 5 * 5 * 2.0)).reshape(2, 5, 5, 2)  # no ties
    g = whole(4, (2, 3, 3, 2))[0]
    _, pull = jax.vjp(lambda x: resampling.max_pool(x, 2), x)
    expected = np.zeros(x.shape)
    for place, value in np.ndenumerate(pooled(x, 2)):
        expected[np.nonzero(np.asarray(x) == value)] += np.asarray(g)[place]
    np.testing.assert_array_equal(pull(g)[0], expected)


def test_gradient_of_max_pool_is_divided_among_ties():
    x = jnp.array([[3.0, 1, 5], [3, 3, 2]])[None, :, :, None]
    slope = jax.grad(lambda x: jnp.sum(resampling.max_pool(x, 2) * jnp.array([6.0, 7])[None, None, :, None]))(x)
    np.testing.assert_allclose(slope[0, :, :, 0], [[2, 0, 7], [2, 2, 0]], rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 4, 2), (3, 7, 5, 3)])
def test_conv_upsampled_is_the_convolution_of_the_upsampled(shape):
    n, height, width, channels = shape
    x, w, g = whole(6, shape, (3, 3, channels, 2), (n, 2 * height, 2 * width, 2))
    plain = with_gradients(lambda x, w: reference(resampling.upsample(x, 2), w, 1, "SAME"))
    equal(with_gradients(resampling.conv_upsampled)(x, w, g), plain(x, w, g))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("n", "fits", "chunks"), [(1, 32, 0), (31, 32, 0), (32, 32, 0), (64, 32, 2), (66, 32, 3), (67, 32, 0), (67, 2, 67)]
)
def test_kernel_gradient_in_chunks_is_that_of_the_global_batch(n, fits, chunks, channels):
    """The cache holds `fits` images: chunks of equal size, or all images at once, or single large ones."""
    side = isqrt(cpu_convolution.IN_CACHE // (fits * 3 * channels))
    side += fits == 2  # slightly too large for two
    x, w, g = whole(7, (n, side, side, channels), (3, 3, channels, 3), (n, side, side, 3))
    run = with_gradients(cpu_convolution.conv)
    loops = [e.params["length"] for e in equations(jax.make_jaxpr(run)(x, w, g).jaxpr) if e.primitive.name == "scan"]
    assert loops == [chunks] * (chunks > 0)
    equal(run(x, w, g), with_gradients(lambda x, w: reference(x, w, 1, "SAME"))(x, w, g))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_upsample_repeats_pixels(size):
    x, g = whole(5, (2, 3, 4, 2), (2, 3 * size, 4 * size, 2))
    y, pull = jax.vjp(lambda x: resampling.upsample(x, size), x)
    np.testing.assert_array_equal(y, np.asarray(x).repeat(size, 1).repeat(size, 2))
    np.testing.assert_array_equal(y[0, :, :, 0], np.kron(x[0, :, :, 0], np.ones((size, size))))
    np.testing.assert_array_equal(pull(g)[0], np.asarray(g).reshape(2, 3, size, 4, size, 2).sum((2, 4)))
