"""What does an experiment file say, and what is wrong with it?

Turns YAML into a validated pydantic model. Every mistake is named at once, each with its line, the
rule and the way out. Knows no particular model: names, kinds and choices come from the annotations
of the one it is given.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from enum import Enum
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, Discriminator, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning, YAMLError
from ruamel.yaml.nodes import Node, ScalarNode, SequenceNode
from ruamel.yaml.representer import SafeRepresenter

from policies.base import Policy, own_class
from policies.types import ExperimentError

M = TypeVar("M", bound=BaseModel)
Key = str | int
Path_ = tuple[Key, ...]
Place = int | str
"""Where something was said: a line of the file, or the `--set` that said it."""

_MOST_VALUES: Final = 100_000
_TAG: Final = "tag:yaml.org,2002:"


class ExperimentFileError(ExperimentError):
    """An experiment file has mistakes; the message lists them all, in the order of the file."""


@dataclass(frozen=True)
class Mistake:
    """One mistake: where it was made and what to do about it."""

    place: Place
    text: str

    def order(self) -> tuple[bool, int]:
        """Return a sorting key: the file's lines first, then the assignments as they came."""
        return isinstance(self.place, str), self.place if isinstance(self.place, int) else 0

    def render(self, name: str) -> str:
        """Return the mistake as one line for the user of the file called `name`."""
        where = self.place if isinstance(self.place, str) else f"{name}:{self.place}"
        text = " ".join(self.text.splitlines())
        return f"{where}: {text}".encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class Check:
    """A rule that spans sections; it runs as soon as all that it needs is valid by itself.

    Args:
        needs: Dotted paths of the sections that `test` takes, in its order.
        test: Takes the validated sections; returns or yields pairs of the dotted path at fault
            and what is wrong with it ("must be at most 8 clients, got 9. Lower it.").
    """

    needs: tuple[str, ...]
    test: Callable[..., Iterable[tuple[str, str]]]


def _raise(name: str, mistakes: Iterable[Mistake]) -> None:
    """Raise one error that lists `mistakes` in order, if there are any."""
    lines = dict.fromkeys(m.render(name) for m in sorted(mistakes, key=Mistake.order))
    if lines:
        raise ExperimentFileError("\n".join(lines))


# ------------------------------------------------------------------ reading YAML


@dataclass
class _Reader:
    """Builds plain data from YAML nodes; remembers the line of every value and every mistake."""

    yaml: YAML
    lines: dict[Path_, Place] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    values: int = 0
    above: set[int] = field(default_factory=set)
    unread: set[Path_] = field(default_factory=set)

    def value(self, node: Node, path: Path_ = ()) -> Any:
        """Return the plain value of `node`, which stands at `path`."""
        self.values += 1
        self.lines.setdefault(path, node.start_mark.line + 1)
        if self.values > _MOST_VALUES:
            return None
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        if id(node) in self.above:
            return self._unreadable(path, "contains itself. Write the values out.")
        if node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
            return self._unreadable(path, f"has the unknown tag {node.tag}. Remove the tag.")
        self.above.add(id(node))
        try:
            if isinstance(node, SequenceNode):
                return [self.value(item, (*path, at)) for at, item in enumerate(node.value)]
            return self._mapping(node.value, path)
        finally:
            self.above.discard(id(node))

    def _mapping(self, pairs: list[tuple[Node, Node]], path: Path_) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        for key, value in pairs:
            if not isinstance(key, ScalarNode):
                self._mistake(key, f"a name in {dotted(path) or 'the file'} must be plain text.")
                continue
            here, line = (*path, key.value), key.start_mark.line + 1
            if key.value in plain:
                first = self.lines[here]
                self._mistake(
                    key, f"{dotted(here)} is given twice, first in line {first}. Keep one."
                )
                continue
            self.lines[here] = line
            plain[key.value] = self.value(value, here)
        return plain

    def _scalar(self, node: ScalarNode, path: Path_) -> Any:
        kind = str(node.tag).removeprefix(_TAG)
        constructor = self.yaml.constructor
        if kind == "null":
            return None
        if kind in ("bool", "int", "float"):
            try:
                return getattr(constructor, f"construct_yaml_{kind}")(node)
            except (ValueError, KeyError, IndexError, OverflowError):
                return self._unreadable(path, f"cannot be read as {kind}: {_shown(node.value)}.")
        if kind in ("str", "timestamp", "value", "merge") or node.tag == "!":
            return node.value
        return self._unreadable(path, f"has the unknown tag {node.tag}. Remove the tag.")

    def _unreadable(self, path: Path_, text: str) -> None:
        """Note a value that cannot be read; None stands in, and no second message follows."""
        self.unread.add(path)
        self.mistakes.append(Mistake(self.lines[path], _sentence(path, text)))

    def _mistake(self, node: Node, text: str) -> None:
        self.mistakes.append(Mistake(node.start_mark.line + 1, text))


