"""What does a figure lead to?"""

from policies.guards.anomaly import Anomaly, Look
from policies.guards.load import Load
from policies.guards.quarantine import Quarantine
from policies.guards.stop import Figures, NoProgress, Stop, StopReason

__all__ = ["Anomaly", "Figures", "Load", "Look", "NoProgress", "Quarantine", "Stop", "StopReason"]
