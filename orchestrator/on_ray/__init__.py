"""Everything of the orchestrator that knows Ray."""
