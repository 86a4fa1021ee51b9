"""What options say: times and shares."""

from __future__ import annotations

import pytest

from kvpred.cli.values import seconds, share
from kvpred.errors import UsageError


@pytest.mark.parametrize(
    ("text", "found"), [("90s", 90.0), ("10m", 600.0), ("2h", 7200.0), ("45", 45.0), (" 1.5 M ", 90.0)]
)
def test_times_of_budgets(text: str, found: float) -> None:
    assert seconds("--budget", text) == found


@pytest.mark.parametrize("text", ["", "soon", "0m", "-5m", "1d", "1e3", "nan"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match="write a time such as 90s, 10m or 2h"):
        seconds("--budget", text)


@pytest.mark.parametrize(
    ("text", "found"), [("2%", 0.02), ("0.02", 0.02), ("0", 0.0), ("100 %", 1.0), (".5", 0.5)]
)
def test_shares(text: str, found: float) -> None:
    assert share("--max-quality-loss", text) == pytest.approx(found)


@pytest.mark.parametrize("text", ["", "2", "101%", "-1%", "two", "1e-2", "nan", "%"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(UsageError, match=r"write a share such as 2% or 0\.02"):
        share("--max-quality-loss", text)
