"""Tables that fit the terminal, and values that JSON and CSV can hold."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable

import pytest
from rich.console import Console, RenderableType

import kvpred
from kvpred.cli.app import Format
from kvpred.cli.output import emit
from kvpred.hardware import get_device
from kvpred.methods import get_method
from kvpred.models import get_model
from kvpred.predictors.memory import predict_memory
from kvpred.reports.lists import plain_table
from kvpred.reports.requests import memory_row, memory_table, prediction_table

METHODS = ("fp16", "h2o", "kivi:bits=2", "kivi:bits=4", "streamingllm")


def _drawn(table: RenderableType, width: int) -> list[str]:
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()


def _prediction(width: int, *, bsz: int = 32, prompt_len: int = 2048) -> list[str]:
    estimates = [kvpred.predict(method=name, bsz=bsz, prompt_len=prompt_len) for name in METHODS]
    return _drawn(prediction_table(estimates, width=width), width)


def _memory(width: int) -> list[str]:
    asked = {"model": "llama-2-7b", "device": "a6000", "engine": "lmdeploy", "tp": 1, "weight_bits": 16}
    asked |= {"bsz": 32, "prompt_len": 2048, "output_len": 256}
    rows = []
    for name in METHODS:
        method = get_method(name)
        memory = predict_memory(
            get_model("llama-2-7b"), method, get_device("a6000"), bsz=32, prompt_len=2048, output_len=256
        )
        rows.append(memory_row(asked | {"method": method.name, "method_params": method.spec}, memory))
    return _drawn(memory_table(rows, width=width), width)


@pytest.mark.parametrize("width", [80, 100, 132, 200])
@pytest.mark.parametrize("table", [_prediction, _memory])
def test_no_figure_is_cut_off(table: Callable[[int], list[str]], width: int) -> None:
    lines = table(width)
    assert "…" not in "".join(lines)
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("width", [80, 132])
def test_figures_of_a_very_large_request_are_not_cut_off(width: int) -> None:
    assert "…" not in "".join(_prediction(width, bsz=8, prompt_len=100_000))


def test_wide_tables_show_what_narrow_ones_leave_out() -> None:
    assert "tok/s" in "\n".join(_prediction(132))
    assert "tok/s" not in "\n".join(_prediction(80))
    assert "cache made of" in "\n".join(_memory(132))
    assert "cache made of" not in "\n".join(_memory(80))


def test_lists_leave_their_sources_out_where_narrow() -> None:
    rows = [{"name": "a", "kv_bytes": 1, "source": "a datasheet"}]
    asked = ("name", "kv_bytes")
    assert "a datasheet" in "\n".join(_drawn(plain_table(rows, asked, wide=["source"], width=132), 132))
    narrow = "\n".join(_drawn(plain_table(rows, asked, wide=["source"], width=80), 80))
    assert "a datasheet" not in narrow
    assert "kv bytes" in narrow


def test_a_number_that_is_not_finite_is_null_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    emit([{"a": math.inf, "b": {"c": [math.nan, 1.5]}}], Format.json, lambda width: "")
    assert json.loads(capsys.readouterr().out) == [{"a": None, "b": {"c": [None, 1.5]}}]


def test_csv_flattens_pairs_and_objects(capsys: pytest.CaptureFixture[str]) -> None:
    emit([{"a": {"b": [1, 2]}, "names": ["x", "y"], "d": None}], Format.csv, lambda width: "")
    assert capsys.readouterr().out == "a.b.low,a.b.high,names,d\n1,2,x; y,\n"


def test_csv_writes_objects_in_a_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    emit([{"shares": [{"task": "code", "low": math.nan}, {"task": "all"}]}], Format.csv, lambda width: "")
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert json.loads(row["shares"]) == [{"task": "code", "low": None}, {"task": "all"}]


def test_csv_without_rows_is_the_header_or_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    emit([], Format.csv, lambda width: "", columns=("a", "b"))
    emit([], Format.csv, lambda width: "")
    assert capsys.readouterr().out == "a,b\n"
