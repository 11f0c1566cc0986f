"""The script for `ray submit CLUSTER.yaml orchestrator/submit.py -- run ...`.

`ray submit` copies this one file into the head's home folder and starts it with the `python` that
the shell there finds. cluster_configs/setup.sh has put the project into an environment of its own;
if that is not the one that was found, the script goes on in it.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

ENVIRONMENT = Path.home() / ".latecomer" / "env"


def main() -> None:
    """Run the command, in the environment that has it."""
    leave_own_folder()
    if find_spec("orchestrator") is None:
        go_on_in(ENVIRONMENT)
    from orchestrator.cli import main as command  # noqa: PLC0415  # this Python may lack it

    command()


def leave_own_folder() -> None:
    """Take the script's folder off the path: what lies in a home folder is no package of ours."""
    if not getattr(sys.flags, "safe_path", False):
        sys.path.pop(0)


def go_on_in(environment: Path) -> None:
    """Replace this process by the same call in an environment's Python."""
    python = environment / "bin" / "python"
    if Path(sys.prefix) == environment or not python.exists():
        sys.exit(
            f"{sys.executable} has no latecomer, and {environment} has none. Call "
            "cluster_configs/setup.sh on this machine, or activate the environment that has it."
        )
    os.execv(python, [str(python), __file__, *sys.argv[1:]])  # noqa: S606  # no shell is meant


if __name__ == "__main__":
    main()
