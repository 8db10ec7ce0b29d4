"""M2 and M1+M2 (Kingma, Mohamed, Rezende & Welling 2014): semi-supervised variational autoencoders.

p(x, y, z) = p(y) p(z) p(x|y, z) with a uniform p(y); the posterior is q(y|x) q(z|x, y), where q(y|x) is a classifier.
M1+M2 is M2 on the codes of another variational autoencoder, M1, in place of the examples.
"""

from math import log
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae.core import divergences
from jaxae.core.batch import Batch, Loss, Terms, Weight
from jaxae.core.divergences import DiagonalNormal
from jaxae.core.types import Extra, Variables
from jaxae.likelihoods import Likelihood, Normal, log_likelihood
from jaxae.variants import vae

FEATURES = Normal("predicted")  # p(code of M1|y, z)


class M2(vae.VAE, kw_only=True):
    """A semi-supervised model. Parameter groups: encoder, decoder, classifier, and m1.

    A condition is a one-hot class, or zeros for an example without a class, followed by covariates. encode and
    reconstruct use the most probable class of such examples; decode needs the class. With M1 the encoder, the decoder
    and the classifier are those of M2, and decode returns the examples that M1 decodes from the expected features.
    """

    classifier: nn.Module  # [B, D + C] -> [B, Y], logits of q(y|x)
    classes: int  # number Y of classes
    m1: vae.VAE | None = None

    @property
    def target(self) -> Likelihood:
        """The likelihood p(x|y, z), or with M1 p(code of M1|y, z)."""
        return self.likelihood if self.m1 is None else FEATURES

    def __call__(self, x: Float[Array, "B *D"], c: vae.Condition = None) -> tuple[DiagonalNormal, Float[Array, "B *P"]]:
        """Posterior, and the decoder output at its mean."""
        self.logits(self.features(x), c)
        q = self.posterior(x, c)
        return q, self.outputs(q.mean, c)

    def features(self, x: Float[Array, "B *D"], eps: Float[Array, "B F"] | None = None) -> Float[Array, "B *E"]:
        """The input of M2: x, or with M1 the mean of its code, or a sample of it with noise eps."""
        if self.m1 is None:
            return x
        q = self.m1.posterior(x)
        return q.mean if eps is None else vae.reparameterize(q, eps)

    def logits(self, h: Float[Array, "B *E"], c: vae.Condition) -> Float[Array, "B Y"]:
        """Logits of q(y|x) from features; only the covariates of the condition are used."""
        return self.classifier(vae.with_condition(self._encoder_input(h), _given(c)[:, self.classes :]))

    def classify(self, x: Float[Array, "B *D"], c: vae.Condition = None) -> Float[Array, "B Y"]:
        """q(y|x)."""
        return nn.softmax(self.logits(self.features(x), c))

    def posterior_of(self, h: Float[Array, "B *E"], c: vae.Condition) -> DiagonalNormal:
        """q(z|x, y) from features."""
        return vae.normal(self.encoder(vae.with_condition(self._encoder_input(h), c)))

    def posterior(self, x: Float[Array, "B *D"], c: vae.Condition = None) -> DiagonalNormal:
        """q(z|x, y), with the most probable class for an example without one."""
        h = self.features(x)
        return self.posterior_of(h, self._completed(h, c))

    def target_outputs(self, z: Float[Array, "B Z"], c: vae.Condition) -> Float[Array, "B *P"]:
        """The parameters of `target`."""
        return self.decoder(vae.with_condition(z, c))

    def outputs(self, z: Float[Array, "B Z"], c: vae.Condition = None) -> Float[Array, "B *P"]:
        """The parameters of p(x|y, z); with M1, at the expected features."""
        found = self.target_outputs(z, c)
        return found if self.m1 is None else self.m1.outputs(self.target.mean(found))

    def reconstruct(self, x: Float[Array, "B *D"], c: vae.Condition = None) -> Float[Array, "B *D"]:
        """decode(encode(x)), with the most probable class for an example without one."""
        h = self.features(x)
        c = self._completed(h, c)
        return self.decode(self.posterior_of(h, c).mean, c)

    def _encoder_input(self, h: Float[Array, "B *E"]) -> Float[Array, "B *E"]:
        return jnp.log1p(h) if self.target.data == "counts" else h

    def _completed(self, h: Float[Array, "B *E"], c: vae.Condition) -> Float[Array, "B C"]:
        c = _given(c)
        given = c[:, : self.classes]
        likely = jax.nn.one_hot(self.logits(h, c).argmax(1), self.classes)
        known = jnp.any(given > 0, axis=1, keepdims=True)
        return jnp.concatenate([jnp.where(known, given, likely), c[:, self.classes :]], axis=1)


