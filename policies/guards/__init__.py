"""What does a figure lead to?"""

from policies.guards.quarantine import Quarantine
from policies.guards.stop import Figures, NoProgress, Stop, StopReason

__all__ = ["Figures", "NoProgress", "Quarantine", "Stop", "StopReason"]
