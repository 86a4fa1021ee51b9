import pytest

from kvpred.reports.sheets import Column, decimal, milliseconds, percent, sheet, signed_percent, text


@pytest.mark.parametrize(
    ("show", "value", "shown"),
    [
        (text, "fp16", "fp16"),
        (percent, 0.97654, "97.7"),
        (signed_percent, -0.1, "-10.0"),
        (signed_percent, 0.004, "+0.4"),
        (milliseconds, 0.0361, "36.1"),
        (milliseconds, 7.0213, "7,021"),
        (decimal, 0.956, "0.96"),
    ],
)
def test_values_are_shown_in_their_unit(show: object, value: object, shown: str) -> None:
    assert show(value) == shown


def test_csv_keeps_the_raw_values_and_leaves_absent_ones_empty() -> None:
    table = sheet("t", "T", (Column("a", "A %", percent), Column("b", "B")), [(0.97654321, None)])
    assert table.csv() == "a,b\n0.97654321,\n"
    assert table.shown() == [["97.7", "–"]]
    assert table.records() == [{"a": 0.97654321, "b": None}]
