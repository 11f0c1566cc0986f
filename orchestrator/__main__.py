"""Run the command as `python -m orchestrator`."""

from orchestrator.cli import main

main()
