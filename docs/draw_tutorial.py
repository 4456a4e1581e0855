"""Draw docs/tutorial.png and tutorial_dark.png, the plot of the tutorial's fit: `python docs/draw_tutorial.py`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

if __name__ == "__main__":
    text = (HERE / "tutorial.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    program = "".join(
        blocks[: 1 + next(i for i, code in enumerate(blocks) if "result.plot" in code)]
    )
    space: dict[str, Any] = {}
    exec(compile(program, "docs/tutorial.md", "exec"), space)
    space["result"].plot(HERE / "tutorial.png")
    space["result"].plot(HERE / "tutorial_dark.png", dark=True)
