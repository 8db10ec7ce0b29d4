"""TensorFlow Datasets, read without TensorFlow; the MNIST family is also prepared without it."""

import contextlib
import difflib
import gzip
import importlib.util
import io
import logging
import socket
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxae.data import idx
from jaxae.data.cache import cached
from jaxae.data.dataset import Split
from jaxae.data.splits import NAMES, RawDataset
from jaxae.errors import InputError, first_line

FAMILY = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST", "emnist": "EMNIST"}


def prepares(name: str) -> bool:
    """Whether the data set is of the MNIST family, which needs no TensorFlow."""
    return name.split("/")[0] in FAMILY


def load(name: str, data_dir: str = "", manual_dir: str = "") -> RawDataset:
    """A TFDS data set of images by name, prepared if necessary, as uint8 arrays in the order of TFDS.

    data_dir: folder of prepared data sets. manual_dir: folder of archives already downloaded; their checksums are
    verified. InputError for an unknown name, for a data set without images, for a failed download, for a damaged
    archive, and for a data set whose preparation needs TensorFlow if that is not installed.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

    tfds.disable_progress_bar()
    where = {"data_dir": data_dir} if data_dir else {}
    try:
        builder = read_only_builder.builder_from_files(name, **where)
    except (tfds.core.registered.DatasetNotFoundError, ValueError):
        builder = _prepare(tfds, name, where, manual_dir)
    if builder.info.file_format.value != "array_record":
        raise InputError(
            f"{name} in {builder.data_dir} is prepared as {builder.info.file_format.value}, not array_record; "
            "use another data_dir to prepare it there"
        )
    files = sorted((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in Path(builder.data_dir).iterdir())
    return cached(f"tfds {builder.data_dir} {files}", lambda: _decode(tfds, builder, name))


def _prepare(tfds: Any, name: str, where: dict[str, str], manual_dir: str) -> Any:
    if not prepares(name):
        known = ["digits", "sprites", "superposition", *tfds.list_builders(with_community_datasets=False)]
        if name.split("/")[0] not in known:
            raise _unknown(name, known)
        if importlib.util.find_spec("tensorflow") is None:
            place = where.get("data_dir", "the folder of TFDS")
            raise InputError(
                f"{name} is not prepared in {place}, and preparing it needs TensorFlow: pip install 'jaxae[tf]'"
            )
    if manual_dir and not Path(manual_dir).is_dir():
        raise InputError(f"manual_dir={manual_dir}: there is no such folder; check the path")
    options = {"manual_dir": manual_dir} if manual_dir else {}
    try:
        if prepares(name):
            builder = _builder(name, where)
            _check_archives(builder, manual_dir)
        else:
            builder = tfds.builder(name, file_format="array_record", **where)
        logging.getLogger("jaxae").info("preparing %s (once)", name)
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(**options))
    except InputError:
        raise
    except Exception as error:  # network, disk, checksum and archive errors from many libraries
        raise InputError(
            f"{name} could not be prepared ({first_line(error)}); "
            "download its archives by hand and pass their folder as manual_dir"
        ) from None
    return builder


def _check_archives(builder: Any, manual_dir: str) -> None:
    """Raise InputError at once for a missing archive or network, where TFDS would retry for minutes."""
    config = builder.builder_config
    parts = (f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
    names = [builder.URL.rsplit("/", 1)[1]] if config else list(parts)
    missing = [name for name in names if not (manual_dir and (Path(manual_dir) / name).exists())]
    if manual_dir and missing:
        raise InputError(f"manual_dir={manual_dir} lacks {', '.join(missing)}; download from {builder.URL}")
    host = urllib.parse.urlsplit(builder.URL).hostname
    try:
        if missing and not urllib.request.getproxies():
            socket.getaddrinfo(host, 80)
    except OSError:
        raise InputError(
            f"{builder.name} cannot be downloaded: host {host} is not found; "
            f"download {', '.join(missing)} elsewhere and set manual_dir=FOLDER"
        ) from None


def _builder(name: str, where: dict[str, str]) -> Any:
    """The TFDS builder of a data set of the MNIST family, with extraction and encoding without TensorFlow."""
    from tensorflow_datasets.image_classification import mnist

    set_name, _, config = name.partition("/")
    theirs: Any = getattr(mnist, FAMILY[set_name])
    if (config or set_name == "emnist") and config not in theirs.builder_configs:
        raise _unknown(name, [f"{set_name}/{kind}" for kind in theirs.builder_configs] or [set_name])

    class Builder(theirs, skip_registration=True):  # type: ignore[call-arg]
        name = set_name

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            prefixes = {"train": "train", "test": "test" if config else "t10k"}
            return {
                split: _examples(
                    _open(dl_manager, self, f"{prefix}-images-idx3-ubyte.gz"),
                    _open(dl_manager, self, f"{prefix}-labels-idx1-ubyte.gz"),
                )
                for split, prefix in prefixes.items()
            }

    options = {"config": config} if config else {}
    return Builder(file_format="array_record", **options, **where)


def _open(dl_manager: Any, builder: Any, file: str) -> gzip.GzipFile:
    """A file of the set, unpacked by Python, since TFDS would call TensorFlow."""
    if not builder.builder_config:
        return gzip.open(dl_manager.download(builder.URL + file))
    archive = zipfile.ZipFile(dl_manager.download(builder.URL))
    return gzip.open(archive.open(f"gzip/emnist-{builder.builder_config.name}-{file}"))


def _examples(images: gzip.GzipFile, labels: gzip.GzipFile) -> Iterator[tuple[int, dict[str, Any]]]:
    from PIL import Image

    with images, labels:
        x, y = idx.parse(images, 3, "images"), idx.parse(labels, 1, "labels")
    for number, (image, label) in enumerate(zip(x, y, strict=True)):
        png = io.BytesIO()
        Image.fromarray(image).save(png, "png")
        yield number, {"image": png.getvalue(), "label": int(label)}


def _decode(tfds: Any, builder: Any, name: str) -> RawDataset:
    features = builder.info.features
    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    if len(images) != 1:
        raise InputError(f"{name} has {len(images)} image features, not one")
    labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    label = labels[0] if labels else None

    def split(part: str) -> Split:
        source = builder.as_data_source(split=part)
        x, y = [], []
        for example in source:
            x.append(example[images[0]])
            y.append(example[label] if label else -1)
            if x[-1].shape != x[0].shape or x[-1].dtype != np.uint8:
                raise InputError(f"{name}: images of {x[-1].shape} {x[-1].dtype} and {x[0].shape}: one size is needed")
        return Split(np.stack(x), np.array(y, np.int32))

    classes = tuple(features[label].names) if label else ()
    parts = {NAMES[part]: part for part in builder.info.splits if part in NAMES}
    if "train" not in parts:
        parts = {"train": next(iter(builder.info.splits))}
    return RawDataset({name: split(part) for name, part in parts.items()}, classes)


def _unknown(name: str, known: list[str]) -> InputError:
    near = difflib.get_close_matches(name, known, 3, 0.4)
    return InputError(
        f"data={name}: there is no such file or data set"
        + (f"; did you mean {', '.join(near)}?" if near else "; check the name")
    )
