"""What does `--set a.b.c=VALUE` mean?"""

from __future__ import annotations

from typing import Any

from orchestrator.annotations import Slot
from orchestrator.mistakes import Key, KeyPath, dotted, shown
from orchestrator.yaml_source import NotYamlError, read_yaml
from policies.types import ExperimentError


def split_assignment(assignment: str) -> tuple[list[str], Any]:
    """Take `a.b.c=VALUE` apart.

    Raises:
        ExperimentError: If it has no such form, or VALUE is no YAML.
    """
    name, equals, text = assignment.partition("=")
    path = name.strip().split(".")
    if not equals or not all(path):
        raise ExperimentError("must be name.name=value. Write for example server.profile=instant.")
    try:
        value, reader = read_yaml(text)
    except NotYamlError as error:
        raise ExperimentError(error.mistake.text) from error
    if reader.mistakes:
        raise ExperimentError(reader.mistakes[0].text)
    return path, value


def index_in(data: Any, key: str, walked: KeyPath) -> Key:
    """Return `key` as `data` takes it: a name of a mapping, an index of a list.

    Raises:
        ExperimentError: If `data`, which stands at `walked`, takes no such key.
    """
    if isinstance(data, dict):
        return key
    if not isinstance(data, list):
        raise ExperimentError(
            f"{dotted(walked)} is {shown(data)} and holds no {key}. Set {dotted(walked)} itself."
        )
    if not (key.isascii() and key.isdecimal() and len(key) < 10 and int(key) <= len(data)):
        raise ExperimentError(
            f"{dotted(walked)} is a list of {len(data)} and needs an index from 0 to {len(data)}, "
            f"got {key}."
        )
    return int(key)


def beginning(slot: Slot, following: str) -> dict[str, Any] | list[Any]:
    """Return what to make at an empty slot: a list, or a mapping of the default's kind."""
    if following == "0" and not slot.step({}, following).types and slot.step([], 0).types:
        return []
    kind = getattr(slot.default, slot.tag, None) if slot.tag else None
    return {slot.tag: kind} if kind is not None and following != slot.tag else {}
