"""Archives of NumPy arrays (`.npz`): examples, classes and covariates by their usual names."""

import re
import zipfile
from pathlib import Path

import numpy as np

from jaxae.data.reading import reading
from jaxae.data.splits import NAMES, ORDER
from jaxae.errors import InputError

EXAMPLES = ("x", "data", "images", "features", "samples", "arr0")
CONTEXT = ("context", "covariates")
CLASSES = ("y", "labels", "label", "targets", "target", "classes")
CONTENTS = {"x": EXAMPLES, "y": CLASSES, "context": CONTEXT}
NAME = re.compile(r"[A-Za-z]\w{0,30}")


def read(path: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The arrays of an archive whose names are known, by name; a note on the others.

    InputError for another file, and for an archive without such arrays.
    """
    with reading(path, b"PK") as opened, zipfile.ZipFile(opened) as archive:
        found, others = {}, []
        for member in archive.namelist():
            name = member.removesuffix(".npy")
            if name == "lengths" or re.fullmatch(r"arr_\d{1,9}", name) or role(name):
                with archive.open(member) as file:
                    found[name] = np.lib.format.read_array(file, allow_pickle=False)
            else:
                others.append(name)
    if not found:
        held = ", ".join(others) or "none"
        raise InputError(f"{path} has no array of examples (found: {held}); save it as np.savez(path, x=x, y=y)")
    return found, (f"left out: the arrays {', '.join(others)}",) if others else ()


def is_sequences(arrays: dict[str, np.ndarray]) -> bool:
    """Whether the arrays are sequences: of different lengths, or rows with `lengths`."""
    unnamed = [name for name in arrays if re.fullmatch(r"arr_\d+", name)]
    return "lengths" in arrays or len(unnamed) > 1 or not any(role(name) for name in arrays)


Parts = dict[str, np.ndarray | None]  # by split


def splits(arrays: dict[str, np.ndarray], path: Path) -> tuple[dict[str, np.ndarray], Parts, Parts]:
    """Examples, classes and covariates by split.

    The arrays are those of all examples (`x`, `y`, `context`) or of each split (`x_train`, `test_images`, ...).
    InputError for two arrays with the same role, and for splits without a training split.
    """
    roles: dict[tuple[str, str], str] = {}
    for name in arrays:
        own = role(name)
        if own and roles.setdefault(own, name) != name:
            raise InputError(f"{path}: {roles[own]} and {name} are both {' '.join(filter(None, own))}; remove one")
    order = [split for split in ORDER if (split, "x") in roles] if ("train", "x") in roles else [""]
    if ("train" if order[0] else "", "x") not in roles or any(split not in order for split, _ in roles):
        held = ", ".join(arrays)
        raise InputError(f"{path} has no training examples (found: {held}); name them x and y, or x_train, x_test, ...")

    def of(content: str) -> Parts:
        return {
            split or "train": arrays[roles[split, content]] if (split, content) in roles else None for split in order
        }

    return {split or "train": arrays[roles[split, "x"]] for split in order}, of("y"), of("context")


def role(name: str) -> tuple[str, str] | None:
    """Split ("", train, valid or test) and content (x, y or context) of an array; None for another name."""
    if not NAME.fullmatch(name):
        return None
    words = [word.lower() for word in re.split(r"_|(?<=[a-z])(?=[A-Z])", name) if word]
    split = [word for word in words if word in NAMES]
    rest = "".join(word for word in words if word not in NAMES)
    content = next((name for name, usual in CONTENTS.items() if rest in usual), None)
    if content is None or len(split) > 1:
        return None
    return (NAMES[split[0]] if split else "", content)
