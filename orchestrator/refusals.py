"""What does pydantic refuse, in the words of the file?"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import ErrorDetails

from orchestrator.annotations import Slot, holds
from orchestrator.mistakes import Key, KeyPath, nearest, no_choice, plain, sentence, shown

_WHOLE: Final = "must be a whole number"
_NUMBER: Final = "must be a number"
_GROUP: Final = "must be a group of settings"
_RULES: Final = {
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "finite_number": "must be a finite number",
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "string_unicode": "must be readable text",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "none_required": "must be empty",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "model_type": _GROUP,
    "model_attributes_type": _GROUP,
    "dict_type": _GROUP,
    "mapping_type": _GROUP,
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "set_type": "must be a list",
    "frozen_set_type": "must be a list",
    "iterable_type": "must be a list",
}


UNKNOWN: Final = object()
"""Stands for a value that another mistake keeps from being worked out."""


@dataclass(frozen=True)
class Refusal:
    """One error of pydantic's, placed: its path in the file and the slots on the way there."""

    error: ErrorDetails
    path: KeyPath
    slot: Slot
    parent: Slot
    parent_data: Any
    in_union: bool

    @classmethod
    def find(cls, error: ErrorDetails, root: Slot, data: Any) -> Refusal:
        """Walk `loc` through data and model; what pydantic added there (union tags) drops out."""
        slot, parent, parent_data, in_union = root, Slot(), None, False
        path: list[Key] = []
        for part in error["loc"]:
            if slot.tag and isinstance(data, dict) and str(data.get(slot.tag)) == str(part):
                slot = Slot(tuple(slot.models(data)))
                continue
            inner = slot.step(data, part)
            if not inner.types and not holds(data, part):
                in_union = True
                continue
            slot, parent, parent_data = inner, slot, data
            data = data[part] if holds(data, part) else None
            path.append(part)
        return cls(error, tuple(path), slot, parent, parent_data, in_union)

    @property
    def kind(self) -> str:
        """Pydantic's name of the rule."""
        return self.error["type"]

    def rule(self) -> str:
        """Return the rule that was broken ("must be at least 1"), or "" if it needs a sentence."""
        limits = self.error.get("ctx", {})
        if self.kind == "greater_than" and self._counts():
            return f"must be at least {limits['gt'] + 1}"
        if self.kind == "less_than" and self._counts():
            return f"must be at most {limits['lt'] - 1}"
        context = {name: plain(value) for name, value in limits.items()}
        if self.kind in ("literal_error", "enum"):
            return f"must be one of {', '.join(map(plain, self._expected()))}"
        return _RULES.get(self.kind, "").format_map(context).replace(" 1 entries", " 1 entry")

    def _counts(self) -> bool:
        """Return whether whole numbers stand here, so that "more than 0" is "at least 1"."""
        return int in self.slot.types and float not in self.slot.types

    def text(self) -> str:
        """Return the whole message, with its path."""
        known: dict[str, Callable[[], str]] = {
            "extra_forbidden": self._extra,
            "missing": self._missing,
            "union_tag_invalid": self._tag_invalid,
            "union_tag_not_found": self._tag_missing,
            "literal_error": self._literal,
            "enum": self._literal,
        }
        if self.kind in known:
            return known[self.kind]()
        rule = self.rule()
        if not rule:
            return self._custom()
        return sentence(self.path, f"{rule}, got {shown(self.error['input'])}.{self._way_out()}")

    def _way_out(self) -> str:
        given = self.error["input"]
        if self.slot.tag and given in self.slot.kinds():
            return f" Write {{{self.slot.tag}: {given}}}."
        return ""

    def _expected(self) -> list[Any]:
        found = re.findall(r"'((?:[^'\\]|\\.)*)'|([^\s,']+)", self.error["ctx"]["expected"])
        return [quoted or bare for quoted, bare in found if (quoted or bare) != "or"]

    def _extra(self) -> str:
        known = self.parent.names(self.parent_data)
        hint = nearest(self.path[-1], known, "Known here:")
        return sentence(self.path, f"is no known name. {hint}")

    def _missing(self) -> str:
        return sentence(self.path, "is missing. Add it.")

    def _literal(self) -> str:
        return no_choice(self.path, self.error["input"], self._expected())

    def _tag_invalid(self) -> str:
        tag, given = self.slot.tag or "kind", self.error["input"]
        value = given.get(tag) if isinstance(given, dict) else self.error["ctx"]["tag"]
        return no_choice((*self.path, tag), value, self.slot.kinds())

    def _tag_missing(self) -> str:
        kinds = ", ".join(map(plain, self.slot.kinds()))
        return sentence(
            (*self.path, self.slot.tag or "kind"), f"is missing. Choose one of {kinds}."
        )

    def _custom(self) -> str:
        raised = self.error.get("ctx", {}).get("error")
        if isinstance(raised, Exception) and self.kind in ("value_error", "assertion_error"):
            text = str(raised) or "does not hold"
        else:
            text = self.error["msg"]
        if text.startswith("Input should be"):
            given = shown(self.error["input"])
            text = f"must be{text.removeprefix('Input should be')}, got {given}"
        return sentence(self.path, text if text.endswith((".", "?", "!")) else f"{text}.")

    def is_echo(self) -> bool:
        """Return whether another mistake alone leads to this one.

        A list is too short because of mistakes inside it, a name is unknown because its kind is, a
        default or a number cannot be worked out because what it depends on is wrong.
        """
        if self.kind == "default_factory_not_called" or self.error["input"] is UNKNOWN:
            return True
        if self.kind == "extra_forbidden" and self.parent.tag:
            return not self.parent.models(self.parent_data)
        given = self.error["input"]
        enough = self.error.get("ctx", {}).get("min_length", math.inf)
        return self.kind == "too_short" and isinstance(given, list) and len(given) >= enough

    def place_path(self) -> KeyPath:
        """Return the path whose line shows the mistake."""
        return (*self.path, self.slot.tag) if self.kind == "union_tag_invalid" else self.path


def sayings(refusals: Sequence[Refusal]) -> Iterator[tuple[KeyPath, str]]:
    """Yield a path and a message for each mistake.

    What the members of a plain union each have against one value is one mistake, and a name that
    is missing because it was misspelt is one, too.
    """
    unions: dict[KeyPath, list[Refusal]] = {}
    for refusal in refusals:
        if refusal.in_union and refusal.rule():
            unions.setdefault(refusal.path, []).append(refusal)
    misspelt = {
        (*refusal.path[:-1], name)
        for refusal in refusals
        if refusal.kind == "extra_forbidden"
        for name in difflib.get_close_matches(
            str(refusal.path[-1]), refusal.parent.names(refusal.parent_data), n=1
        )
    }
    for refusal in refusals:
        if (refusal.kind == "missing" and refusal.path in misspelt) or refusal.is_echo():
            continue
        same = unions.get(refusal.path, [])
        if len(same) > 1 and refusal in same:
            rules = " or ".join(dict.fromkeys(one.rule() for one in same))
            text = f"{rules.replace(' or must be ', ' or ')}, got {shown(refusal.error['input'])}."
            yield refusal.path, sentence(refusal.path, text)
        else:
            yield refusal.place_path(), refusal.text()
