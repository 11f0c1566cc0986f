"""What is a policy?

A frozen pydantic model: its fields are its settings, checked when it is made, and its methods are
pure. The experiment file is the constructor call.
"""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError


class Settings(BaseModel):
    """A frozen group of settings; unknown names are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Policy(Settings):
    """A member of a family, told apart by `kind`.

    A user's own member subclasses the family's base class and is named in the file by its dotted
    path, `kind: "my_module:MyPolicy"`.
    """

    family: ClassVar[str] = ""
    kind: str


def own_class(path: str, base: type[Policy]) -> type[Policy]:
    """Import the class that `kind: "module:Class"` names.

    Raises:
        PydanticCustomError: If there is no such class or it is not of the family.
    """
    module_name, _, class_name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:
        raise PydanticCustomError(
            "own_policy",
            "{path} cannot be imported: {error}. The experiment file's folder is importable.",
            {"path": path, "error": f"{type(error).__name__}: {error}"},
        ) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise PydanticCustomError(
            "own_policy",
            "{path} must be a class derived from {base}.",
            {"path": path, "base": f"{base.__module__}.{base.__name__}"},
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
