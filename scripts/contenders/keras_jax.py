"""Keras 3 on JAX: layers and `fit` as in the Keras documentation."""

import os

os.environ["KERAS_BACKEND"] = "jax"

from typing import Any

import keras
import numpy as np
import turns
from keras import layers, ops


class Sampling(layers.Layer):
    """Sample from mean and log scale, and add KL(q || N(0, I)) to the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.seed = keras.random.SeedGenerator(0)

    def call(self, moments: Any) -> Any:
        mean, log_scale = ops.split(moments, 2, -1)
        kl = 0.5 * (mean**2 + ops.exp(2 * log_scale) - 1) - log_scale
        self.add_loss(ops.mean(ops.sum(kl, -1)))
        return mean + ops.exp(log_scale) * keras.random.normal(ops.shape(mean), seed=self.seed)


class Noise(layers.Layer):
    """Normal noise, with the result clipped to [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.seed = keras.random.SeedGenerator(0)

    def call(self, x: Any) -> Any:
        return ops.clip(x + 0.5 * keras.random.normal(ops.shape(x), seed=self.seed), 0, 1)


def per_image(x: Any, logits: Any) -> Any:
    """Cross-entropy in nats per image."""
    return ops.sum(ops.binary_crossentropy(x, logits, from_logits=True), -1)


def network(work: dict[str, Any]) -> list[Any]:
    """The layers. The output is a logit unless the loss is the squared error."""

    def conv(filters: int, **options: Any) -> Any:
        return layers.Conv2D(filters, 3, padding="same", **options)

    if work["net"] == "dense":
        widths = [layers.Dense(n, activation="elu") for n in (512, 128, 128, 512)]
        return [*widths[:2], layers.Dense(10), *widths[2:], layers.Dense(784, activation="sigmoid")]
    if work["net"] == "vae":
        hidden, latent = work["hidden"], work["latent"]
        encoder = [layers.Dense(hidden, activation="relu"), layers.Dense(2 * latent), Sampling()]
        return [*encoder, layers.Dense(hidden, activation="relu"), layers.Dense(784)]
    if work["net"] == "denoising":
        relu = [conv(n, activation="relu") for n in (32, 64, 128, 128, 64)]
        pools, ups = ([kind() for _ in range(2)] for kind in (layers.MaxPooling2D, layers.UpSampling2D))
        encoder = [Noise(), relu[0], pools[0], relu[1], pools[1], relu[2]]
        return [*encoder, relu[3], ups[0], relu[4], ups[1], conv(1, activation="sigmoid")]
    if work["net"] == "mirrored":
        made: list[Any] = []
        for filters, stride in ((32, 1), (64, 2), (64, 2), (64, 1)):
            made += [conv(filters, strides=stride), layers.LeakyReLU(negative_slope=0.3)]
        made += [layers.Flatten(), layers.Dense(2), layers.Dense(3136), layers.Reshape((7, 7, 64))]
        for filters, stride in ((64, 1), (64, 2), (32, 2), (1, 1)):
            made.append(layers.Conv2DTranspose(filters, 3, stride, padding="same"))
            made.append(layers.LeakyReLU(negative_slope=0.3))
        return [*made[:-1], layers.Activation("sigmoid")]
    return [layers.LSTM(64), layers.RepeatVector(28), layers.LSTM(128, return_sequences=True), layers.Dense(28)]


def build(work: dict[str, Any], images: np.ndarray) -> turns.Steps:
    keras.utils.set_random_seed(0)
    x, size = turns.pixels(images, work["net"]), work["batch"]
    model = keras.Sequential([keras.Input(x.shape[1:]), *network(work)])
    loss: Any = {"vae": per_image, "sequence": keras.losses.BinaryCrossentropy(from_logits=True)}.get(
        work["net"], "mse"
    )
    model.compile(keras.optimizers.Adam(work["lr"]), loss, jit_compile=True)

    def steps(count: int) -> float:
        for n in turns.epochs(count, len(x) // size):
            history = model.fit(x[: n * size], x[: n * size], size, verbose=0).history
        return float(history["loss"][-1])

    return steps


if __name__ == "__main__":
    turns.serve(build)
