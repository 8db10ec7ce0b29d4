"""The radial flow (Rezende & Mohamed 2015)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.variants.flows.base import Context, Flow, Flowed, Parameters, positive


class Radial(Flow):
    """f(z) = z + beta (z - c) / (alpha + |z - c|) (equation 14): c, alpha and beta are functions of the context."""

    dimensions: int

    def setup(self) -> None:
        self.parameters = Parameters(self.dimensions + 2)

    def forward(self, z: Float[Array, "*lead Z"], context: Context = None) -> Flowed:
        """log |det df / dz| of equation 14: distances r from c become r + beta r / (alpha + r)."""
        centre, alpha, beta = self._shape(z, context)
        offset = z - centre
        r = _norm(offset)
        return z + beta / (alpha + r) * offset, self._log_det(r, alpha, beta)

    def inverse(self, z: Float[Array, "*lead Z"], context: Context = None) -> Flowed:
        """r is the positive root of r^2 + (alpha + beta - R) r = alpha R, R being the distance of z from c."""
        centre, alpha, beta = self._shape(z, context)
        offset = z - centre
        far = _norm(offset)
        half = (alpha + beta - far) / 2
        root = jnp.sqrt(half**2 + alpha * far)
        r = jnp.where(half > 0, alpha * far / (root + jnp.abs(half)), root - half)  # without cancellation
        return centre + offset / (1 + beta / (alpha + r)), -self._log_det(r, alpha, beta)

    def _shape(self, z: Float[Array, "*lead Z"], context: Context) -> tuple[Array, Array, Array]:
        """c, alpha > 0 and beta > -alpha, which makes the flow invertible (appendix A.2)."""
        centre, alpha, beta = jnp.split(self.parameters(z, context), [self.dimensions, self.dimensions + 1], axis=-1)
        alpha = positive(alpha)
        return centre, alpha, alpha * (positive(beta) - 1)

    def _log_det(self, r: Float[Array, "*lead 1"], alpha: Array, beta: Array) -> Float[Array, "*lead"]:
        across = jnp.log1p(beta / (alpha + r))
        along = jnp.log1p(beta * alpha / (alpha + r) ** 2)
        return ((self.dimensions - 1) * across + along)[..., 0]


def _norm(offset: Float[Array, "*lead Z"]) -> Float[Array, "*lead 1"]:
    """Euclidean norm, differentiable at 0."""
    return jnp.sqrt(jnp.sum(offset**2, axis=-1, keepdims=True) + 1e-12)
