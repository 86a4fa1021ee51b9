"""Measured sites as a table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from kvpred.evaluation.served import ServedSite
from kvpred.methods import get_method
from kvpred.reports.lists import plain_table

_GIB = 2**30


def served_table(sites: Sequence[ServedSite], *, width: int) -> Table:
    """Draw one line per method and site; noise is that of the decode step's median."""
    rows = [
        {
            "method": get_method(site.method).name,
            "bsz": site.bsz,
            "prompt": site.prompt_len,
            "runs": f"{site.runs} ({site.marked} marked)" if site.marked else site.runs,
            "TTFT s": site.ttft_s,
            "TPOT ms": _times(1e3, site.tpot_s),
            "E2E s": site.e2e_latency_s,
            "prefill tok/s": site.prefill_throughput_tok_s,
            "decode tok/s": site.decode_throughput_tok_s,
            "noise %": _times(100, site.decode_noise),
            "prefill vs fp16": site.speedup_prefill,
            "decode vs fp16": site.speedup_decode,
            "peak GiB": _times(1 / _GIB, site.peak_memory_bytes),
        }
        for site in sites
    ]
    narrow = ("method", "bsz", "prompt", "runs", "TTFT s", "TPOT ms", "prefill vs fp16", "decode vs fp16")
    columns = list(rows[0]) if rows and width > len("".join(rows[0])) + 3 * len(rows[0]) else narrow
    return plain_table(rows, columns, width=width)


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value
