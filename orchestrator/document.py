"""What does an experiment file say, and what is wrong with it?

Turns YAML into a validated pydantic model. Every mistake is named at once, each with its line, the
rule and the way out. Knows no particular model: names, kinds and choices come from the annotations
of the one it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError, create_model

from orchestrator.annotations import Slot, field_of, holds
from orchestrator.assignments import beginning, index_in, split_assignment
from orchestrator.mistakes import (
    ExperimentFileError,
    Key,
    KeyPath,
    Mistake,
    Place,
    dotted,
    raise_all,
    sentence,
    shown,
)
from orchestrator.refusals import Refusal, sayings
from orchestrator.yaml_source import NotYamlError, Reader, read_yaml, write_yaml
from policies.types import ExperimentError

__all__ = ["Check", "Document", "ExperimentFileError", "to_yaml"]

M = TypeVar("M", bound=BaseModel)


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
        places: dict[KeyPath, Place] | None = None,
        mistakes: Sequence[Mistake] = (),
        unread: Iterable[KeyPath] = (),
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
            data, reader = read_yaml(text)
        except NotYamlError as error:
            raise ExperimentFileError(error.mistake.render(name)) from error
        if data is None and not reader.mistakes:
            raise ExperimentFileError(f"{name}:1: is empty. Begin with `name: my-experiment`.")
        if not isinstance(data, dict):
            text = f"must hold names and values such as `name: my-experiment`, got {shown(data)}."
            raise_all(name, reader.mistakes or [Mistake(_first(reader), text)])
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
        path, value = split_assignment(assignment)
        data: Any = self.data
        slot = root
        walked: KeyPath = ()
        for key, following in zip(path, [*path[1:], None], strict=True):
            at = index_in(data, key, walked)
            slot, above = slot.step(data, at), slot
            walked = (*walked, at)
            if following is None:
                return self._put(data, walked, value, above, f"--set {assignment}")
            if not holds(data, at) or data[at] is None:
                made = beginning(slot, following)
                self._put(data, walked, made, Slot(), f"--set {assignment}")
            data = data[at]
        return []

    def _put(self, data: Any, path: KeyPath, value: Any, above: Slot, place: str) -> list[str]:
        """Set the last name of `path` in `data`; return what that drops."""
        *parents, key = path
        notes: list[str] = []
        if above.tag and key == above.tag and holds(data, key) and data[key] != value:
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

    def _forget(self, path: KeyPath) -> None:
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
        refusals: list[Refusal] = []
        try:
            valid = model.model_validate(self.data)
        except ValidationError as error:
            refusals = [
                Refusal.find(one, root, self.data) for one in error.errors(include_url=False)
            ]
        except RecursionError:
            self.mistakes.append(Mistake(1, "is nested too deeply. Write it flatter."))
        said = [
            *sayings(
                [r for r in refusals if r.kind == "extra_forbidden" or r.path not in self.unread]
            )
        ]
        broken = {refusal.path for refusal in refusals}
        sections: dict[str, list[Any]] = {}
        for check in checks:
            for need in check.needs:
                if need not in sections:
                    sections[need] = self._section(need, valid, root, broken)
            if all(sections[need] for need in check.needs):
                found = check.test(*(sections[need][0] for need in check.needs))
                said += [(_keys(path), sentence(_keys(path), text)) for path, text in found]
        raise_all(
            self.name, [*self.mistakes, *(Mistake(self.place(path), text) for path, text in said)]
        )
        if valid is None:  # pragma: no cover  # pydantic gives either a model or errors
            raise ExperimentFileError(f"{self.name}:1: is not valid.")
        return valid

    def _section(
        self, need: str, valid: BaseModel | None, root: Slot, broken: set[KeyPath]
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
            if last or not holds(data, key):
                return self._alone(slot, data, keys[depth:])
            slot, data = slot.step(data, key), data[key]
        return [value]

    def _alone(self, slot: Slot, data: Any, keys: KeyPath) -> list[Any]:
        """Validate one field by itself; then go down `keys` in what comes of it."""
        fields = ((model, field_of(model, keys[0])) for model in slot.models(data))
        model, info = next((pair for pair in fields if pair[1]), (None, None))
        if model is None or info is None:
            return []
        given = {"value": data[keys[0]]} if holds(data, keys[0]) else {}
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


def _first(reader: Reader) -> int:
    line = reader.lines.get((), 1)
    return line if isinstance(line, int) else 1


def _keys(path: str) -> KeyPath:
    return tuple(int(part) if part.isdecimal() else part for part in path.split(".") if part)


def _inside(value: Any, key: Key) -> Any:
    """Return what a validated value holds under `key`."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return getattr(value, next((n for n, f in fields.items() if f.alias == key), str(key)))
    return value[key]


def to_yaml(model: BaseModel) -> str:
    """Return a model as YAML: every field, in the order of the class, defaults written out.

    What `Document.parse(text, name).validate(type(model))` returns equals `model`.
    """
    return write_yaml(model.model_dump(by_alias=True, serialize_as_any=True, round_trip=True))
