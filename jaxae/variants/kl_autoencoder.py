"""The first stage of latent diffusion: spatial codes with a small KL term, a perceptual and an adversarial loss.

Rombach, Blattmann, Lorenz, Esser & Ommer 2022, section 3.1 and appendix G; the losses are those of Esser, Rombach &
Ommer 2021, section 3.1.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Batch, Loss, Terms
from jaxae.core.divergences import DiagonalNormal, kl_normal, per_example
from jaxae.core.types import Extra, Variables
from jaxae.nets import LAST_INPUT
from jaxae.nets.cpu_convolution import conv
from jaxae.variants.vae import normal, reparameterize

Pixels: TypeAlias = Literal["l1", "l2"]
Distance: TypeAlias = Callable[[Float[Array, "B H W C"], Float[Array, "B H W C"]], Float[Array, " B"]]
LARGEST = 1e4  # limit of the adaptive weight


class KLAutoencoder(nn.Module):
    """An autoencoder with normal posteriors of spatial codes, and a discriminator on its images.

    Parameter groups: encoder, decoder, discriminator.
    """

    encoder: nn.Module  # [B, H, W, C] -> [B, h, w, 2 Z], means and log scales
    decoder: nn.Module  # [*lead, h, w, Z] -> [*lead, H, W, C], an `UpResNet`
    discriminator: nn.Module  # [B, H, W, C] -> [B, *patches]: logits of "real"
    pixels: bool = True  # clip decoded images to [0, 1]

    def __call__(self, x: Float[Array, "B H W C"]) -> tuple[DiagonalNormal, Float[Array, "B H W C"]]:
        """Posterior, and the decoder output at its mean."""
        q = self.posterior(x)
        y = self.outputs(q.mean)
        if self.is_initializing():
            self.discriminate(y)
        return q, y

    def posterior(self, x: Float[Array, "B H W C"]) -> DiagonalNormal:
        """q(z|x)."""
        return normal(self.encoder(x))

    def encode(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w Z"]:
        """The mean of q(z|x)."""
        return self.posterior(x).mean

    def outputs(self, z: Float[Array, "*lead h w Z"]) -> Float[Array, "*lead H W C"]:
        """Reconstructions before clipping."""
        return self.decoder(z)

    def decode(self, z: Float[Array, "*lead h w Z"]) -> Float[Array, "*lead H W C"]:
        """Reconstructions."""
        y = self.outputs(z)
        return jnp.clip(y, 0, 1) if self.pixels else y

    def discriminate(self, x: Float[Array, "B H W C"]) -> Float[Array, "B *patches"]:
        """Logits of "real", one per patch."""
        return self.discriminator(x)


def loss(
    model: KLAutoencoder,
    kl_weight: float,
    *,
    pixels: Pixels = "l1",
    perceptual: Distance | None = None,
    perceptual_weight: float = 1.0,
    adversarial: optax.Schedule | None = None,
) -> Loss:
    """Distance between images plus kl_weight * KL(q(z|x) || N(0, I)) per pixel, and in training an adversarial loss.

    The distance is `l1`, |x - y|, or `l2`, (x - y)^2, mean over pixels and channels, plus perceptual_weight *
    perceptual(x, y). perceptual: distance between images, such as `measure.perceptual.distance`. adversarial: factor of
    the adversarial loss at each step (default: no adversarial loss); it is multiplied by the `adaptive_weight`.

    Terms: `loss`; `mae`, `mse`; `kl`, nats per image; `perceptual`. In training with a discriminator also `generator`,
    minus the mean logit of the decoded patches, and `adaptive`, the adaptive weight. ValueError for microbatches of a
    loss with a discriminator (see `Batch.mean`).
    """

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        q: Any = model.apply(variables, batch.x, method="posterior")
        z = reparameterize(q, batch.noise(key, q.mean.shape[1:]))
        y, captured = model.apply(variables, z, method="outputs", mutable=["intermediates"])
        size = batch.x[0].size

        def distances(y: Float[Array, "B H W C"]) -> Terms:
            error = batch.x - y
            found = {"mae": per_example(jnp.abs(error)) / size, "mse": per_example(error**2) / size}
            return found if perceptual is None else {**found, "perceptual": perceptual(batch.x, y)}

        def total(found: Terms) -> Float[Array, " B"]:
            return found["mae" if pixels == "l1" else "mse"] + perceptual_weight * found.get("perceptual", 0.0)

        def distance(y: Float[Array, "B H W C"]) -> Float[Array, " B"]:
            return total(distances(y))

        def generator(y: Float[Array, "B H W C"]) -> Float[Array, " B"]:
            logits: Any = model.apply(variables, y, method="discriminate")
            return -per_example(logits) / logits[0].size

        kl, found = kl_normal(q), distances(y)
        terms = {**found, "kl": kl, "loss": total(found) + kl_weight * kl / size}
        if adversarial is not None and batch.training:
            (features,) = captured["intermediates"]["decoder"][LAST_INPUT]
            kernel = variables["params"]["decoder"]["output"]["kernel"]
            weight = adaptive_weight(batch, features, kernel, *(_slope(f, y) for f in (distance, generator)))
            terms |= {"generator": generator(y), "adaptive": batch.repeat(weight)}
            terms["loss"] += batch.repeat(adversarial(batch.step) * weight) * terms["generator"]
        return terms, {}

    return objective


def adaptive_weight(
    batch: Batch,
    features: Float[Array, "B H W F"],
    kernel: Float[Array, "3 3 F C"],
    of_distance: Float[Array, "B H W C"],
    of_generator: Float[Array, "B H W C"],
) -> Float[Array, ""]:
    """|gradient of the distance| / (|gradient of the generator loss| + 1e-4), with respect to the last layer's kernel.

    Esser, Rombach & Ommer 2021, equation 7; at most 10,000, as in their code. features: input of the last layer.
    of_distance, of_generator: gradients of the two losses of each example with respect to its decoded image. The weight
    has no gradient. ValueError for microbatches.
    """

    def of_kernel(features: Float[Array, "H W F"], slope: Float[Array, "H W C"]) -> Float[Array, "3 3 F C"]:
        return jax.vjp(lambda k: conv(features[None], k, 1, "SAME", "float32"), kernel)[1](slope[None])[0]

    def norm(slope: Float[Array, "B H W C"]) -> Float[Array, ""]:
        return jnp.sqrt(jnp.sum(batch.mean(jax.vmap(of_kernel)(features, slope)) ** 2))

    constants = jax.lax.stop_gradient((features, kernel, of_distance, of_generator))
    features, kernel, of_distance, of_generator = constants
    return jnp.minimum(norm(of_distance) / (norm(of_generator) + 1e-4), LARGEST)


def discriminator_loss(model: KLAutoencoder, factor: optax.Schedule) -> Loss:
    """factor times the hinge loss (max(0, 1 - D(x)) + max(0, 1 + D(y))) / 2, mean over patches (Lim & Ye 2017).

    factor: schedule that is 0 before the discriminator starts. Use with descend(..., wrt=("discriminator",),
    name="discriminator"); no gradient reaches the decoder. Terms: `loss`; `real`, `fake`: mean logits.
    """

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        q: Any = model.apply(variables, batch.x, method="posterior")
        y = model.apply(variables, reparameterize(q, batch.noise(key, q.mean.shape[1:])), method="outputs")

        def logits(x: Any) -> Any:
            return model.apply(variables, x, method="discriminate")

        real, fake = logits(batch.x), logits(jax.lax.stop_gradient(y))
        hinge = per_example(nn.relu(1 - real) + nn.relu(1 + fake)) / (2 * real[0].size)
        means = {"real": per_example(real) / real[0].size, "fake": per_example(fake) / fake[0].size}
        return {"loss": batch.repeat(factor(batch.step)) * hinge, **means}, {}

    return objective


def started(start: float) -> optax.Schedule:
    """A schedule that is 0 before this step and 1 from it on."""
    return lambda step: (step >= start).astype(jnp.float32)


def _slope(f: Callable[[Float[Array, "B H W C"]], Float[Array, " B"]], y: Any) -> Any:
    """Gradient of each example's value with respect to its own image."""
    return jax.grad(lambda y: jnp.sum(f(y)))(jax.lax.stop_gradient(y))
