"""The protocol of increasing functions of one number whose parameters are computed by a net."""

from typing import Protocol, TypeAlias, runtime_checkable

from jaxtyping import Array, Float

Mapped: TypeAlias = tuple[Float[Array, "*lead D"], Float[Array, "*lead D"]]  # values, logarithms of the derivative


@runtime_checkable
class Elementwise(Protocol):
    """An increasing function of each dimension, the identity where its parameters are 0."""

    @property
    def parameters(self) -> int:
        """P, the number of parameters per dimension."""

    def forward(self, parameters: Float[Array, "*lead D P"], x: Float[Array, "*lead D"]) -> Mapped:
        """The function at x, and log df / dx."""

    def inverse(self, parameters: Float[Array, "*lead D P"], y: Float[Array, "*lead D"]) -> Mapped:
        """The inverse function at y, and log df^-1 / dy."""