def _syntax(text: str, error: Exception) -> Mistake:
    """Say in our words what stops the YAML reader."""
    if isinstance(error, RecursionError):
        return Mistake(1, "is nested too deeply. Write it flatter.")
    mark = getattr(error, "problem_mark", None)
    if mark is None or not isinstance(error, MarkedYAMLError):
        position = getattr(error, "position", None)
        line = text[:position].count("\n") + 1 if isinstance(position, int) else 1
        return Mistake(line, "holds a character that YAML does not allow. Remove it.")
    line = mark.line + 1
    lines = text.splitlines()
    indent = re.match(r"\s*", lines[mark.line])[0] if mark.line < len(lines) else ""  # type: ignore[index]
    if "\t" in indent:
        return Mistake(line, "a tab cannot indent in YAML. Use spaces.")
    known = {
        "mapping values are not allowed here": "a second colon, or an indent that does not fit "
        "the lines above. Quote text that holds a colon, or mend the indent.",
        "but found another document": "a second document begins. Keep one experiment a file.",
    }
    problem = str(error.problem or "cannot be read")
    if "<stream end>" in problem and error.context_mark is not None:
        line = error.context_mark.line + 1  # where it was opened, not where the file ends
    return Mistake(line, f"is no YAML: {known.get(problem, problem + '.')}")


def _compose(text: str) -> tuple[YAML, Node | None]:
    yaml = YAML(typ="safe", pure=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ReusedAnchorWarning)
        return yaml, yaml.compose(text)


def _read(text: str) -> tuple[Any, _Reader]:
    """Return the plain value of YAML text with its reader; raises what the YAML reader raises."""
    yaml, node = _compose(text)
    reader = _Reader(yaml)
    value = None if node is None else reader.value(node)
    if reader.values > _MOST_VALUES:
        reader.mistakes = [Mistake(1, f"holds more than {_MOST_VALUES:,} values. Shorten it.")]
    return value, reader


# ------------------------------------------------------------------ reading annotations


