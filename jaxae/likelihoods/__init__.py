"""Likelihoods p(x|z): shape of the decoder output, log density, mean and samples.

`named` returns one by its name.
"""

from typing import Literal, get_args

from jaxae.likelihoods.base import Likelihood as Likelihood
from jaxae.likelihoods.base import log_likelihood as log_likelihood
from jaxae.likelihoods.bernoulli import Bernoulli as Bernoulli
from jaxae.likelihoods.normal import Normal as Normal

Name = Literal["auto", "bernoulli", "normal", "normal-learned", "normal-predicted"]


def named(name: Name, scale: float = 1.0, real: bool = False) -> Likelihood:
    """The likelihood of this name. scale: that of `normal`, in units of x.

    `auto` is `bernoulli` for pixels in [0, 1], `normal-learned` for real numbers. ValueError for another name, for a
    scale of another likelihood than `normal`, and for a Bernoulli likelihood of real numbers.
    """
    if name == "auto" and real:
        name = "normal-learned"
    if name == "bernoulli" and real:
        raise ValueError("likelihood=bernoulli needs data in [0, 1]; use normal-learned, or scale=unit")
    if name not in get_args(Name):
        raise ValueError(f"likelihood={name} is unknown; use one of {', '.join(get_args(Name))}")
    if name == "normal" and scale <= 0:
        raise ValueError(f"likelihood_scale={scale} must be positive")
    if name != "normal" and scale != 1.0:
        raise ValueError(f"likelihood_scale={scale} is for likelihood=normal only; omit it")
    if name.startswith("normal"):
        return Normal(scale if name == "normal" else name.removeprefix("normal-"))  # type: ignore[arg-type]
    return Bernoulli()
