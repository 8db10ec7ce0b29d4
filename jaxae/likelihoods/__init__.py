"""Likelihoods p(x|z): shape of the decoder output, log density, mean and samples.

`named` returns one by its name.
"""

from math import exp
from typing import Literal, get_args

from jaxae.core.divergences import LOG_SCALE_LIMIT
from jaxae.core.types import Info
from jaxae.likelihoods.base import Likelihood as Likelihood
from jaxae.likelihoods.base import log_likelihood as log_likelihood
from jaxae.likelihoods.bernoulli import Bernoulli as Bernoulli
from jaxae.likelihoods.bernoulli import ContinuousBernoulli as ContinuousBernoulli
from jaxae.likelihoods.counts import LOG_INFLATION as LOG_INFLATION
from jaxae.likelihoods.counts import NegativeBinomial as NegativeBinomial
from jaxae.likelihoods.counts import Poisson as Poisson
from jaxae.likelihoods.counts import ZeroInflatedNegativeBinomial as ZeroInflatedNegativeBinomial
from jaxae.likelihoods.discretized import Categorical as Categorical
from jaxae.likelihoods.discretized import DiscretizedLogisticMixture as DiscretizedLogisticMixture
from jaxae.likelihoods.normal import Normal as Normal
from jaxae.likelihoods.robust import Laplace as Laplace
from jaxae.likelihoods.robust import StudentT as StudentT

Name = Literal[
    "auto",
    "bernoulli",
    "continuous-bernoulli",
    "logistic-mixture",
    "categorical",
    "normal",
    "normal-learned",
    "normal-predicted",
    "laplace",
    "laplace-learned",
    "laplace-predicted",
    "student-t",
    "student-t-learned",
    "student-t-predicted",
    "poisson",
    "negative-binomial",
    "zero-inflated-negative-binomial",
]
COUNTS = {
    "poisson": Poisson,
    "negative-binomial": NegativeBinomial,
    "zero-inflated-negative-binomial": ZeroInflatedNegativeBinomial,
}
SCALED = ("normal", "laplace", "student-t")  # likelihoods with a fixed scale
NEEDS = {  # by the data of a likelihood: their name, and the field that selects them
    "binary": ("data in [0, 1]", "scale=unit"),
    "unit": ("data in [0, 1]", "scale=unit"),
    "levels": ("data in [0, 1]", "scale=unit"),
    "real": ("pixels or real numbers", "kind=table"),
    "counts": ("counts", "kind=counts"),
}
PIXELS = Info((), 0)


def named(name: Name, scale: float = 1.0, info: Info = PIXELS) -> Likelihood:
    """The likelihood of this name for data of these properties.

    scale: that of `normal`, `laplace` and `student-t`, in units of x. `auto` is `bernoulli` for pixels in [0, 1],
    `normal-learned` for real numbers, `negative-binomial` for counts. ValueError for an unknown name, for a scale with
    any other likelihood, and for a likelihood of other data.
    """
    if name not in get_args(Name):
        raise ValueError(f"likelihood={name} is unknown; use one of {', '.join(get_args(Name))}")
    if name == "auto":
        name = "negative-binomial" if info.counts else "normal-learned" if info.real else "bernoulli"
    if name in SCALED and not exp(-LOG_SCALE_LIMIT) <= scale <= exp(LOG_SCALE_LIMIT):
        raise ValueError(f"likelihood_scale={scale} must be positive, from 2.1e-9 to 4.8e8")
    if name not in SCALED and scale != 1.0:
        raise ValueError(f"likelihood_scale={scale} is for likelihood=normal, laplace or student-t only; omit it")
    found = _made(name, scale, info.total)
    if not _fits(found, info):
        needs, kind = NEEDS[found.data]
        kind = "kind=table" if info.counts else kind
        fitting = [other for other in get_args(Name)[1:] if _fits(_made(other, 1.0, info.total), info)]
        raise ValueError(f"likelihood={name} needs {needs} ({kind}); for these data use one of {', '.join(fitting)}")
    return found


def _made(name: Name, scale: float, total: float | None) -> Likelihood:
    fixed: float | Literal["learned", "predicted"] = scale
    if name.endswith(("-learned", "-predicted")):
        fixed = "learned" if name.endswith("-learned") else "predicted"
    if name.startswith("student-t"):
        return StudentT(fixed, "predicted" if fixed == "predicted" else 5.0)
    if name.startswith(("normal", "laplace")):
        return Normal(fixed) if name.startswith("normal") else Laplace(fixed)
    if name in COUNTS:
        return COUNTS[name](total)
    if name in ("logistic-mixture", "categorical"):
        return DiscretizedLogisticMixture() if name == "logistic-mixture" else Categorical()
    return Bernoulli() if name == "bernoulli" else ContinuousBernoulli()


def _fits(likelihood: Likelihood, info: Info) -> bool:
    """Whether a likelihood is for data of these properties; one of real numbers is also for pixels."""
    if info.counts or likelihood.data == "counts":
        return info.counts and likelihood.data == "counts"
    return likelihood.data == "real" or not info.real
