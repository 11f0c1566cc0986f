"""Asynchronous federated learning on Ray: the command's doings as functions."""

from orchestrator.api import Experiment, Run, load, read, run

__all__ = ["Experiment", "Run", "load", "read", "run"]