def _given(c: vae.Condition) -> Float[Array, "B C"]:
    if c is None:
        raise ValueError("M2 needs a condition; pass a one-hot class, or zeros, followed by the covariates")
    return c


def loss(model: M2, weight: float, kl_weight: Weight = 1.0) -> Loss:
    """The semi-supervised objective (Kingma et al. 2014, equations 6 to 9), with one posterior sample per class.

    The bound of an example with class y is L(x, y) = -E log p(x|y, z) - log p(y) + KL(q(z|x, y) || p(z)), and that of
    an example without a class is U(x) = sum over y of q(y|x) (L(x, y) + log q(y|x)), in nats per example. With M1, x is
    replaced by its code: a sample in training, the mean in evaluation. weight: weight of -log q(y|x) of each example
    with a class. kl_weight: weight of the KL term.
    Terms: `loss`, the bound plus weight * `cross_entropy`; `reconstruction` and `kl` of the given class, or
    expectations under q(y|x); `cross_entropy`, -log q(y|x), and `wrong`, 1 if another class is the most probable one;
    both are 0 without a class.
    """
    classes = model.classes

    def terms(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        codes, inner = jax.random.split(key)
        c = vae.condition_of(model, batch)[0]
        given, context = c[:, :classes], c[:, classes:]
        apply: Any = lambda name, *args: model.apply(variables, *args, method=name)  # noqa: E731
        h = apply("features", batch.x)
        if model.m1 is not None and batch.training:
            h = apply("features", batch.x, batch.noise(codes, h.shape[1:]))
        log_q = jax.nn.log_softmax(apply("logits", h, c))
        every = jnp.tile(jnp.eye(classes), (len(h), 1))
        data, observed, rest = jax.tree.map(
            lambda part: jnp.repeat(part, classes, axis=0),
            (h, batch.observed if model.m1 is None else None, context),
        )
        conditions = jnp.concatenate([every, rest], axis=1)
        q: DiagonalNormal = apply("posterior_of", data, conditions)
        latent = q.mean.shape[1]
        z = vae.reparameterize(q, batch.noise(inner, (classes, latent)).reshape(-1, latent))
        error = -log_likelihood(model.target, apply("target_outputs", z, conditions), data, observed)
        error, kl = (part.reshape(-1, classes) for part in (error, divergences.kl_normal(q)))
        bound = error + batch.scheduled(kl_weight) * kl + log(classes)
        known = jnp.any(given > 0, axis=1)
        share = jnp.where(known[:, None], given, jnp.exp(log_q))
        entropy = jnp.where(known, 0, -divergences.per_example(jnp.exp(log_q) * log_q))
        cross_entropy = -divergences.per_example(given * log_q)
        wrong = known & (log_q.argmax(1) != given.argmax(1))
        return {
            "loss": divergences.per_example(share * bound) - entropy + weight * cross_entropy,
            "reconstruction": divergences.per_example(share * error),
            "kl": divergences.per_example(share * kl),
            "cross_entropy": cross_entropy,
            "wrong": wrong.astype(jnp.float32),
        }, {}

    return terms


def m1_loss(model: M2) -> Loss:
    """The negative evidence lower bound of M1 (see `vae.loss`), which does not use classes. ValueError without M1."""
    if model.m1 is None:
        raise ValueError("the model has m1=None; pass one with M1, or use m2.loss alone")
    of_m1 = vae.loss(model.m1)

    def terms(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        return of_m1({"params": variables["params"]["m1"]}, batch, key)

    return terms
