"""Runs the benchmarks, one after another, and keeps their tables and figures under benchmarks/results/DEVICE/.

    python benchmarks/all.py
    python benchmarks/all.py --only side_by_side,original_report

Needs `pip install -e '.[bench]'`. It runs unchanged on a GPU: the folder has the device's name. Some scripts write
tables of their own. What the others print is kept as it is. CUTEst takes the longest, and runs where it is named.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from results import folder

HERE = Path(__file__).parent
OWN = ("original_report", "side_by_side", "overhead", "break_even")  # write their tables themselves
PRINTED = ("bridge", "adapter", "engine", "stops", "processes")
LONG = ("cutest",)


def run(name: str) -> bool:
    """Runs one script in a process of its own; whether it ended well."""
    print(f"== {name}", flush=True)
    began = time.perf_counter()
    done = subprocess.run([sys.executable, str(HERE / f"{name}.py")], stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="")
    if done.returncode == 0 and name not in OWN:
        (folder() / f"{name}.txt").write_text(done.stdout)
    print(
        f"== {name}: {'done' if done.returncode == 0 else 'FAILED'} in {time.perf_counter() - began:.0f} s", flush=True
    )
    return done.returncode == 0


def main() -> int:
    """Runs all, or those that are named; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = (*OWN, *PRINTED, *LONG)
    parser.add_argument("--only", default=",".join(OWN + PRINTED), help=f"of {', '.join(known)}, with commas between")
    names = parser.parse_args().only.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    failed = [name for name in names if not run(name)]
    print(f"tables and figures: {folder()}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
