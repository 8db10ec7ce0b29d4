"""Flows by name."""

from typing import Literal

from jaxae.nets import MADE
from jaxae.variants.flows.affine import Affine
from jaxae.variants.flows.autoregressive import Autoregressive
from jaxae.variants.flows.base import Chain, Flow, Inverted, Reverse
from jaxae.variants.flows.coupling import Coupling
from jaxae.variants.flows.planar import Planar
from jaxae.variants.flows.radial import Radial
from jaxae.variants.flows.spline import Spline

Name = Literal["planar", "radial", "realnvp", "spline", "iaf", "maf"]


def named(
    name: Name, steps: int, dimensions: int, hidden: tuple[int, ...] = (), context: int = 0, bins: int = 8
) -> Flow:
    """A flow of `steps` steps on vectors of this many dimensions.

    Except for planar and radial, the order of the dimensions is reversed from step to step, and restored at the end.
    hidden: widths of the nets, which planar and radial do not have. context: length of the context vector (0: none).
    bins: number of bins of a spline. iaf needs one pass of its nets for `forward` and one per dimension for `inverse`;
    for maf it is the other way round.
    ValueError for no steps, for bins below 1 or above 999, and for coupling flows (realnvp, spline) of one dimension.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    if name == "spline" and not 1 <= bins < 1000:
        raise ValueError(f"bins={bins} must be at least 1 and below 1000")
    if name in ("realnvp", "spline") and dimensions < 2:
        raise ValueError(f"dimensions={dimensions} must be at least 2 for {name}, whose steps divide them into halves")
    if name in ("planar", "radial"):
        return Chain(tuple((Planar if name == "planar" else Radial)(dimensions) for _ in range(steps)))
    flows: list[Flow] = []
    for _ in range(steps):
        match name:
            case "realnvp":
                step: Flow = Coupling(dimensions, hidden, Affine())
            case "spline":
                step = Coupling(dimensions, hidden, Spline(bins))
            case _:
                step = Autoregressive(MADE(dimensions, hidden, Affine().parameters, context), Affine())
        flows += [step, Reverse()]
    chain = Chain(tuple(flows[: len(flows) - steps % 2]))
    return Inverted(chain) if name == "maf" else chain
