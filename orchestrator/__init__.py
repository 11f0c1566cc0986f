"""Compose and run: experiment files, fleets, the engine, its runtimes and what it tells."""
