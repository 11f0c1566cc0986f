"""What does a model allow at a place of the file?

Reads the annotations of pydantic models: kinds, names, choices and what lies below.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Discriminator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from policies.base import Policy, own_class


@dataclass(frozen=True)
class Slot:
    """What a model allows at one place.

    Args:
        types: The members of the union there, or the one type.
        tag: The field that tells the members apart, or "".
        default: What stands there when the file is silent, or None.
        rest: Says what a tag means that no member has (`own_member(tag)`, a model), and which tag
            is meant where there is none (`silent`); None for a family of policies.
    """

    types: tuple[Any, ...] = ()
    tag: str = ""
    default: Any = None
    rest: Any = None

    @classmethod
    def of(cls, annotation: Any) -> Slot:
        """Read an annotation, through aliases, `Annotated`, unions and validators."""
        annotation = getattr(annotation, "__value__", annotation)
        origin = get_origin(annotation)
        if origin is Annotated:
            inner, *extras = get_args(annotation)
            slot = cls.of(inner)
            tag = next(filter(None, map(_discriminator, extras)), slot.tag)
            return replace(slot, tag=tag, rest=_rest(extras) or slot.rest)
        if origin in (Union, types.UnionType):
            slots = [cls.of(member) for member in get_args(annotation)]
            members = tuple(one for slot in slots for one in slot.types)
            return cls(members, next((slot.tag for slot in slots if slot.tag), ""))
        if inspect.isclass(annotation) and issubclass(annotation, Policy):
            return cls((annotation,), "kind")  # a family of one, open to a user's own members
        return cls((annotation,))

    @classmethod
    def of_field(cls, info: FieldInfo) -> Slot:
        """Read a model's field, whose outermost `Annotated` pydantic has taken apart."""
        slot = cls.of(info.annotation)
        tags = map(_discriminator, [info, *info.metadata])
        rest = _rest(info.metadata) or slot.rest
        default = None
        if not info.default_factory_takes_validated_data:
            default = info.get_default(call_default_factory=True)
        tag = next(filter(None, tags), slot.tag)
        return replace(slot, tag=tag, default=default, rest=rest)

    def models(self, data: Any) -> list[type[BaseModel]]:
        """Return the models that `data` may mean: the one of its kind, or all where none says."""
        found = [t for t in self.types if inspect.isclass(t) and issubclass(t, BaseModel)]
        if not self.tag or not isinstance(data, dict):
            return found
        kind = data.get(self.tag, self.rest and self.rest.silent)
        if kind is None and self.tag not in data:
            return found
        if isinstance(kind, str) and ":" in kind:
            if self.rest is not None:
                return [self.rest.own_member(kind)]
            try:
                return [own_class(kind, Policy)]
            except PydanticCustomError:
                return []
        return [model for model in found if kind in _choices(model, self.tag)]

    def kinds(self) -> list[Any]:
        """Return the values that the tag may take."""
        every = self.models(None)
        return list(dict.fromkeys(one for model in every for one in _choices(model, self.tag)))

    def names(self, data: Any) -> list[str]:
        """Return the names that `data` may have here."""
        found = (
            info.alias or name for m in self.models(data) for name, info in m.model_fields.items()
        )
        return list(dict.fromkeys(found))

    def step(self, data: Any, key: Any) -> Slot:
        """Return the slot under `key`; one without types if the model has no such place."""
        for model in self.models(data):
            info = field_of(model, key)
            if info is not None:
                return Slot.of_field(info)
        for one in self.types:
            inner = _item(one, key)
            if inner is not None:
                return Slot.of(inner)
        return Slot()


def _rest(extras: Iterable[Any]) -> Any:
    return next((extra for extra in extras if hasattr(extra, "own_member")), None)


def _discriminator(extra: Any) -> str:
    found = getattr(extra, "discriminator", None)
    if isinstance(found, Discriminator):
        found = found.discriminator
    return found if isinstance(found, str) else ""


def field_of(model: type[BaseModel], key: Any) -> FieldInfo | None:
    """Return the field that the file calls `key`."""
    fields = model.model_fields
    by_alias = (info for info in fields.values() if key in (info.alias, info.validation_alias))
    return next(by_alias, None) or (fields.get(key) if isinstance(key, str) else None)


def _choices(model: type[BaseModel], name: str) -> tuple[Any, ...]:
    """Return the values that a field of `Literal` or enum type may take."""
    info = model.model_fields.get(name)
    found: list[Any] = []
    for one in Slot.of_field(info).types if info else ():
        if get_origin(one) is Literal:
            found += [arg.value if isinstance(arg, Enum) else arg for arg in get_args(one)]
        elif inspect.isclass(one) and issubclass(one, Enum):
            found += [member.value for member in one]
    return tuple(found)


def _item(container: Any, key: Any) -> Any:
    """Return the annotation of what a container type holds at `key`, or None."""
    origin, args = get_origin(container), get_args(container)
    if not inspect.isclass(origin) or not args:
        return None
    if issubclass(origin, Mapping):
        return args[-1] if isinstance(key, str) else None
    if not issubclass(origin, Iterable) or not isinstance(key, int):
        return None
    if issubclass(origin, tuple) and Ellipsis not in args:
        return args[key] if key < len(args) else None
    return args[0]


def holds(data: Any, key: Any) -> bool:
    """Return whether plain data has something at `key`."""
    if isinstance(data, dict):
        return key in data
    return isinstance(data, list) and isinstance(key, int) and 0 <= key < len(data)