@dataclass(frozen=True)
class Slot:
    """What a model allows at one place.

    Args:
        types: The members of the union there, or the one type.
        tag: The field that tells the members apart, or "".
        default: What stands there when the file is silent, or None.
    """

    types: tuple[Any, ...] = ()
    tag: str = ""
    default: Any = None

    @classmethod
    def of(cls, annotation: Any) -> Slot:
        """Read an annotation, through aliases, `Annotated`, unions and validators."""
        annotation = getattr(annotation, "__value__", annotation)
        origin = get_origin(annotation)
        if origin is Annotated:
            inner, *extras = get_args(annotation)
            slot = cls.of(inner)
            return replace(slot, tag=next(filter(None, map(_discriminator, extras)), slot.tag))
        if origin in (Union, types.UnionType):
            slots = [cls.of(member) for member in get_args(annotation)]
            members = tuple(one for slot in slots for one in slot.types)
            return cls(members, next((slot.tag for slot in slots if slot.tag), ""))
        return cls((annotation,))

    @classmethod
    def of_field(cls, info: FieldInfo) -> Slot:
        """Read a model's field, whose outermost `Annotated` pydantic has taken apart."""
        slot = cls.of(info.annotation)
        tags = map(_discriminator, [info, *info.metadata])
        default = None
        if not info.default_factory_takes_validated_data:
            default = info.get_default(call_default_factory=True)
        return replace(slot, tag=next(filter(None, tags), slot.tag), default=default)

    def models(self, data: Any) -> list[type[BaseModel]]:
        """Return the models that `data` may mean: the one of its kind, or all where none says."""
        found = [t for t in self.types if inspect.isclass(t) and issubclass(t, BaseModel)]
        if not self.tag or not isinstance(data, dict) or self.tag not in data:
            return found
        kind = data[self.tag]
        if isinstance(kind, str) and ":" in kind:
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
            info = _field(model, key)
            if info is not None:
                return Slot.of_field(info)
        for one in self.types:
            inner = _item(one, key)
            if inner is not None:
                return Slot.of(inner)
        return Slot()


def _discriminator(extra: Any) -> str:
    found = getattr(extra, "discriminator", None)
    if isinstance(found, Discriminator):
        found = found.discriminator
    return found if isinstance(found, str) else ""


def _field(model: type[BaseModel], key: Any) -> FieldInfo | None:
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


# ------------------------------------------------------------------ saying what is wrong


def dotted(path: Sequence[Key]) -> str:
    """Return a path as the user writes it: `fleet.mix.0.share`."""
    return ".".join(map(str, path))


def _shown(value: Any) -> str:
    """Return a value as short text for a message."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a group of settings"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    try:
        text = repr(value)
    except ValueError:  # an integer too long to print
        text = "a very long number"
    return text if len(text) <= 60 else text[:57] + "..."


def _plain(value: Any) -> str:
    """Return a limit or a choice as the user would write it."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value.value) if isinstance(value, Enum) else str(value)


def _nearest(name: Any, known: Sequence[Any], otherwise: str) -> str:
    """Return the known name nearest to `name`, as a question, or the list of all."""
    by_text = {_plain(one).lower(): _plain(one) for one in known}
    near = difflib.get_close_matches(str(name).lower()[:80], by_text, n=1)
    if near:
        return f"Did you mean {by_text[near[0]]}?"
    return f"{otherwise} {', '.join(map(_plain, known)) or 'none'}."


def _no_choice(path: Path_, given: Any, known: Sequence[Any]) -> str:
    hint = _nearest(given, known, "Choose one of")
    return _sentence(path, f"has no choice {_shown(given)}. {hint}")


_WHOLE, _NUMBER, _GROUP = (
    "must be a whole number",
    "must be a number",
    "must be a group of settings",
)
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
_VERBS = ("must ", "cannot ", "contains ", "may ", "needs ", "has ", "is ", "lacks ")


def _sentence(path: Sequence[Key], text: str) -> str:
    """Put the path before a message; after a colon unless the message begins with a verb."""
    name = dotted(path)
    if not name:
        return text
    return f"{name} {text}" if text.startswith(_VERBS) else f"{name}: {text}"


