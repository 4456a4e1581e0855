"""The README's Python blocks run when they are pasted one after the other, and print what it shows."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_blocks_run_and_print_what_is_shown(tmp_path: Path) -> None:
    text = README.read_text()
    blocks = re.findall(r"^ *```python\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 5
    program = "\n".join(map(textwrap.dedent, blocks))
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert found.returncode == 0, found.stderr
    shown = re.search(r"```text\n(.*?)```", text, re.DOTALL)
    assert shown is not None
    printed = [without_numbers(line) for line in found.stdout.splitlines()]
    for line in shown[1].splitlines():  # numbers differ by processor
        assert without_numbers(line) in printed, f"{line!r} is not in {found.stdout}"


def without_numbers(line: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"[-\d.]+(e[-+]\d+)?( [mµ]?s)?", "#", line))
