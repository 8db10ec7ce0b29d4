"""A small convolutional classifier, the feature extractor of `quality`.

Heusel et al. 2017 use a large network trained on photographs. For other images, a network trained on the data at hand
has more informative features; it is small and trains within minutes, so weights need not be downloaded.
"""

import logging
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Key, Num

from jaxae import nets
from jaxae.core.batch import Batch, Loss, Terms
from jaxae.core.experiment import Experiment
from jaxae.core.step import descend
from jaxae.core.types import Extra, Params, Variables
from jaxae.data import Dataset, Split
from jaxae.data.augmentation import augmented
from jaxae.data.cache import folder
from jaxae.devices import plan as plans
from jaxae.errors import DAMAGED, InputError
from jaxae.training import epoch
from jaxae.training.iterate import iterate

EPOCHS, COLOUR_EPOCHS = 4, 12
FILTERS, COLOUR_FILTERS = (16, 32, 64), (32, 64, 128)
BATCH = 128
LEARNING_RATE = 2e-3  # initial; cosine decay to 0
REACH = 1  # maximum shift of training images, in pixels
CHUNK = 1000  # images per call of the network
VERSION = 2  # increment when training changes the weights


class Classifier(nn.Module):
    """Convolutions, each with ReLU and pooling, and a dense layer of width 64, ELU."""

    classes: int
    filters: tuple[int, ...] = FILTERS

    def setup(self) -> None:
        self.maps = nets.Conv(self.filters, pools=(2,))
        self.head = nets.MLP((64,), (self.classes,), axes=3, activation=nn.elu)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B classes"]:
        """Logits."""
        return self.head(self.maps(x))

    def features(self, x: Float[Array, "B H W C"]) -> Float[Array, "B F"]:
        """Global average pooling of the last convolutional layer.

        The activations of the dense layer encode the class and little else: on MNIST, noise has a precision of 0.1 to
        0.9 in them, and of 0 in these features.
        """
        return self.maps(x).mean((1, 2))


