"""Likelihoods p(x|z) as objects: what a decoder has to output, and densities, means and samples of it.

`named` chooses one as `--likelihood NAME` does.
"""

from typing import Literal

from jaxae.likelihoods.base import Likelihood as Likelihood
from jaxae.likelihoods.base import log_likelihood as log_likelihood
from jaxae.likelihoods.bernoulli import Bernoulli as Bernoulli
from jaxae.likelihoods.normal import Normal as Normal

Name = Literal["auto", "bernoulli", "normal", "normal-learned", "normal-predicted"]


def named(name: Name, scale: float = 1.0) -> Likelihood:
    """The likelihood of this name; `auto` is Bernoulli, for pixels in [0, 1]. scale: of `normal`, in units of x.

    ValueError for another name.
    """
    found: dict[str, Likelihood] = {
        "auto": Bernoulli(),
        "bernoulli": Bernoulli(),
        "normal": Normal(scale),
        "normal-learned": Normal("learned"),
        "normal-predicted": Normal("predicted"),
    }
    if name not in found:
        raise ValueError(f"likelihood={name} is unknown: there are {', '.join(found)}")
    return found[name]
