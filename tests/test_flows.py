"""Normalizing flows: log determinants against Jacobians, inverses, densities on a grid, equations in NumPy."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from conftest import new_key
from jaxae import nets
from jaxae.variants import flows

NAMES = get_args(flows.Name)


def moved(variables, size=0.3):
    """These parameters plus normal noise."""
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(1)
    return jax.tree.unflatten(tree, [leaf + size * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves])


def flow_of(name, dimensions, *, steps=2, context=0, size=0.3):
    """A flow with random parameters."""
    flow = flows.named(name, steps, dimensions, (8, 8), context, bins=4)
    given = jnp.zeros((1, context)) if context else None
    init = jax.jit(lambda key: flow.init(key, jnp.zeros((1, dimensions)), given, method="forward"))
    return flow, moved(init(new_key()), size)


def vectors(*shape):
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), jnp.float32)


def names(*slow):
    """All flows, the slow ones marked: others that share their code remain."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in slow)) for name in NAMES]


@pytest.mark.parametrize("name", names("spline", "maf"))
def test_log_determinant_is_that_of_the_jacobian_and_the_inverse_inverts(name):
    """Of flows with a context, for each of two vectors of every example."""
    flow, variables = flow_of(name, 4, context=3, size=0.1 if name == "spline" else 0.3)
    z, context = vectors(4, 2, 4), vectors(4, 1, 3)

    @jax.jit
    def found(z, context):
        y, log_det = flow.apply(variables, z, context, method="forward")
        jacobian = jax.jacfwd(lambda move: flow.apply(variables, z + move, context, method="forward")[0])
        back = None if name == "planar" else flow.apply(variables, y, context, method="inverse")
        return log_det, jacobian(jnp.zeros((1, 1, 4))), back

    log_det, jacobian, back = found(z, context)
    sign, expected = np.linalg.slogdet(np.asarray(jacobian, np.float64)[:, :, :, 0, 0])
    np.testing.assert_allclose(log_det, expected, rtol=1e-4, atol=1e-5)
    assert np.all(sign > 0)  # the order of the dimensions is reversed an even number of times
    assert np.ptp(expected) > 1e-2
    if name != "planar":
        np.testing.assert_allclose(back[0], z, atol=1e-5)
        np.testing.assert_allclose(back[1], -log_det, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        *((name, (8,)) for name in ("planar", "radial", "realnvp")),
        *((name, ()) for name in ("realnvp", "iaf")),
        *(pytest.param(name, (8,), marks=pytest.mark.slow) for name in ("spline", "iaf", "maf")),
    ],
)
def test_flows_are_the_identity_initially(name, hidden):
    flow = flows.named(name, 3, 4, hidden, 2)
    start = jax.jit(lambda key, z, context: flow.init_with_output(key, z, context, method="forward")[0])
    z = vectors(5, 4)
    found, log_det = start(new_key(), z, vectors(5, 2))
    np.testing.assert_allclose(found, z, atol=1e-6)
    np.testing.assert_allclose(log_det, 0, atol=3e-6)


GRID = np.linspace(-8, 8, 321)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["radial", "realnvp", "spline", "iaf", "maf"])
def test_density_of_a_flow_integrates_to_one(name):
    """p(z) = N(f^-1(z); 0, I) |det df^-1 / dz|."""
    flow, variables = flow_of(name, 2, size=0.2)
    z = np.stack(np.meshgrid(GRID, GRID, indexing="ij"), axis=-1)
    u, log_det = jax.jit(lambda z: flow.apply(variables, z, method="inverse"))(jnp.asarray(z, jnp.float32))
    density = np.exp(stats.norm.logpdf(np.asarray(u, np.float64)).sum(-1) + np.asarray(log_det, np.float64))
    total = integrate.trapezoid(integrate.trapezoid(density, GRID), GRID)
    assert total == pytest.approx(1, abs=2e-3)
    assert np.abs(density - np.exp(stats.norm.logpdf(z).sum(-1))).max() > 0.01


def test_density_of_a_planar_flow_of_numbers_integrates_to_one():
    """At the images y of a grid, p(y) = N(z) / |df / dz|."""
    flow, variables = flow_of("planar", 1, size=1.0)
    forward = jax.jit(lambda z: flow.apply(variables, z, method="forward"))
    y, log_det = forward(jnp.asarray(GRID, jnp.float32)[:, None])
    y = np.asarray(y[:, 0], np.float64)
    assert np.all(np.diff(y) > 0)
    total = integrate.trapezoid(stats.norm.pdf(GRID) * np.exp(-np.asarray(log_det, np.float64)), y)
    assert total == pytest.approx(1, abs=2e-3)


