"""Normalizing flows: invertible maps with log determinants. `named` returns one by its name."""

from jaxae.variants.flows.affine import Affine as Affine
from jaxae.variants.flows.autoregressive import Autoregressive as Autoregressive
from jaxae.variants.flows.base import Chain as Chain
from jaxae.variants.flows.base import Flow as Flow
from jaxae.variants.flows.base import Inverted as Inverted
from jaxae.variants.flows.base import Reverse as Reverse
from jaxae.variants.flows.coupling import Coupling as Coupling
from jaxae.variants.flows.named import Name as Name
from jaxae.variants.flows.named import named as named
from jaxae.variants.flows.planar import Planar as Planar
from jaxae.variants.flows.radial import Radial as Radial
from jaxae.variants.flows.spline import Spline as Spline
