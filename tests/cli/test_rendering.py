"""Values of handlers, as they are printed."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from spworkers.cli.rendering import as_json, as_text


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (math.nan, "nan"),
        ([1.5, math.inf, {"least": -math.inf}], [1.5, "inf", {"least": "-inf"}]),
        ({math.nan: (1, 2)}, {"nan": [1, 2]}),
        (b"\xff", "/w=="),
        ({3: None}, {"3": None}),
    ],
)
def test_what_json_has_no_form_for_is_text(value: Any, plain: Any) -> None:
    def never(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    assert json.loads(as_json(value), parse_constant=never) == plain


@pytest.mark.parametrize(
    ("value", "text"), [(math.nan, "nan"), (-math.inf, "-inf"), ("a", "a"), (b"\xff", b"\xff"), ([math.inf], '["inf"]')]
)
def test_people_get_text_and_bytes_as_they_are(value: Any, text: str | bytes) -> None:
    assert as_text(value) == text
