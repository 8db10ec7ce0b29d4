"""Rational-quadratic splines of each dimension (Durkan, Bekasov, Murray & Papamakarios 2019)."""

from dataclasses import dataclass
from math import expm1, log
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.variants.flows.elementwise import Mapped

LEAST = 1e-3  # width and height of a bin, as fractions of the interval; derivative at a knot


class Bin(NamedTuple):
    """The bin of each number: corner, size, and the derivatives at both ends."""

    x: jax.Array
    y: jax.Array
    width: jax.Array
    height: jax.Array
    left: jax.Array
    right: jax.Array


@dataclass(frozen=True)
class Spline:
    """An increasing rational-quadratic spline on [-bound, bound], and the identity outside (section 3.1)."""

    bins: int = 8  # K
    bound: float = 5.0

    @property
    def parameters(self) -> int:
        """K widths, K heights and K - 1 derivatives."""
        return 3 * self.bins - 1

    def forward(self, parameters: Float[Array, "*lead D P"], x: Float[Array, "*lead D"]) -> Mapped:
        """Equation 4, and the logarithm of equation 5."""
        inside = jnp.abs(x) < self.bound
        at = jnp.clip(x, -self.bound, self.bound)
        found = self._bin(parameters, at, along=0)
        part = (at - found.x) / found.width
        slope = found.height / found.width
        bent = found.left + found.right - 2 * slope
        share = (slope * part**2 + found.left * part * (1 - part)) / (slope + bent * part * (1 - part))
        y = found.y + found.height * share
        return jnp.where(inside, y, x), jnp.where(inside, _log_derivative(found, part), 0.0)

    def inverse(self, parameters: Float[Array, "*lead D P"], y: Float[Array, "*lead D"]) -> Mapped:
        """The root of a quadratic equation (equations 6 to 8)."""
        inside = jnp.abs(y) < self.bound
        at = jnp.clip(y, -self.bound, self.bound)
        found = self._bin(parameters, at, along=1)
        slope = found.height / found.width
        bent = (at - found.y) * (found.left + found.right - 2 * slope)
        a = found.height * (slope - found.left) + bent
        b = found.height * found.left - bent
        c = -slope * (at - found.y)
        part = 2 * c / (-b - jnp.sqrt(jnp.maximum(b**2 - 4 * a * c, 0)))
        x = found.x + found.width * part
        return jnp.where(inside, x, y), jnp.where(inside, -_log_derivative(found, part), 0.0)

    def _bin(self, parameters: Float[Array, "*lead D P"], values: Float[Array, "*lead D"], along: int) -> Bin:
        """The bin of each value. along: 0 for bins of x, 1 for bins of y."""
        widths, heights, derivatives = jnp.split(parameters, [self.bins, 2 * self.bins], axis=-1)
        knots = [self._knots(part) for part in (widths, heights)]
        inner = LEAST + jax.nn.softplus(derivatives + log(expm1(1 - LEAST)))
        slopes = jnp.pad(inner, [(0, 0)] * (inner.ndim - 1) + [(1, 1)], constant_values=1.0)
        index = jnp.sum(values[..., None] >= knots[along][..., 1:-1], axis=-1, keepdims=True)

        def ends(of: jax.Array) -> list[jax.Array]:
            return [jnp.take_along_axis(of, index + i, axis=-1)[..., 0] for i in (0, 1)]

        (x, x_end), (y, y_end), (left, right) = ends(knots[0]), ends(knots[1]), ends(slopes)
        return Bin(x, y, x_end - x, y_end - y, left, right)

    def _knots(self, parameters: Float[Array, "*lead D K"]) -> Float[Array, "*lead D L"]:
        """K + 1 knots from -bound to bound."""
        sizes = LEAST + (1 - LEAST * self.bins) * jax.nn.softmax(parameters, axis=-1)
        inner = self.bound * (2 * jnp.cumsum(sizes[..., :-1], axis=-1) - 1)
        pad = [(0, 0)] * (inner.ndim - 1)
        return jnp.pad(
            jnp.pad(inner, [*pad, (1, 0)], constant_values=-self.bound), [*pad, (0, 1)], constant_values=self.bound
        )


def _log_derivative(found: Bin, part: jax.Array) -> jax.Array:
    """log of equation 5; part: position within the bin, from 0 to 1."""
    slope, both = found.height / found.width, part * (1 - part)
    top = slope**2 * (found.right * part**2 + 2 * slope * both + found.left * (1 - part) ** 2)
    return jnp.log(top) - 2 * jnp.log(slope + (found.left + found.right - 2 * slope) * both)
