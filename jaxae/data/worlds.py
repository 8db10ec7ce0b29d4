"""Worlds: data sets made from constants, which their names may change, as in `superposition,features=64,seed=1`."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar, get_type_hints

from jaxae.errors import InputError

W = TypeVar("W")  # a dataclass of constants


def world_of(name: str) -> str:
    """The name of a data set without its variant and constants."""
    return name.split(",")[0].split("/")[0]


def constants_of(name: str, kind: type[Any]) -> tuple[str, dict[str, Any]]:
    """The variant and the constants in a name: `world/variant,field=value`; the variant may be empty.

    kind: a dataclass with these fields. InputError for a value of another type.
    """
    which, *given = name.split(",")
    found, hints = {}, get_type_hints(kind)
    for part in given:
        field, _, text = part.partition("=")
        hint = hints.get(field, str)
        try:
            found[field] = {"true": True, "false": False}[text.lower()] if hint is bool else hint(text)
        except (KeyError, ValueError):
            a = {int: "an integer", float: "a number", bool: "true or false"}[hint]
            raise InputError(f"data={name}: {field}={text} must be {a}") from None
    return which.partition("/")[2], found


def changed(world: W, constants: Mapping[str, Any], name: str) -> W:
    """The world with other constants. InputError for a name that is not a field."""
    known = [field.name for field in fields(world)]  # type: ignore[arg-type]
    if unknown := {*constants} - {*known}:
        kind = type(world).__name__
        raise InputError(f"data={name}: {min(unknown)} is not a field of {kind}; use one of {', '.join(known)}")
    return replace(world, **constants)  # type: ignore[type-var]


def require_least(world: Any, least: Mapping[str, int | float], name: str) -> None:
    """Raise InputError for a constant below its least value."""
    for field, low in least.items():
        if not low <= getattr(world, field) < float("inf"):
            raise InputError(f"data={name}: {field}={getattr(world, field)} must be at least {low}, and finite")
