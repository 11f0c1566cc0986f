"""What is a policy?

A frozen pydantic model: its fields are its settings, checked when it is made, and its methods are
pure. The experiment file is the constructor call.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

from policies.types import ExperimentError


class Settings(BaseModel):
    """A frozen group of settings; unknown names are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Policy(Settings):
    """A member of a family, told apart by `kind`.

    A user's own member subclasses the family's base class and is named in the file by its dotted
    path, `kind: "my_module:MyPolicy"`.
    """

    kind: str


def _own(path: str) -> Any:
    """Import what ``module:name`` names."""
    module_name, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module_name), name)
    except Exception as error:
        raise ExperimentError(
            f"{path} cannot be imported: {type(error).__name__}: {error}. "
            "The experiment file's folder is importable."
        ) from error


def own_function(path: str) -> Callable[..., Any]:
    """Import what ``module:function`` names.

    Raises:
        ExperimentError: If there is no such function.
    """
    found = _own(path)
    if not callable(found):
        raise ExperimentError(f"{path} must be a function, got {type(found).__name__}.")
    return found  # type: ignore[no-any-return]


def own_class(path: str, base: type[Policy]) -> type[Policy]:
    """Import the class that `kind: "module:Class"` names.

    Raises:
        PydanticCustomError: If there is no such class or it is not of the family.
    """
    try:
        found = _own(path)
    except ExperimentError as error:
        raise PydanticCustomError("own_policy", "{error}", {"error": str(error)}) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise PydanticCustomError(
            "own_policy",
            "{path} must be a class derived from {base}.",
            {"path": path, "base": f"{base.__module__}.{base.__name__}"},
        )
    if found.__abstractmethods__:
        raise PydanticCustomError(
            "own_policy",
            "{path} must define {missing}, as {base} asks.",
            {
                "path": path,
                "missing": ", ".join(sorted(found.__abstractmethods__)),
                "base": f"{base.__module__}.{base.__name__}",
            },
        )
    kind = found.model_fields["kind"].annotation
    if get_origin(kind) is Literal and path not in get_args(kind):
        raise PydanticCustomError(
            "own_policy",
            "{path} must declare `kind: str`, because it inherits {kind}.",
            {"path": path, "kind": " or ".join(get_args(kind))},
        )
    return found


def open_union(base: type[Policy]) -> Any:
    """Return a wrap validator that lets `kind: "module:Class"` into a family's union."""

    def validate(value: Any, handler: Any) -> Any:
        if isinstance(value, base):
            return value
        kind = value.get("kind") if isinstance(value, dict) else None
        if isinstance(kind, str) and ":" in kind:
            return own_class(kind, base).model_validate(value)
        return handler(value)

    return validate
