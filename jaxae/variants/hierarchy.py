"""Variational autoencoders with several layers of latent variables: z_1, on which x depends, up to z_L.

Their code is the concatenation of z_1, ..., z_L. `BottomUp` infers from x upwards (Burda, Grosse & Salakhutdinov 2016);
`top_down.TopDown` from z_L downwards.
"""

from itertools import accumulate
from typing import Any, no_type_check

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Batch, Loss, Terms
from jaxae.core.divergences import DiagonalNormal, log_normal, per_example, standard_normal
from jaxae.core.experiment import Prior
from jaxae.core.types import Extra, Variables
from jaxae.variants import vae
from jaxae.variants.vae import normal, reparameterize


@no_type_check  # JAX rebuilds it with sentinels in place of arrays
@struct.dataclass
class Posterior:
    """q(z|x) of a hierarchy: an `iwae.Posterior`. It carries the model and its variables."""

    variables: Any
    features: Any  # of B examples
    model: "Hierarchy" = struct.field(pytree_node=False)

    @property
    def size(self) -> int:
        """Number of latent dimensions of all layers."""
        return self.model.size

    def samples(self, eps: Float[Array, "B K Z"]) -> Float[Array, "B K Z"]:
        """K samples per example from standard normal noise."""
        return self._each("infer", eps)

    def log_prob(self, z: Float[Array, "B K Z"]) -> Float[Array, "B K"]:
        """log q(z|x)."""
        return self._each("log_posteriors", z).sum(2)

    def _each(self, method: str, values: Float[Array, "B K Z"]) -> Float[Array, "B K X"]:
        b, k, _ = values.shape
        features = jax.tree.map(lambda part: jnp.repeat(part, k, axis=0), self.features)
        found: Any = self.model.apply(self.variables, features, values.reshape(b * k, -1), method=method)
        return found.reshape(b, k, -1)


