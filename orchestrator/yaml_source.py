"""What does YAML text hold, and where?

The only module that knows the YAML library. Values come out as plain data, each with its line;
what cannot be read becomes a mistake, and reading goes on.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from io import StringIO
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning, YAMLError
from ruamel.yaml.nodes import Node, ScalarNode, SequenceNode
from ruamel.yaml.representer import SafeRepresenter

from orchestrator.mistakes import KeyPath, Mistake, Place, dotted, sentence, shown

_MOST_VALUES: Final = 100_000
_TAG: Final = "tag:yaml.org,2002:"


class NotYamlError(Exception):
    """Text is no YAML; `mistake` says why, in our words."""

    def __init__(self, mistake: Mistake) -> None:
        super().__init__(mistake.text)
        self.mistake = mistake


@dataclass
class Reader:
    """Builds plain data from YAML nodes; remembers the line of every value and every mistake."""

    yaml: YAML
    lines: dict[KeyPath, Place] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    values: int = 0
    above: set[int] = field(default_factory=set)
    unread: set[KeyPath] = field(default_factory=set)

    def value(self, node: Node, path: KeyPath = ()) -> Any:
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

    def _mapping(self, pairs: list[tuple[Node, Node]], path: KeyPath) -> dict[str, Any]:
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

    def _scalar(self, node: ScalarNode, path: KeyPath) -> Any:
        kind = str(node.tag).removeprefix(_TAG)
        constructor = self.yaml.constructor
        if kind == "null":
            return None
        if kind in ("bool", "int", "float"):
            try:
                return getattr(constructor, f"construct_yaml_{kind}")(node)
            except (ValueError, KeyError, IndexError, OverflowError):
                return self._unreadable(path, f"cannot be read as {kind}: {shown(node.value)}.")
        if kind in ("str", "timestamp", "value", "merge") or node.tag == "!":
            return node.value
        return self._unreadable(path, f"has the unknown tag {node.tag}. Remove the tag.")

    def _unreadable(self, path: KeyPath, text: str) -> None:
        """Note a value that cannot be read; None stands in, and no second message follows."""
        self.unread.add(path)
        self.mistakes.append(Mistake(self.lines[path], sentence(path, text)))

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


def read_yaml(text: str) -> tuple[Any, Reader]:
    """Return the plain value of YAML text with its reader.

    Raises:
        NotYamlError: If it is no YAML at all; smaller mistakes wait in the reader.
    """
    try:
        yaml, node = _compose(text)
        reader = Reader(yaml)
        value = None if node is None else reader.value(node)
    except (YAMLError, RecursionError) as error:
        raise NotYamlError(_syntax(text, error)) from error
    if reader.values > _MOST_VALUES:
        reader.mistakes = [Mistake(1, f"holds more than {_MOST_VALUES:,} values. Shorten it.")]
    return value, reader


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


def write_yaml(value: Any) -> str:
    """Return nested dicts, lists and scalars as YAML, in their order."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.default_flow_style = None  # innermost groups on one line
    yaml.width = 100
    yaml.allow_unicode = True
    yaml.representer.ignore_aliases = lambda _data: True
    text = StringIO()
    yaml.dump(_simple(value), text)
    return text.getvalue()
