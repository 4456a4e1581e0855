"""Run the command line: `python -m scipy_jax_bridge`."""

import sys

from ._cli.main import run_quietly

if __name__ == "__main__":
    sys.exit(run_quietly())