@dataclass(frozen=True)
class _Fault:
    """One error of pydantic's, placed: its path in the file and the slots on the way there."""

    error: ErrorDetails
    path: Path_
    slot: Slot
    parent: Slot
    parent_data: Any
    in_union: bool

    @classmethod
    def find(cls, error: ErrorDetails, root: Slot, data: Any) -> _Fault:
        """Walk `loc` through data and model; what pydantic added there (union tags) drops out."""
        slot, parent, parent_data, in_union = root, Slot(), None, False
        path: list[Key] = []
        for part in error["loc"]:
            if slot.tag and isinstance(data, dict) and str(data.get(slot.tag)) == str(part):
                slot = Slot(tuple(slot.models(data)))
                continue
            inner = slot.step(data, part)
            if not inner.types and not _holds(data, part):
                in_union = True
                continue
            slot, parent, parent_data = inner, slot, data
            data = data[part] if _holds(data, part) else None
            path.append(part)
        return cls(error, tuple(path), slot, parent, parent_data, in_union)

    @property
    def kind(self) -> str:
        return self.error["type"]

    def rule(self) -> str:
        """Return the rule that was broken ("must be at least 1"), or "" if it needs a sentence."""
        limits = self.error.get("ctx", {})
        if self.kind == "greater_than" and self._counts():
            return f"must be at least {limits['gt'] + 1}"
        if self.kind == "less_than" and self._counts():
            return f"must be at most {limits['lt'] - 1}"
        context = {name: _plain(value) for name, value in limits.items()}
        if self.kind in ("literal_error", "enum"):
            return f"must be one of {', '.join(map(_plain, self._expected()))}"
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
        return _sentence(self.path, f"{rule}, got {_shown(self.error['input'])}.{self._way_out()}")

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
        hint = _nearest(self.path[-1], known, "Known here:")
        return _sentence(self.path, f"is no known name. {hint}")

    def _missing(self) -> str:
        return _sentence(self.path, "is missing. Add it.")

    def _literal(self) -> str:
        return _no_choice(self.path, self.error["input"], self._expected())

    def _tag_invalid(self) -> str:
        tag, given = self.slot.tag or "kind", self.error["input"]
        value = given.get(tag) if isinstance(given, dict) else self.error["ctx"]["tag"]
        return _no_choice((*self.path, tag), value, self.slot.kinds())

    def _tag_missing(self) -> str:
        kinds = ", ".join(map(_plain, self.slot.kinds()))
        return _sentence(
            (*self.path, self.slot.tag or "kind"), f"is missing. Choose one of {kinds}."
        )

    def _custom(self) -> str:
        raised = self.error.get("ctx", {}).get("error")
        if isinstance(raised, Exception) and self.kind in ("value_error", "assertion_error"):
            text = str(raised) or "does not hold"
        else:
            text = self.error["msg"]
        if text.startswith("Input should be"):
            shown = _shown(self.error["input"])
            text = f"must be{text.removeprefix('Input should be')}, got {shown}"
        return _sentence(self.path, text if text.endswith((".", "?", "!")) else f"{text}.")

    def is_echo(self) -> bool:
        """Return whether a list counts as too short only because of mistakes inside it."""
        given = self.error["input"]
        enough = self.error.get("ctx", {}).get("min_length", math.inf)
        return self.kind == "too_short" and isinstance(given, list) and len(given) >= enough

    def place_path(self) -> Path_:
        """Return the path whose line shows the mistake."""
        return (*self.path, self.slot.tag) if self.kind == "union_tag_invalid" else self.path


def _holds(data: Any, key: Any) -> bool:
    if isinstance(data, dict):
        return key in data
    return isinstance(data, list) and isinstance(key, int) and 0 <= key < len(data)


def _sayings(faults: Sequence[_Fault]) -> Iterator[tuple[Path_, str]]:
    """Yield a path and a message for each mistake.

    What the members of a plain union each have against one value is one mistake, and a name that
    is missing because it was misspelt is one, too.
    """
    unions: dict[Path_, list[_Fault]] = {}
    for fault in faults:
        if fault.in_union and fault.rule():
            unions.setdefault(fault.path, []).append(fault)
    misspelt = {
        (*fault.path[:-1], name)
        for fault in faults
        if fault.kind == "extra_forbidden"
        for name in difflib.get_close_matches(
            str(fault.path[-1]), fault.parent.names(fault.parent_data), n=1
        )
    }
    for fault in faults:
        if (fault.kind == "missing" and fault.path in misspelt) or fault.is_echo():
            continue
        same = unions.get(fault.path, [])
        if len(same) > 1 and fault in same:
            rules = " or ".join(dict.fromkeys(one.rule() for one in same))
            text = f"{rules.replace(' or must be ', ' or ')}, got {_shown(fault.error['input'])}."
            yield fault.path, _sentence(fault.path, text)
        else:
            yield fault.place_path(), fault.text()


