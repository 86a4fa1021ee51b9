"""Terminal tables of predicted requests: times with intervals, bytes, and what fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from kvpred.predictors.estimate import Estimate
    from kvpred.predictors.memory import MemoryEstimate

GIB = 2**30


def prediction_table(estimates: Sequence[Estimate], *, width: int) -> RenderableType:
    """Draw one row per method: how fast, how sure, what fits, on which basis; fewer columns below 110."""
    first = estimates[0]
    level = f"{first.interval_level:.0%}"
    columns: list[tuple[str, bool, Callable[[Estimate], str | Text]]] = [
        (f"TTFT s\n({level} interval)", True, lambda e: _with_interval(e.ttft_s, e.interval["ttft_s"])),
        (f"TPOT ms\n({level} interval)", True, lambda e: _with_interval(e.tpot_s, e.interval["tpot_s"], 1e3)),
        ("decode\ntok/s", False, lambda e: f"{e.decode_throughput_tok_s:,.0f}"),
        ("e2e\ns", False, lambda e: short(e.e2e_latency_s)),
        ("vs fp16\ndecode", True, lambda e: f"{e.speedup_vs_fp16['decode']:.2f}x"),
        ("vs fp16\ne2e", False, lambda e: f"{e.speedup_vs_fp16['e2e']:.2f}x"),
        ("KV\nGiB", False, lambda e: f"{e.kv_cache_bytes / GIB:.1f}"),
        ("peak\nGiB", True, lambda e: f"{e.peak_memory_bytes / GIB:.1f}"),
        ("fits", True, lambda e: _yes_no(e.fits)),
        ("max\nbsz", True, lambda e: f"{e.max_bsz:,}"),
    ]
    shown = [column for column in columns if column[1] or width >= 110]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0) if width < 110 else (0, 2, 0, 0))
    table.add_column("method", no_wrap=True)
    for header, _, _ in shown:
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("basis", no_wrap=True)
    for estimate in estimates:
        basis = estimate.basis + ("" if estimate.in_domain else " *")
        table.add_row(estimate.method, *(draw(estimate) for _, _, draw in shown), basis)
    title = (
        f"{first.model} on {first.device}{f' x {first.tp}' if first.tp > 1 else ''}, {first.engine}: "
        f"bsz {first.bsz}, prompt {first.prompt_len}, output {first.output_len}"
    )
    notes = [f"Basis: {first.provenance}"]
    if not all(estimate.in_domain for estimate in estimates):
        notes.append("* outside the range measured for this method: intervals are widened, trust them less.")
    if not all(estimate.fits for estimate in estimates):
        notes.append("Times are given as if memory sufficed; `kvpred memory` shows what does not fit.")
    return Group(Text(title, style="bold"), table, *(Text(note, style="dim") for note in notes))


def memory_row(request: Mapping[str, Any], memory: MemoryEstimate) -> dict[str, Any]:
    """Return one method's request and bytes as a flat mapping, cache components nested."""
    values = {field.name: getattr(memory, field.name) for field in fields(memory)}
    return {**request, **values, "kv_cache_parts": dict(memory.kv_cache_parts)}


def memory_table(rows: Sequence[Mapping[str, Any]], *, width: int) -> RenderableType:
    """Draw one row per method: where the bytes go and how large a batch may be."""
    first = rows[0]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("method", no_wrap=True)
    for header in ("weights", "KV cache", "pages", "prefill KV", "activations", "engine", "peak", "usable"):
        table.add_column(header, justify="right")
    table.add_column("fits")
    table.add_column("max bsz", justify="right")
    if width >= 110:
        table.add_column("cache made of")
    names = (
        "weights",
        "kv_cache",
        "page_rounding",
        "prefill_transient",
        "activation",
        "reserve",
        "peak_memory",
    )
    for row in rows:
        parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in row["kv_cache_parts"].items() if size)
        table.add_row(
            row["method"],
            *(f"{row[f'{name}_bytes'] / GIB:.2f}" for name in (*names, "usable")),
            _yes_no(row["fits"]),
            f"{row['max_bsz']:,}",
            *([parts] if width >= 110 else []),
        )
    title = (
        f"GiB per device: {first['model']} (W{first['weight_bits']}) on {first['device']} x {first['tp']}, "
        f"{first['engine']}: bsz {first['bsz']}, prompt {first['prompt_len']}, output {first['output_len']}"
    )
    note = (
        "peak = weights + activations + engine + the larger of prefill KV (16-bit, before quantising or "
        "evicting, all layers) and the paged cache at the end of decoding."
    )
    return Group(Text(title, style="bold"), table, Text(note, style="dim"))


def short(number: float) -> str:
    """Format a positive number with three significant digits and no exponent."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}" if number >= 0.1 else f"{number:.2g}"


def _with_interval(value: float, ends: Sequence[float], scale: float = 1.0) -> str:
    low, high = (f"{short(scale * end)}" for end in ends)
    return f"{short(scale * value)} ({low}-{high})"


def _yes_no(fits: bool) -> Text:
    return Text("yes", style="green") if fits else Text("no", style="bold red")
