"""Tables of the layers of a model."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def layers(model: nn.Module, shape: tuple[int, ...]) -> dict[str, str]:
    """Tables of the layers of encoder, decoder and both: name, output shape, parameters. shape: that of an example."""
    key, x = jax.random.key(0), jnp.zeros((1, *shape))
    z = jnp.zeros(jax.eval_shape(lambda: model.init_with_output(key, x, method="encode"))[0].shape)
    wide = {"width": 160, "force_terminal": False, "no_color": True}
    tables = {"encoder": (x, "encode"), "decoder": (z, "decode"), "end to end": (x, "__call__")}
    return {
        name: nn.tabulate(model, key, console_kwargs=wide)(argument, method=method)
        for name, (argument, method) in tables.items()
    }