# ------------------------------------------------------------------ the document


class Document:
    """An experiment file as plain data that knows where each value was written.

    Args:
        name: What messages call the file.
        data: Nested dicts, lists and plain scalars.
        places: The line, or the `--set`, of every path.
        mistakes: What reading found; `validate` reports it with the rest.
        unread: Paths whose value could not be read; a mistake says so already.
    """

    def __init__(
        self,
        name: str,
        data: dict[str, Any],
        places: dict[Path_, Place] | None = None,
        mistakes: Sequence[Mistake] = (),
        unread: Iterable[Path_] = (),
    ) -> None:
        self.name = name
        self.data = data
        self.places = places or {}
        self.mistakes = list(mistakes)
        self.unread = set(unread)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file.

        Raises:
            ExperimentFileError: If it cannot be read or is no YAML mapping.
        """
        try:
            return cls.parse(path.read_text(encoding="utf-8"), path.name)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ExperimentFileError(f"{path} cannot be read: {reason}.") from error
        except UnicodeDecodeError as error:
            raise ExperimentFileError(f"{path} is no UTF-8 text. Save it as UTF-8.") from error

    @classmethod
    def parse(cls, text: str, name: str) -> Self:
        """Read YAML text; duplicate names and unknown tags wait for `validate`.

        Raises:
            ExperimentFileError: If it is no YAML, empty, or no mapping.
        """
        try:
            data, reader = _read(text)
        except (YAMLError, RecursionError) as error:
            raise ExperimentFileError(_syntax(text, error).render(name)) from error
        if data is None and not reader.mistakes:
            raise ExperimentFileError(f"{name}:1: is empty. Begin with `name: my-experiment`.")
        if not isinstance(data, dict):
            text = f"must hold names and values such as `name: my-experiment`, got {_shown(data)}."
            _raise(name, reader.mistakes or [Mistake(_first(reader), text)])
        return cls(name, data, reader.lines, reader.mistakes, reader.unread)

    def place(self, path: Sequence[Key]) -> Place:
        """Return where `path`, or the nearest thing above it, was written."""
        for length in range(len(path), -1, -1):
            if tuple(path[:length]) in self.places:
                return self.places[tuple(path[:length])]
        return 1

    # -------------------------------------------------------------- --set

    def override(self, assignments: Sequence[str], model: type[BaseModel]) -> list[str]:
        """Apply assignments `a.b.c=VALUE` in order; VALUE is YAML.

        Mappings that are missing are made; where the model has a default of some kind, they get
        that kind. A number in a path is an index of a list (its length appends).

        Args:
            assignments: As given to `--set`.
            model: The model that the document is going to be; it knows the kinds.

        Returns:
            A note for every setting of a `kind` that dropped fields which the new kind lacks.

        Raises:
            ExperimentFileError: If assignments are malformed; lists them all.
        """
        notes: list[str] = []
        problems: list[str] = []
        for assignment in assignments:
            try:
                notes += self._assign(assignment, Slot((model,)))
            except ExperimentError as error:
                problems.append(f"--set {assignment}: {error}")
        if problems:
            raise ExperimentFileError("\n".join(problems))
        return notes

    def _assign(self, assignment: str, root: Slot) -> list[str]:
        path, value = _split(assignment)
        data: Any = self.data
        slot = root
        walked: Path_ = ()
        for key, following in zip(path, [*path[1:], None], strict=True):
            at = _index(data, key, walked)
            slot, above = slot.step(data, at), slot
            walked = (*walked, at)
            if following is None:
                return self._put(data, walked, value, above, f"--set {assignment}")
            if not _holds(data, at) or data[at] is None:
                self._put(data, walked, _beginning(slot, following), Slot(), f"--set {assignment}")
            data = data[at]
        return []

    def _put(self, data: Any, path: Path_, value: Any, above: Slot, place: str) -> list[str]:
        """Set the last name of `path` in `data`; return what that drops."""
        *parents, key = path
        notes: list[str] = []
        if above.tag and key == above.tag and _holds(data, key) and data[key] != value:
            lacking = self._lacking(data, {**data, key: value}, above)
            for name in lacking:
                del data[name]
                self._forget((*parents, name))
            if lacking:
                dropped = ", ".join(lacking)
                notes = [f"{dotted(parents)}: dropped {dropped}: {value} has no such fields"]
        if isinstance(data, list) and key == len(data):
            data.append(value)
        else:
            data[key] = value
        self._forget(path)
        self.places[path] = place
        return notes

    def _lacking(self, old: dict[str, Any], new: dict[str, Any], slot: Slot) -> list[str]:
        if not slot.models(new):
            return []  # an unknown kind is a mistake of its own
        return [name for name in old if name not in slot.names(new)]

    def _forget(self, path: Path_) -> None:
        """Forget the lines of `path` and of all under it."""
        depth = len(path)
        self.places = {p: line for p, line in self.places.items() if p[:depth] != path}

    # -------------------------------------------------------------- validation

    def validate(self, model: type[M], checks: Sequence[Check] = ()) -> M:
        """Return the document as a `model`.

        Args:
            model: A pydantic model class.
            checks: Rules across sections. Each runs if the sections that it needs are valid by
                themselves, whatever is wrong elsewhere.

        Raises:
            ExperimentFileError: Lists every mistake, sorted by line.
        """
        root = Slot((model,))
        valid: M | None = None
        faults: list[_Fault] = []
        try:
            valid = model.model_validate(self.data)
        except ValidationError as error:
            faults = [_Fault.find(one, root, self.data) for one in error.errors(include_url=False)]
        except RecursionError:
            self.mistakes.append(Mistake(1, "is nested too deeply. Write it flatter."))
        said = [
            *_sayings(
                [f for f in faults if f.kind == "extra_forbidden" or f.path not in self.unread]
            )
        ]
        broken = {fault.path for fault in faults}
        sections: dict[str, list[Any]] = {}
        for check in checks:
            for need in check.needs:
                if need not in sections:
                    sections[need] = self._section(need, valid, root, broken)
            if all(sections[need] for need in check.needs):
                found = check.test(*(sections[need][0] for need in check.needs))
                said += [(_keys(path), _sentence(_keys(path), text)) for path, text in found]
        _raise(
            self.name, [*self.mistakes, *(Mistake(self.place(path), text) for path, text in said)]
        )
        if valid is None:  # pragma: no cover  # pydantic gives either a model or errors
            raise ExperimentFileError(f"{self.name}:1: is not valid.")
        return valid

    def _section(
        self, need: str, valid: BaseModel | None, root: Slot, broken: set[Path_]
    ) -> list[Any]:
        """Return [value] of the section at a dotted path, or [] if it is not valid by itself."""
        keys = _keys(need)
        if any(path[: len(keys)] == keys for path in broken):
            return []
        value: Any = valid
        data: Any = self.data
        slot = root
        for depth, key in enumerate(keys):
            if valid is not None:
                value = _inside(value, key)
                continue
            last = depth == len(keys) - 1
            if last or not _holds(data, key):
                return self._alone(slot, data, keys[depth:])
            slot, data = slot.step(data, key), data[key]
        return [value]

    def _alone(self, slot: Slot, data: Any, keys: Path_) -> list[Any]:
        """Validate one field by itself; then go down `keys` in what comes of it."""
        fields = ((model, _field(model, keys[0])) for model in slot.models(data))
        model, info = next((pair for pair in fields if pair[1]), (None, None))
        if model is None or info is None:
            return []
        given = {"value": data[keys[0]]} if _holds(data, keys[0]) else {}
        bare = copy(info)
        bare.alias = bare.validation_alias = bare.serialization_alias = None
        make: Any = create_model
        shell = make("Section", __config__=model.model_config, value=(info.annotation, bare))
        try:
            value = shell.model_validate(given).value
            for key in keys[1:]:
                value = _inside(value, key)
        except (ValidationError, LookupError, AttributeError, TypeError):
            return []
        return [value]


def _first(reader: _Reader) -> int:
    line = reader.lines.get((), 1)
    return line if isinstance(line, int) else 1


def _keys(path: str) -> Path_:
    return tuple(int(part) if part.isdecimal() else part for part in path.split(".") if part)


def _inside(value: Any, key: Key) -> Any:
    """Return what a validated value holds under `key`."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return getattr(value, next((n for n, f in fields.items() if f.alias == key), str(key)))
    return value[key]


