"""A sweep's predictions as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvpred.reports.requests import GIB, short
from kvpred.reports.sheets import Column, Sheet, decimal, milliseconds, sheet
from kvpred.reports.style import method_label

_SHOWN = (
    Column("model", "Model"),
    Column("device", "Device"),
    Column("engine", "Engine"),
    Column("tp", "TP", str),
    Column("method_params", "Method"),
    Column("bsz", "bsz", "{:,}".format),
    Column("prompt_len", "Prompt", "{:,}".format),
    Column("output_len", "Output", "{:,}".format),
    Column("ttft_s", "TTFT s", short),
    Column("tpot_s", "TPOT ms", milliseconds),
    Column("e2e_latency_s", "E2E s", short),
    Column("speedup_vs_fp16.e2e", "vs fp16", decimal),
    Column("peak_memory_bytes", "Peak GiB", lambda size: f"{size / GIB:.1f}"),
    Column("max_bsz", "Max bsz", "{:,}".format),
    Column("basis", "Basis"),
)
_KEYS = ("model", "device", "engine", "tp", "output_len")


def sweep_sheet(columns: Mapping[str, Sequence[Any]], *, rows: int) -> Sheet:
    """Return the first rows; keys that have one value everywhere stand in the title."""
    fixed = [name for name in _KEYS if len(set(columns[name])) == 1]
    shown = [column for column in _SHOWN if column.name not in fixed]
    values = {column.name: list(columns[column.name][:rows]) for column in shown}
    values["method_params"] = [method_label(name) for name in values["method_params"]]
    said = ", ".join(f"{name} {columns[name][0]}" for name in fixed)
    title = f"{len(columns['bsz']):,} cells{f' of {said}' if said else ''}"
    return sheet("sweep", title, shown, zip(*values.values(), strict=True))
