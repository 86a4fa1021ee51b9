"""The rows of a profile's tables, found by their site."""

from __future__ import annotations

from math import isnan
from statistics import median

from kvpred.data.profiles import Columns, time_column
from kvpred.profiling.grid import Site

Rows = dict[Site, list[int]]


def rows_by_site(columns: Columns, *, tp: int) -> Rows:
    """Return the rows of each site of an attention or steps table, in order of stage, batch and length.

    Rows of a prompt's later chunks, which find tokens in the cache, belong to no site.

    Parameters
    ----------
    columns : dict of str to array
    tp : int
        Tensor-parallel degree whose rows to take.
    """
    names = ("num_tensor_parallel_workers", "is_prefill", "batch_size", "prefill_chunk_size", "kv_cache_size")
    rows: Rows = {}
    if columns:
        for row, values in enumerate(zip(*(columns[name].tolist() for name in names), strict=True)):
            degree, prefill, bsz, chunk, cached = values
            if degree == tp and not (prefill and cached):
                site = Site("prefill", bsz, chunk) if prefill else Site("decode", bsz, max(cached, 1))
                rows.setdefault(site, []).append(row)
    return dict(sorted(rows.items(), key=lambda item: (item[0].stage, item[0].bsz, item[0].length)))


def site_ms(columns: Columns, operator: str, rows: list[int]) -> float | None:
    """Return an operator's median time at a site in ms, over its rows; None if nobody timed it there."""
    times = columns.get(time_column(operator))
    known = [ms for ms in times[rows].tolist() if not isnan(ms)] if times is not None else []
    return median(known) if known else None