def _split(assignment: str) -> tuple[list[str], Any]:
    """Take `a.b.c=VALUE` apart."""
    name, equals, text = assignment.partition("=")
    path = name.strip().split(".")
    if not equals or not all(path):
        raise ExperimentError("must be name.name=value. Write for example server.profile=instant.")
    try:
        value, reader = _read(text)
    except (YAMLError, RecursionError) as error:
        raise ExperimentError(_syntax(text, error).text) from error
    if reader.mistakes:
        raise ExperimentError(reader.mistakes[0].text)
    return path, value


def _index(data: Any, key: str, walked: Path_) -> Key:
    """Return `key` as `data` takes it: a name of a mapping, an index of a list."""
    if isinstance(data, dict):
        return key
    if not isinstance(data, list):
        raise ExperimentError(
            f"{dotted(walked)} is {_shown(data)} and holds no {key}. Set {dotted(walked)} itself."
        )
    if not (key.isascii() and key.isdecimal() and len(key) < 10 and int(key) <= len(data)):
        raise ExperimentError(
            f"{dotted(walked)} is a list of {len(data)} and needs an index from 0 to {len(data)}, "
            f"got {key}."
        )
    return int(key)


def _beginning(slot: Slot, following: str) -> dict[str, Any] | list[Any]:
    """Return what to make at an empty slot: a list, or a mapping of the default's kind."""
    if following == "0" and not slot.step({}, following).types and slot.step([], 0).types:
        return []
    kind = getattr(slot.default, slot.tag, None) if slot.tag else None
    return {slot.tag: kind} if kind is not None and following != slot.tag else {}