class Hierarchy(vae.VAE, kw_only=True):
    """A model with layers of latent variables. Subclasses define `sizes`, `features` and the methods below them."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of latent dimensions of each layer."""
        raise NotImplementedError

    def features(self, x: Float[Array, "B *D"]) -> Any:
        """The features of x that the posteriors of the layers depend on: arrays [B, ...]."""
        raise NotImplementedError

    def infer(self, features: Any, eps: Float[Array, "N Z"]) -> Float[Array, "N Z"]:
        """A sample of q(z|x) from standard normal noise."""
        raise NotImplementedError

    def log_posteriors(self, features: Any, z: Float[Array, "N Z"]) -> Float[Array, "N L"]:
        """log q of each layer, given the layers inferred before it."""
        raise NotImplementedError

    def log_priors(self, z: Float[Array, "N Z"]) -> Float[Array, "N L"]:
        """log p(z_l|z_(l + 1), ..., z_L)."""
        raise NotImplementedError

    def generate(self, eps: Float[Array, "N Z"]) -> Float[Array, "N Z"]:
        """A sample of p(z) from standard normal noise."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """Number of latent dimensions of all layers."""
        return sum(self.sizes)

    def layers_of(self, z: Float[Array, "N Z"]) -> list[Float[Array, "N _"]]:
        """z_1, ..., z_L, or the noise of each."""
        return jnp.split(z, [*accumulate(self.sizes)][:-1], axis=1)

    def __call__(self, x: Float[Array, "B *D"], c: vae.Condition = None) -> Any:
        """The decoder output at the code of x, [B, *P]."""
        z = self.encode(x, c)
        self.log_priors(z)
        return self.outputs(z, c)

    def posterior(self, x: Float[Array, "B *D"], c: vae.Condition = None) -> Any:  # noqa: ARG002
        """q(z|x), a `Posterior`."""
        model, variables = self.unbind()
        return Posterior(variables, self.features(x), model)

    def encode(self, x: Float[Array, "B *D"], c: vae.Condition = None) -> Float[Array, "B Z"]:  # noqa: ARG002
        """The mean of q of each layer, given the means of the layers inferred before it."""
        return self.infer(self.features(x), jnp.zeros((len(x), self.size)))

    def log_prior(self, z: Float[Array, "N Z"], c: vae.Condition = None) -> Float[Array, " N"]:  # noqa: ARG002
        """log p(z)."""
        return self.log_priors(z).sum(1)

    def kl(self, q: Any, c: vae.Condition = None) -> Float[Array, "B Z"]:
        """Raise NotImplementedError, since the KL of a layer depends on the samples of the others."""
        raise NotImplementedError("KL(q || p) of a hierarchy has no closed form; use top_down.loss or iwae.loss")


class BottomUp(Hierarchy, kw_only=True):
    """q(z|x) = q(z_1|x) q(z_2|z_1) ... and p(x, z) = p(z_L) ... p(z_1|z_2) p(x|z_1), p(z_L) = N(0, I).

    Burda et al. 2016, equations 1 and 5. Parameter groups: encoder, decoder, ups_0, ..., downs_0, ....
    """

    latent: tuple[int, ...]  # dimensions of each layer
    ups: tuple[nn.Module, ...] = ()  # q(z_(l + 1)|z_l): [N, Z_l] -> [N, 2 Z_(l + 1)]
    downs: tuple[nn.Module, ...] = ()  # p(z_l|z_(l + 1)): [N, Z_(l + 1)] -> [N, 2 Z_l]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of latent dimensions of each layer."""
        return self.latent

    def features(self, x: Float[Array, "B *D"]) -> DiagonalNormal:
        """q(z_1|x)."""
        return vae.VAE.posterior(self, x)

    def infer(self, features: DiagonalNormal, eps: Float[Array, "N Z"]) -> Float[Array, "N Z"]:
        """A sample of q(z|x) from standard normal noise."""
        first, *rest = self.layers_of(eps)
        z = [reparameterize(features, first)]
        for up, noise in zip(self.ups, rest, strict=True):
            z.append(reparameterize(normal(up(z[-1])), noise))
        return jnp.concatenate(z, axis=1)

    def log_posteriors(self, features: DiagonalNormal, z: Float[Array, "N Z"]) -> Float[Array, "N L"]:
        """log q(z_l|z_(l - 1))."""
        layers = self.layers_of(z)
        each = [features, *(normal(up(layer)) for up, layer in zip(self.ups, layers, strict=False))]
        return log_densities(each, layers)

    def log_priors(self, z: Float[Array, "N Z"]) -> Float[Array, "N L"]:
        """log p(z_l|z_(l + 1))."""
        layers = self.layers_of(z)
        each = [normal(down(layer)) for down, layer in zip(self.downs, layers[1:], strict=True)]
        return log_densities([*each, standard_normal(layers[-1])], layers)

    def generate(self, eps: Float[Array, "N Z"]) -> Float[Array, "N Z"]:
        """A sample of p(z) from standard normal noise."""
        *rest, last = self.layers_of(eps)
        z = [last]
        for down, noise in zip(self.downs[::-1], rest[::-1], strict=True):
            z.append(reparameterize(normal(down(z[-1])), noise))
        return jnp.concatenate(z[::-1], axis=1)

    def outputs(self, z: Float[Array, "N Z"], c: vae.Condition = None) -> Float[Array, "N *P"]:  # noqa: ARG002
        """The parameters of p(x|z_1)."""
        return self.decoder(self.layers_of(z)[0])


def log_densities(each: list[DiagonalNormal], layers: list[Float[Array, "N _"]]) -> Float[Array, "N L"]:
    """The log density of each layer."""
    return jnp.stack([log_normal(one, z) for one, z in zip(each, layers, strict=True)], axis=1)


def prior(model: Hierarchy) -> Prior:
    """Samples from p(z)."""

    def sample(variables: Variables, key: Key[Array, ""], n: int) -> Float[Array, "n Z"]:
        found: Any = model.apply(variables, jax.random.normal(key, (n, model.size)), method="generate")
        return found

    return sample


def by_layer(kl: Float[Array, "B L"]) -> Terms:
    """The KL term of each layer, `kl_1`, ..., `kl_L`, and their sum, `kl`, as terms of a loss."""
    return {**{f"kl_{place + 1}": kl[:, place] for place in range(kl.shape[1])}, "kl": per_example(kl)}


def with_layers(model: Hierarchy, loss: Loss) -> Loss:
    """The loss with the terms of `by_layer`: log q - log p of each layer, for one posterior sample."""

    def extended(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        terms, updates = loss(variables, batch, key)
        features: Any = model.apply(variables, batch.x, method="features")
        eps = batch.noise(jax.random.fold_in(key, 1), (model.size,))
        z: Any = model.apply(variables, features, eps, method="infer")
        q: Any = model.apply(variables, features, z, method="log_posteriors")
        p: Any = model.apply(variables, z, method="log_priors")
        return {**terms, **by_layer(q - p)}, updates

    return extended
