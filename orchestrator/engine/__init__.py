"""Which event comes next, and what follows from it?

Each part answers one question and knows only the parts below it: `loop` and `commands`; `taking`
updates; `making` versions; `asking` clients and `looking` at versions; `travelling` and
`gathering`. What a run has come to is one `State`, which they share.
"""

from orchestrator.engine.commands import Control
from orchestrator.engine.figures import CLIENT_ACCURACY, METRICS, OF_CELLS, OF_SPLITS
from orchestrator.engine.loop import Engine, Interrupted
from orchestrator.engine.state import State

__all__ = [
    "CLIENT_ACCURACY",
    "METRICS",
    "OF_CELLS",
    "OF_SPLITS",
    "Control",
    "Engine",
    "Interrupted",
    "State",
]
