"""not-MIWAE (Ipsen, Mattei & Frellsen 2021): entries that are missing because of their values."""

from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae import nets
from jaxae.core.batch import Batch, Loss, Terms, Weight
from jaxae.core.divergences import DiagonalNormal, importance_weighted, only_observed, per_example
from jaxae.core.types import Extra, Variables
from jaxae.likelihoods.bernoulli import cross_entropy
from jaxae.likelihoods.location_scale import LocationScale
from jaxae.variants import iwae, miwae, vae

Kind = Literal["self-masking", "self-masking-high", "self-masking-low", "linear", "agnostic"]
STEEP = 5.0  # initial slope of self-masking with a known sign, per standard deviation of an entry
SIGNS = {"self-masking": 0, "self-masking-high": 1, "self-masking-low": -1}


class SelfMasking(nn.Module):
    """The logit of p(entry d is observed|x) is -slope_d (x_d - threshold_d) (Ipsen et al. 2021, section 3).

    sign: the sign of all slopes: 1 if large entries are missing, -1 if small ones are, 0 if it is unknown. With a known
    sign, slopes start at `STEEP`, since from flat slopes training can settle at a threshold below the missing entries.
    """

    sign: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "N *D"]) -> Float[Array, "N *D"]:
        start = nn.initializers.constant(STEEP) if self.sign else nn.initializers.normal(0.1)
        slope = self.param("slope", start, x.shape[1:])
        threshold = self.param("threshold", nn.initializers.zeros, x.shape[1:])
        slope = self.sign * nn.softplus(slope) if self.sign else slope
        return -slope[None] * (x - threshold[None])


def missingness(kind: Kind, shape: tuple[int, ...], hidden: int = 128) -> nn.Module:
    """A model of p(observed|x): [N, *D] -> logits [N, *D], for examples of this shape.

    self-masking: missingness depends on the entry's own value; large entries are missing (-high), small ones are
    (-low), or the direction is learned. linear: it depends on a linear function of all entries. agnostic: it depends on
    a network of all entries with a hidden layer of `hidden` tanh units. ValueError for another kind.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"missingness={kind} is unknown; use one of {', '.join(get_args(Kind))}")
    if kind in SIGNS:
        return SelfMasking(SIGNS[kind])
    return nets.MLP((hidden,) if kind == "agnostic" else (), shape, axes=len(shape), activation=nn.tanh)


class NotMIWAE(vae.VAE, kw_only=True):
    """A variational autoencoder with a model of missingness. Parameter groups: encoder, decoder, missingness.

    ValueError for a likelihood of pixels or counts, whose samples have no gradient.
    """

    missingness: nn.Module  # [N, *D] -> logits of p(observed|x), [N, *D]

    def __post_init__(self) -> None:
        """Raise ValueError for a likelihood whose samples are not reparameterized."""
        super().__post_init__()
        if not isinstance(self.likelihood, LocationScale):
            raise ValueError(
                f"likelihood {type(self.likelihood).__name__} has no reparameterized samples, which a model of "
                "missingness needs; use normal, laplace or student-t"
            )

    def __call__(self, x: Float[Array, "B *D"], c: vae.Condition = None) -> tuple[DiagonalNormal, Float[Array, "B *P"]]:
        """Posterior, and the decoder output at its mean."""
        self.missingness(x)
        return super().__call__(x, c)

    def log_missingness(self, x: Float[Array, "N *D"], observed: Float[Array, "N *D"]) -> Float[Array, " N"]:
        """log p(observed|x) of complete examples x, in nats."""
        return -per_example(cross_entropy(self.missingness(x), observed))


def draws(
    model: NotMIWAE,
    variables: Variables,
    data: iwae.Data,
    q: iwae.Posterior,
    z: Float[Array, "B K Z"],
    keys: Key[Array, " B"],
) -> miwae.Draws:
    """Weights p(x_observed, z) p(observed|x) / q(z|x_observed), with missing entries of x sampled from p(x|z)."""
    found, log_missing, x = _weighed(model, variables, data, q, z, keys)
    return miwae.Draws(found.log_weights() + log_missing, x, x)


def _weighed(
    model: NotMIWAE,
    variables: Variables,
    data: iwae.Data,
    q: iwae.Posterior,
    z: Float[Array, "B K Z"],
    keys: Key[Array, " B"],
) -> tuple[iwae.LogDensities, Float[Array, "B K"], Float[Array, "B K *D"]]:
    """Densities, log p(observed|x), and x with its missing entries sampled from p(x|z)."""
    found, outputs = iwae.decoded(model, variables, data, q, z)
    sampled = miwae.sampled(model.likelihood, keys, outputs)
    x, observed = jnp.broadcast_to(data[0][:, None], sampled.shape), _complete(data)
    known = jnp.broadcast_to(observed[:, None], sampled.shape)
    x = jnp.where(known > 0, x, sampled)
    flat, mask = (part.reshape(-1, *x.shape[2:]) for part in (x, known))
    log_missing: Any = model.apply(variables, flat, mask, method="log_missingness")
    return found, log_missing.reshape(z.shape[:2]), x


def _complete(data: iwae.Data) -> Float[Array, "B *D"]:
    """The mask of observed entries, with the shape of the examples."""
    x, observed, *_ = data
    return jnp.ones_like(x) if observed is None else only_observed(jnp.ones_like(x), observed)


def loss(model: NotMIWAE, samples: int, kl_weight: Weight = 1.0) -> Loss:
    """The negative bound on log p(x_observed, observed) with K = `samples` (Ipsen et al. 2021, equation 7).

    In nats per example. kl_weight: weight of the KL term within log w, for KL warm-up.
    Terms: `loss`; `elbo`, the mean over the samples of log w with `kl_weight` = 1; `missingness`, their mean
    -log p(observed|x).
    """

    def negative_bound(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        c = vae.condition_of(model, batch)
        codes, entries = jax.random.split(key)
        q: Any = model.apply(variables, batch.x, *c, method="posterior")
        z = q.samples(batch.noise(codes, (samples, q.size)))
        data = (batch.x, batch.observed, *c)
        found, log_missing, _ = _weighed(model, variables, data, q, z, batch.keys(entries))
        log_w = found.log_weights(batch.scheduled(kl_weight)) + log_missing
        elbo = (found.log_weights() + log_missing).mean(1)
        return {"loss": -importance_weighted(log_w), "elbo": elbo, "missingness": -log_missing.mean(1)}, {}

    return negative_bound
