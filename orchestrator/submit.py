"""The script for `ray submit CLUSTER.yaml orchestrator/submit.py -- run ...`.

`ray submit` copies this one file to the head node, where the project is installed already.
"""

from orchestrator.cli import main

if __name__ == "__main__":
    main()
