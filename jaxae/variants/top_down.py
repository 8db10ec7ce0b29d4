"""Hierarchies with top-down inference, from z_L to z_1, in the order of generation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae.core import kl_term
from jaxae.core.batch import Batch, Loss, Terms
from jaxae.core.divergences import DiagonalNormal, kl_normals_terms, per_example
from jaxae.core.types import Extra, Variables
from jaxae.likelihoods import log_likelihood
from jaxae.nets import Activation
from jaxae.variants import hierarchy, vae
from jaxae.variants.vae import reparameterize


class Layer(nn.Module):
    """A layer of latent variables: p(z_l|state), q(z_l|state, features of x), and the state for the layer below.

    The state carries what the layers below and x depend on. Above z_L it is 0.
    """

    def prior(self, state: Float[Array, "N *S"]) -> tuple[DiagonalNormal, Float[Array, "N *T"]]:
        """p(z_l) of a flat z_l, and the state for `posterior` and `merge`."""
        raise NotImplementedError

    def posterior(
        self, state: Float[Array, "N *T"], p: DiagonalNormal, features: Float[Array, "N *F"]
    ) -> DiagonalNormal:
        """q(z_l)."""
        raise NotImplementedError

    def merge(self, state: Float[Array, "N *T"], z: Float[Array, "N Z_l"]) -> Float[Array, "N *S"]:
        """The state of the next layer, or the input of the decoder."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """Number of latent dimensions."""
        raise NotImplementedError


class Features(nn.Module):
    """The features of each layer by a dense net: [B, *D] -> ([B, F_1], ..., [B, F_L]).

    chained: each net but the first takes the features of the layer below in place of x.
    """

    nets: tuple[nn.Module, ...]
    activation: Activation
    chained: bool = False

    def __call__(self, x: Float[Array, "B *D"]) -> tuple[Float[Array, "B F"], ...]:
        """The features."""
        found = [self.activation(self.nets[0](x))]
        for net in self.nets[1:]:
            found.append(self.activation(net(found[-1] if self.chained else x)))
        return tuple(found)


class Step(NamedTuple):
    """Prior, posterior and value of z_l in a pass from z_L to z_1."""

    p: DiagonalNormal
    q: DiagonalNormal | None
    z: Float[Array, "N Z_l"]


Choose = Callable[[int, DiagonalNormal, DiagonalNormal | None], Float[Array, "N Z_l"]]  # (l - 1, p, q) -> z_l


class TopDown(hierarchy.Hierarchy, kw_only=True):
    """q(z|x) = q(z_L|x) ... q(z_1|z_2, ..., z_L, x).

    Parameter groups: encoder, decoder, layers_0 (of z_1), layers_1, ....
    """

    encoder: nn.Module  # [B, *D] -> features [B, ...] for each layer, a tuple
    layers: tuple[Layer, ...]  # of z_1, ..., z_L
    start: tuple[int, ...] = (0,)  # shape of the state above z_L

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of latent dimensions of each layer."""
        return tuple(layer.size for layer in self.layers)

    def features(self, x: Float[Array, "B *D"]) -> Any:
        """The features of each layer."""
        return self.encoded(x)

    def descend(self, n: int, choose: Choose, features: Any = None) -> tuple[list[Step], Float[Array, "{n} *S"]]:
        """A pass from z_L to z_1: a step for each of z_1, ..., z_L, and the input of the decoder.

        choose: z_l, given its place, p(z_l|...) and q(z_l|...), which is None without features.
        """
        state, steps = jnp.zeros((n, *self.start)), []
        for place in reversed(range(len(self.layers))):
            layer = self.layers[place]
            p, state = layer.prior(state)
            q = None if features is None else layer.posterior(state, p, features[place])
            z = choose(place, p, q)
            state = layer.merge(state, z)
            steps.append(Step(p, q, z))
        return steps[::-1], state

    def sampled(self, features: Any, eps: Float[Array, "N Z"]) -> tuple[list[Step], Float[Array, "N *S"]]:
        """A pass with samples of q."""
        noise = self.layers_of(eps)
        return self.descend(len(eps), lambda place, _, q: reparameterize(_known(q), noise[place]), features)

    def infer(self, features: Any, eps: Float[Array, "N Z"]) -> Float[Array, "N Z"]:
        """A sample of q(z|x) from standard normal noise."""
        return _code(self.sampled(features, eps)[0])

    def log_posteriors(self, features: Any, z: Float[Array, "N Z"]) -> Float[Array, "N L"]:
        """log q(z_l|z_(l + 1), ..., z_L, x)."""
        steps, _ = self._at(z, features)
        return hierarchy.log_densities([_known(step.q) for step in steps], [step.z for step in steps])

    def log_priors(self, z: Float[Array, "N Z"]) -> Float[Array, "N L"]:
        """log p(z_l|z_(l + 1), ..., z_L)."""
        steps, _ = self._at(z)
        return hierarchy.log_densities([step.p for step in steps], [step.z for step in steps])

    def generate(self, eps: Float[Array, "N Z"]) -> Float[Array, "N Z"]:
        """A sample of p(z) from standard normal noise."""
        noise = self.layers_of(eps)
        return _code(self.descend(len(eps), lambda place, p, _: reparameterize(p, noise[place]))[0])

    def outputs(self, z: Float[Array, "N Z"], c: vae.Condition = None) -> Float[Array, "N *P"]:  # noqa: ARG002
        """The parameters of p(x|z)."""
        return self.decoder(self._at(z)[1])

    def bound(self, x: Float[Array, "B *D"], eps: Float[Array, "B Z"]) -> tuple[Any, Float[Array, "B L"]]:
        """The parameters of p(x|z) at a sample of q(z|x), and KL(q || p) of each layer given those above it."""
        steps, state = self.sampled(self.features(x), eps)
        kl = [per_example(kl_normals_terms(_known(step.q), step.p)) for step in steps]
        return self.decoder(state), jnp.stack(kl, axis=1)

    def _at(self, z: Float[Array, "N Z"], features: Any = None) -> tuple[list[Step], Float[Array, "N *S"]]:
        layers = self.layers_of(z)
        return self.descend(len(z), lambda place, *_: layers[place], features)


def _known(q: DiagonalNormal | None) -> DiagonalNormal:
    if q is None:
        raise ValueError("a posterior needs features")
    return q


def _code(steps: list[Step]) -> Float[Array, "N Z"]:
    return jnp.concatenate([step.z for step in steps], axis=1)


def loss(model: TopDown, rate: kl_term.Rate = kl_term.BOUND) -> Loss:
    """The negative evidence lower bound with one sample, in nats per example.

    rate: KL term of the loss from the KL of each layer given those above it, in closed form; free bits are per layer.
    Terms: `loss` = `reconstruction` (-log p(x|z)) + `rate`; `kl`, and `kl_1`, ..., `kl_L` of each layer; the
    likelihood's `errors`.
    """

    def negative_elbo(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        found: Any = model.apply(variables, batch.x, batch.noise(key, (model.size,)), method="bound")
        outputs, kl = found
        error = -log_likelihood(model.likelihood, outputs, batch.x, batch.observed)
        return {
            "loss": error + rate(kl, batch),
            "reconstruction": error,
            **hierarchy.by_layer(kl),
            **model.likelihood.errors(outputs, batch.x, batch.observed),
        }, {}

    return negative_elbo