def loss(model: Classifier, reach: int = 0) -> Loss:
    """Cross-entropy of the classes, in nats. In training, images are shifted by up to `reach` pixels along each axis.

    Terms: `loss`; `accuracy`, 1 where the class has the largest logit.
    """

    def terms(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        x = shifted(batch.x, batch.keys(key), reach) if batch.training else batch.x
        logits: Any = model.apply(variables, x)
        wrong = optax.softmax_cross_entropy_with_integer_labels(logits, batch.y)
        return {"loss": wrong, "accuracy": (logits.argmax(1) == batch.y).astype(jnp.float32)}, {}

    return terms


def shifted(x: Float[Array, "B H W C"], keys: nets.Keys, reach: int) -> Float[Array, "B H W C"]:
    """Shift each image by uniformly sampled whole pixels, up to `reach` along each axis; zero padding."""

    def one(x: jax.Array, key: jax.Array) -> jax.Array:
        row, column = jax.random.randint(key, (2,), 0, 2 * reach + 1)
        padded = jnp.pad(x, ((reach, reach), (reach, reach), (0, 0)))
        return jax.lax.dynamic_slice(padded, (row, column, 0), x.shape)

    return jax.vmap(one)(x, keys)


def train(data: Dataset, epochs: int = 0, seed: int = 0) -> Params:
    """Weights for these images and classes; the same for the same seed. Adam (Kingma & Ba 2015).

    epochs: 0 (the default) means 4, or 12 for colour images. Grey images are shifted by up to a pixel; colour images,
    for which the network is twice as wide, are flipped and cropped. InputError for data that are not images, or have no
    classes.
    """
    model, count = _model(data), len(data.train.x)
    size, coloured = min(BATCH, count), _coloured(data)
    epochs = epochs or (COLOUR_EPOCHS if coloured else EPOCHS)
    rate = optax.cosine_decay_schedule(LEARNING_RATE, epoch.first_step(epochs, count, size))
    objective = loss(model, 0 if coloured else REACH)
    transition = descend(objective, optax.adam(rate))
    if coloured:
        transition = augmented(transition, ("flip", "crop"), data.info)
    experiment = Experiment(model, transition, objective)
    plan = plans.plan("auto", size, 1, jax.local_devices()[:1])
    *_, last = iterate(experiment, data, epochs=epochs, batch_size=size, seed=seed, plan=plan)
    params: Params = jax.device_get(last.state.params)
    return params


def network(params: Params) -> Classifier:
    """The network with these weights."""
    layers = params["maps"]
    filters = tuple(layers[f"Convolution_{number}"]["kernel"].shape[-1] for number in range(len(layers)))
    return Classifier(len(params["head"]["Dense_1"]["bias"]), filters)


def channels(params: Params) -> int:
    """Number of channels of the images that a classifier with these weights takes."""
    count: int = params["maps"]["Convolution_0"]["kernel"].shape[2]
    return count


def activations(params: Params, x: Float[Array, "B H W C"]) -> list[Float[Array, "B h w F"]]:
    """Activations of all convolutions, before pooling, for images in [0, 1]."""

    def captured(module: nn.Module, _: str) -> bool:
        return isinstance(module, nets.Convolution)

    state = network(params).apply(
        {"params": params}, x, method="features", capture_intermediates=captured, mutable=["intermediates"]
    )[1]
    found: Any = state["intermediates"]["maps"]
    return [nn.relu(found[name]["__call__"][0]) for name in sorted(found)]


def features(params: Params, x: Num[Any, "N H W C"]) -> Float[np.ndarray, "N F"]:
    """`Classifier.features` of images, uint8 or in [0, 1]."""
    return _applied(params, x, "features")


def accuracy(params: Params, split: Split) -> float:
    """Fraction of the images of a split whose class has the largest logit."""
    return float(np.mean(_applied(params, split.x, "__call__").argmax(1) == split.y))


def save(path: Path, params: Params) -> None:
    """Weights as an `.npz` file, one array per leaf. OSError if it cannot be written."""
    with path.open("wb") as file:
        np.savez(file, **flatten_dict(jax.device_get(params), sep="/"))


def load(path: Path, data: Dataset) -> Params:
    """Read weights written by `save`, for images and classes of the same shapes.

    InputError for a file that holds anything else, and for data that `train` refuses.
    """
    _model(data)
    found = read(path)
    if not suits(found, data):
        raise InputError(f"{path} holds a classifier for other images or classes; create one with jaxae classifier")
    return found


def suits(params: Params, data: Dataset) -> bool:
    """Whether these are weights for images and classes of the same shapes."""
    if len(data.shape) != 3 or not data.classes:
        return False
    expected = jax.eval_shape(_model(data).init, jax.random.key(0), jnp.zeros((1, *data.shape)))["params"]
    return _shapes(flatten_dict(params, sep="/")) == _shapes(flatten_dict(expected, sep="/"))


def read(path: Path) -> Params:
    """Read weights written by `save`. InputError for a file that holds anything else."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = dict(arrays)
    except (*DAMAGED, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} holds no classifier ({error}); create it with jaxae classifier") from None
    if "maps/Convolution_0/kernel" not in found:
        raise InputError(f"{path} holds no classifier; create it with jaxae classifier")
    params: Params = unflatten_dict({name: jnp.asarray(array) for name, array in found.items()}, sep="/")
    return params


def load_or_train(data: Dataset) -> Params:
    """Load the weights for these data from the user's cache, or train them. InputError as in `train`."""
    path = cache_path(data)
    try:
        return load(path, data)
    except InputError:
        logging.getLogger("jaxae").info("training a classifier of these images (once)")
        params = train(data)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, params)
    except OSError as error:
        logging.getLogger("jaxae").warning("the classifier is not cached in %s: %s", folder(), error)
    return params


def cache_path(data: Dataset) -> Path:
    """Path of the cached weights for these data."""
    return folder() / f"classifier-{VERSION}-{data.fingerprint()}.npz"


def _model(data: Dataset) -> Classifier:
    if len(data.shape) != 3:
        raise InputError(f"examples of shape {data.shape} are not images: the classifier needs [H, W, C]")
    if not data.classes:
        raise InputError("these images have no classes: a classifier needs them")
    return Classifier(len(data.classes), COLOUR_FILTERS if _coloured(data) else FILTERS)


def _coloured(data: Dataset) -> bool:
    return data.shape[-1] > 1


def _shapes(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}


def _applied(params: Params, x: Any, method: str) -> np.ndarray:
    model = network(params)
    chunks = (np.asarray(x[i : i + CHUNK]) for i in range(0, len(x), CHUNK))
    scaled = (chunk / np.float32(255) if chunk.dtype == np.uint8 else chunk for chunk in chunks)
    return np.concatenate([_apply(model, method, params, chunk) for chunk in scaled])


@partial(jax.jit, static_argnums=(0, 1))
def _apply(model: Classifier, method: str, params: Params, x: jax.Array) -> jax.Array:
    result: Any = model.apply({"params": params}, x, method=method)
    return result
