"""Compose and run: experiment files, fleets, the engine, its runtimes and what it tells."""

from importlib.util import find_spec
from pathlib import Path

_HOME = Path(__file__).resolve().parent.parent
for _name in ("policies", "actors"):
    _spec = find_spec(_name)
    _where = Path(_spec.origin).resolve().parent if _spec and _spec.origin else None
    if _where != _HOME / _name:
        raise ImportError(
            f"latecomer's package {_name} is hidden by {_where}, which Python finds first. Rename "
            f"that folder, or run from another one. It belongs to {_HOME / _name}."
        )
