"""Tables of the layers of a model."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def layers(model: nn.Module, shape: tuple[int, ...], condition: int | None = None) -> dict[str, str]:
    """Tables of the layers of encoder, decoder and both: name, output shape, parameters.

    shape: that of an example. condition: length of the condition of a conditional model.
    """
    key, x = jax.random.key(0), jnp.zeros((1, *shape))
    c = () if condition is None else (jnp.zeros((1, condition)),)
    z = jnp.zeros(jax.eval_shape(lambda: model.init_with_output(key, x, *c, method="encode"))[0].shape)
    wide = {"width": 160, "force_terminal": False, "no_color": True}
    tables = {"encoder": (x, "encode"), "decoder": (z, "decode"), "end to end": (x, "__call__")}
    return {
        name: nn.tabulate(model, key, console_kwargs=wide)(argument, *c, method=method)
        for name, (argument, method) in tables.items()
    }