def test_planar_flow_against_numpy_and_invertible_where_w_u_is_below_minus_1():
    """Rezende & Mohamed 2015, equations 10 and 12, appendix A.1."""
    w, u, b = np.array([1.0, -2.0, 0.5]), np.array([-3.0, 1.0, 0.2]), 0.3
    assert w @ u < -1
    z = vectors(6, 3)
    variables = {"params": {"parameters": {"constant": jnp.array([*w, *u, b])}}}
    found, log_det = flows.Planar(3).apply(variables, z, method="forward")
    above = np.log1p(np.exp(w @ u + np.log(np.e - 1))) - 1
    u = u + (above - w @ u) * w / (w @ w)
    t = np.tanh(np.asarray(z, np.float64) @ w + b)
    np.testing.assert_allclose(found, z + t[:, None] * u, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(log_det, np.log(1 + (1 - t**2) * (w @ u)), rtol=1e-4, atol=1e-6)
    with pytest.raises(NotImplementedError, match="Planar has no closed-form inverse"):
        flows.Planar(3).apply(variables, z, method="inverse")


@pytest.mark.parametrize("beta", [-2.0, 3.0])
def test_radial_flow_against_numpy(beta):
    """Rezende & Mohamed 2015, equation 14; at the centre, too."""
    centre, alpha = np.array([0.5, -1.0]), 0.7
    z = jnp.array([[0.5, -1.0], [2.0, 1.0], [0.4, -0.9], [-30.0, 4.0]])

    def forward(constant):
        y, log_det = flows.Radial(2).apply({"params": {"parameters": {"constant": constant}}}, z, method="forward")
        return log_det.sum(), (y, log_det)

    slope, (found, log_det) = jax.jit(jax.grad(forward, has_aux=True))(jnp.array([*centre, alpha, beta]))
    assert jnp.isfinite(slope).all()
    alpha, beta = (np.log1p(np.exp(value) * (np.e - 1)) for value in (alpha, beta))
    beta = alpha * (beta - 1)
    offset = np.asarray(z, np.float64) - centre
    r = np.linalg.norm(offset, axis=1)
    h = 1 / (alpha + r)
    np.testing.assert_allclose(found, z + beta * h[:, None] * offset, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(log_det, np.log(1 + beta * h) + np.log(1 + beta * h - beta * r * h**2), atol=1e-5)


@pytest.mark.parametrize(("dimensions", "hidden", "context"), [(5, (16, 12), 0), (4, (9,), 3), (1, (4,), 2)])
def test_made_depends_on_all_dimensions_before_and_on_no_other(dimensions, hidden, context):
    net = nets.MADE(dimensions, hidden, 2, context, activation=jnp.tanh)
    x, given = vectors(1, dimensions), vectors(1, context) if context else None
    variables = moved(jax.jit(net.init)(new_key(), x, given))

    @jax.jit
    def slopes(x, given):
        of_x = jax.jacobian(lambda x: net.apply(variables, x, given))(x)
        return of_x[0, :, :, 0], jax.jacobian(lambda c: net.apply(variables, x, c))(given) if context else None

    of_x, of_context = slopes(x, given)
    before = np.arange(dimensions)[None] < np.arange(dimensions)[:, None]
    np.testing.assert_array_equal(np.asarray(of_x) != 0, np.repeat(before[:, None], 2, axis=1))
    if context:
        assert (np.asarray(of_context) != 0).all()


def test_masked_autoregressive_flow_is_a_product_of_normal_conditionals():
    """Papamakarios et al. 2017, equations 2 and 3, with log scales 5 tanh(s / 5); iaf is its inverse."""
    flow, variables = flow_of("maf", 3, steps=1)
    x = vectors(6, 3)
    params = variables["params"]["flow"]
    of_net = {"params": params["flows_0"]["net"]}

    @jax.jit
    def found(x):
        same = flows.named("iaf", 1, 3, (8, 8)).apply({"params": params}, x, method="forward")
        return *flow.apply(variables, x, method="inverse"), same[0], nets.MADE(3, (8, 8), 2).apply(of_net, x)

    u, log_det, same, parameters = (np.asarray(value, np.float64) for value in found(x))
    # u = e^s x + t: x is normal, with scale e^-s and mean -t e^-s
    log_scale, shift = 5 * np.tanh(parameters[..., 0] / 5), parameters[..., 1]
    expected = stats.norm.logpdf(x, -shift * np.exp(-log_scale), np.exp(-log_scale)).sum(1)
    np.testing.assert_allclose(stats.norm.logpdf(u).sum(1) + log_det, expected, rtol=1e-4)
    np.testing.assert_allclose(same, u, rtol=1e-6)


def test_coupling_changes_the_second_half_as_a_function_of_the_first():
    flow = flows.Coupling(5, (8,), flows.Affine())
    z = vectors(1, 5)
    variables = moved(jax.jit(lambda key: flow.init(key, z, method="forward"))(new_key()))
    jacobian = jax.jit(jax.jacobian(lambda z: flow.apply(variables, z, method="forward")[0]))(z)[0, :, 0]
    np.testing.assert_array_equal(jacobian[:2], np.eye(5)[:2])
    np.testing.assert_array_equal(np.asarray(jacobian[2:, 2:]) != 0, np.eye(3, dtype=bool))
    assert (np.asarray(jacobian[2:, :2]) != 0).all()


def test_affine_log_scales_are_within_5():
    parameters = jnp.array([[[100.0, 1.0], [-100.0, 2.0], [0.5, 3.0]]])
    y, log_slope = flows.Affine().forward(parameters, jnp.full((1, 3), 2.0))
    np.testing.assert_allclose(log_slope, [[5, -5, 5 * np.tanh(0.1)]], rtol=1e-6)
    np.testing.assert_allclose(y, 2 * np.exp(log_slope) + np.arange(1, 4), rtol=1e-6)


def test_spline_against_numpy():
    """Durkan et al. 2019, equations 4 and 5: four bins on [-2, 2], the identity outside."""
    spline, x = flows.Spline(4, bound=2.0), np.linspace(-3, 3, 61)
    parameters = np.random.default_rng(0).normal(size=spline.parameters)
    knots = []
    for part in (parameters[:4], parameters[4:8]):
        sizes = 1e-3 + (1 - 4e-3) * np.exp(part) / np.exp(part).sum()
        knots.append(-2 + 4 * np.concatenate([[0], np.cumsum(sizes)]))
    inner = 1e-3 + np.log1p(np.exp(parameters[8:] + np.log(np.expm1(1 - 1e-3))))
    slopes = np.array([1, *inner, 1])
    expected, derivative = x.copy(), np.ones_like(x)
    for i, value in enumerate(x):
        if abs(value) < 2:
            k = np.searchsorted(knots[0], value, side="right") - 1
            width, height = (np.diff(of)[k] for of in knots)
            part, s = (value - knots[0][k]) / width, height / width
            below = s + (slopes[k + 1] + slopes[k] - 2 * s) * part * (1 - part)
            expected[i] = knots[1][k] + height * (s * part**2 + slopes[k] * part * (1 - part)) / below
            above = slopes[k + 1] * part**2 + 2 * s * part * (1 - part) + slopes[k] * (1 - part) ** 2
            derivative[i] = s**2 * above / below**2
    wide = jnp.broadcast_to(jnp.asarray(parameters, jnp.float32), (1, len(x), len(parameters)))
    y, log_slope = jax.jit(spline.forward)(wide, jnp.asarray(x, jnp.float32)[None])
    np.testing.assert_allclose(y[0], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(log_slope[0], np.log(derivative), rtol=1e-4, atol=1e-5)
    back, log_back = jax.jit(spline.inverse)(wide, y)
    np.testing.assert_allclose(back[0], x, atol=1e-5)
    np.testing.assert_allclose(log_back, -log_slope, rtol=1e-4, atol=1e-5)


def test_named_flows_reject_no_steps_no_bins_and_halves_of_one_dimension():
    with pytest.raises(ValueError, match="steps=0 must be at least 1"):
        flows.named("iaf", 0, 4, (8,))
    for name in ("realnvp", "spline"):
        with pytest.raises(ValueError, match=f"dimensions=1 must be at least 2 for {name}"):
            flows.named(name, 1, 1, (8,))
    for bins in (0, 1000):
        with pytest.raises(ValueError, match=f"bins={bins} must be at least 1 and below 1000"):
            flows.named("spline", 1, 2, (8,), bins=bins)
