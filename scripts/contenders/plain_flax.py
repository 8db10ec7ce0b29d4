"""A plain Flax loop: one jitted step per iteration of a Python loop, batches gathered on the host."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import turns


class Net(nn.Module):
    """Layers applied in sequence."""

    layers: tuple[Any, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = layer(x)
        return x


def dense(*widths: int, activation: Any) -> list[Any]:
    layers: list[Any] = []
    for width in widths:
        layers += [nn.Dense(width), activation]
    return layers[:-1]


def pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (2, 2), (2, 2), "SAME")


def doubled(x: jax.Array) -> jax.Array:
    return x.repeat(2, 1).repeat(2, 2)


def leaky(x: jax.Array) -> jax.Array:
    return nn.leaky_relu(x, 0.3)


def nets(work: dict[str, Any]) -> tuple[Net, Net]:
    """Encoder and decoder; the decoder returns logits."""
    if work["net"] == "dense":
        encoder, decoder = dense(512, 128, 10, activation=nn.elu), dense(128, 512, 784, activation=nn.elu)
    elif work["net"] == "vae":
        hidden, latent = work["hidden"], work["latent"]
        encoder, decoder = dense(hidden, 2 * latent, activation=nn.relu), dense(hidden, 784, activation=nn.relu)
    elif work["net"] == "denoising":
        conv = [nn.Conv(n, (3, 3)) for n in (32, 64, 128, 128, 64, 1)]
        encoder = [conv[0], nn.relu, pool, conv[1], nn.relu, pool, conv[2], nn.relu]
        decoder = [conv[3], nn.relu, doubled, conv[4], nn.relu, doubled, conv[5]]
    elif work["net"] == "mirrored":
        encoder, decoder = [], [nn.Dense(3136), lambda z: z.reshape(-1, 7, 7, 64)]
        for filters, stride in ((32, 1), (64, 2), (64, 2), (64, 1)):
            encoder += [nn.Conv(filters, (3, 3), stride), leaky]
        encoder += [lambda x: x.reshape(len(x), -1), nn.Dense(2)]
        for filters, stride in ((64, 1), (64, 2), (32, 2), (1, 1)):
            decoder += [nn.ConvTranspose(filters, (3, 3), (stride, stride)), leaky]
        decoder = decoder[:-1]
    else:
        encoder = [nn.RNN(nn.OptimizedLSTMCell(64)), lambda x: x[:, -1]]
        decoder = [lambda z: z[:, None].repeat(28, 1), nn.RNN(nn.OptimizedLSTMCell(128)), nn.Dense(28)]
    return Net(tuple(encoder)), Net(tuple(decoder))


def build(work: dict[str, Any], images: np.ndarray) -> turns.Steps:
    encoder, decoder = nets(work)
    x, size = turns.pixels(images, work["net"]), work["batch"]
    key = jax.random.key(0)
    e = encoder.init(key, x[:1])
    code = encoder.apply(e, x[:1])
    d = decoder.init(key, code[:, : work["latent"] or None])
    tx = optax.adam(work["lr"])
    state = (e, d), tx.init((e, d)), jnp.int32(0)

    def loss_of(params: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        if work["net"] == "vae":
            mean, log_scale = jnp.split(encoder.apply(params[0], x), 2, -1)
            logits = decoder.apply(params[1], mean + jnp.exp(log_scale) * jax.random.normal(key, mean.shape))
            kl = 0.5 * (mean**2 + jnp.exp(2 * log_scale) - 1) - log_scale
            return (optax.sigmoid_binary_cross_entropy(logits, x).sum() + kl.sum()) / len(x)
        noisy = work["net"] == "denoising"
        inputs = jnp.clip(x + 0.5 * jax.random.normal(key, x.shape), 0, 1) if noisy else x
        logits = decoder.apply(params[1], encoder.apply(params[0], inputs))
        if work["net"] == "sequence":
            return optax.sigmoid_binary_cross_entropy(logits, x).mean()
        return ((nn.sigmoid(logits) - x) ** 2).mean()

    @jax.jit
    def step(state: Any, x: jax.Array) -> Any:
        params, opt_state, number = state
        loss, grads = jax.value_and_grad(loss_of)(params, x, jax.random.fold_in(key, number))
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, number + 1), loss

    rng = np.random.default_rng(0)
    order, at = rng.permutation(len(x)), 0

    def steps(count: int) -> float:
        nonlocal order, at, state
        loss: Any = 0
        for _ in range(count):
            if at + size > len(x):
                order, at = rng.permutation(len(x)), 0
            state, loss = step(state, x[order[at : at + size]])
            at += size
        return float(loss)

    return steps


if __name__ == "__main__":
    turns.serve(build)