# ------------------------------------------------------------------ writing YAML


_EASY: Final = re.compile(r"\w(?:[\w ./+-]*\w)?")


class _Representer(SafeRepresenter):
    """Quotes all but simple words: ruamel's plain style loses some text (`??`, U+0085)."""


def _text(representer: SafeRepresenter, text: str) -> Any:
    style = None if _EASY.fullmatch(text) else '"'
    return representer.represent_scalar(f"{_TAG}str", text, style=style)


_Representer.add_representer(str, _text)


def _simple(value: Any) -> Any:
    """Return a dumped value as YAML has it; pydantic's own JSON mode would lose infinities."""
    if isinstance(value, Enum):
        return _simple(value.value)
    if isinstance(value, Mapping):
        return {str(_simple(key)): _simple(inner) for key, inner in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(_simple, value))
    if isinstance(value, list | tuple):
        return [_simple(inner) for inner in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def to_yaml(model: BaseModel) -> str:
    """Return a model as YAML: every field, in the order of the class, defaults written out.

    What `Document.parse(text, name).validate(type(model))` returns equals `model`.
    """
    plain = _simple(model.model_dump(by_alias=True, serialize_as_any=True, round_trip=True))
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.default_flow_style = None  # innermost groups on one line
    yaml.width = 100
    yaml.allow_unicode = True
    yaml.representer.ignore_aliases = lambda _data: True
    text = StringIO()
    yaml.dump(plain, text)
    return text.getvalue()
