"""docs/websocket.md: its examples work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "websocket.md"


def test_the_examples() -> None:
    names: dict[str, Any] = {}
    for source in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(source, str(PAGE), "exec"), names)
    names["rep"].close()
