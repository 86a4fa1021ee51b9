"""Terminal tables of predicted requests: times with intervals, bytes, and what fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from kvpred.predictors.estimate import Estimate
    from kvpred.predictors.memory import MemoryEstimate

GIB = 2**30
# Characters from which a table has room for everything.
WIDE = 110


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of numbers; those of the highest `rank` give way first where a table is too wide."""

    header: str
    cells: Sequence[str | Text]
    rank: int = 0

    @property
    def width(self) -> int:
        """Characters of the widest line."""
        return max(map(len, (*self.header.split("\n"), *map(str, self.cells))))


def _fitting(columns: Sequence[_Column], *, room: int, gap: int) -> list[_Column]:
    """Return the columns that fit into so many characters, those that matter least left out first."""
    kept = list(columns)
    while sum(column.width + gap for column in kept) > room and any(column.rank for column in kept):
        kept.remove(max(kept, key=lambda column: column.rank))
    return kept


def prediction_table(estimates: Sequence[Estimate], *, width: int) -> RenderableType:
    """Draw one row per method: how fast, how sure, what fits, on which basis; fewer columns where narrow."""
    first = estimates[0]
    names = distinct([estimate.method for estimate in estimates], [e.method_params for e in estimates])
    bases = [estimate.basis + ("" if estimate.in_domain else " *") for estimate in estimates]
    padding = 2 if width >= WIDE else 0
    columns = _fitting(
        [_Column("method", names), *_request_columns(estimates), _Column("basis", bases)],
        room=width,
        gap=padding + 1,
    )
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, padding, 0, 0))
    for column in columns:
        side: JustifyMethod = "left" if column.header in ("method", "basis") else "right"
        table.add_column(column.header, justify=side, no_wrap=True)
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*row)
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


def _request_columns(estimates: Sequence[Estimate]) -> list[_Column]:
    level = f"{estimates[0].interval_level:.0%}"

    def column(header: str, rank: int, draw: Callable[[Estimate], str | Text]) -> _Column:
        return _Column(header, [draw(estimate) for estimate in estimates], rank)

    return [
        column(f"TTFT s\n({level} interval)", 0, lambda e: _with_interval(e.ttft_s, e.interval["ttft_s"])),
        column(
            f"TPOT ms\n({level} interval)", 0, lambda e: _with_interval(e.tpot_s, e.interval["tpot_s"], 1e3)
        ),
        column("decode\ntok/s", 5, lambda e: f"{e.decode_throughput_tok_s:,.0f}"),
        column("e2e\ns", 3, lambda e: short(e.e2e_latency_s)),
        column("vs fp16\ndecode", 1, lambda e: f"{e.speedup_vs_fp16['decode']:.2f}x"),
        column("vs fp16\ne2e", 4, lambda e: f"{e.speedup_vs_fp16['e2e']:.2f}x"),
        column("KV\nGiB", 6, lambda e: f"{e.kv_cache_bytes / GIB:.1f}"),
        column("peak\nGiB", 2, lambda e: f"{e.peak_memory_bytes / GIB:.1f}"),
        column("fits", 0, lambda e: _yes_no(e.fits)),
        column("max\nbsz", 0, lambda e: f"{e.max_bsz:,}"),
    ]


def memory_row(request: Mapping[str, Any], memory: MemoryEstimate) -> dict[str, Any]:
    """Return one method's request and bytes as a flat mapping, cache components nested."""
    values = {field.name: getattr(memory, field.name) for field in fields(memory)}
    return {**request, **values, "kv_cache_parts": dict(memory.kv_cache_parts)}


def memory_table(rows: Sequence[Mapping[str, Any]], *, width: int) -> RenderableType:
    """Draw one row per method: where the bytes go and how large a batch may be; less where narrow."""
    first = rows[0]
    wide = width >= WIDE
    shown = [
        ("weights", "weights", 0),
        ("KV cache", "kv_cache", 0),
        ("pages", "page_rounding", 2),
        ("prefill KV", "prefill_transient", 0),
        ("activations", "activation", 1),
        ("engine", "reserve", 3),
        ("peak", "peak_memory", 0),
        ("usable", "usable", 0),
    ]
    columns = [
        _Column("method", distinct([row["method"] for row in rows], [row["method_params"] for row in rows])),
        *(
            _Column(header, [f"{row[f'{name}_bytes'] / GIB:.2f}" for row in rows], rank)
            for header, name, rank in shown
        ),
        _Column("fits", [_yes_no(row["fits"]) for row in rows]),
        _Column("max bsz", [f"{row['max_bsz']:,}" for row in rows]),
    ]
    if not wide:
        columns = [replace(column, header=column.header.replace(" ", "\n")) for column in columns]
        columns = _fitting(columns, room=width, gap=3)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for column in columns:
        table.add_column(
            column.header,
            justify="left" if column.header in ("method", "fits") else "right",
            no_wrap=column.header == "method",
        )
    cells = [column.cells for column in columns]
    if wide:
        table.add_column("cache made of")
        cells.append([_parts(row["kv_cache_parts"]) for row in rows])
    for row in zip(*cells, strict=True):
        table.add_row(*row)
    title = (
        f"GiB per device: {first['model']} (W{first['weight_bits']}) on {first['device']} x {first['tp']}, "
        f"{first['engine']}: bsz {first['bsz']}, prompt {first['prompt_len']}, output {first['output_len']}"
    )
    note = (
        "peak = weights + activations + engine + the larger of prefill KV (16-bit, before quantising or "
        "evicting, all layers) and the paged cache at the end of decoding."
    )
    return Group(Text(title, style="bold"), table, Text(note, style="dim"))


def _parts(parts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items() if size)


def distinct(names: Sequence[str], specs: Sequence[str]) -> list[str]:
    """Return the names, each with those parameters that tell it from other rows of the same name."""
    given = [spec.partition(":")[2].split(",") for spec in specs]
    shown = []
    for name, own in zip(names, given, strict=True):
        twins = [other for twin, other in zip(names, given, strict=True) if twin == name]
        telling = ",".join(item for item in own if not all(item in twin for twin in twins))
        shown.append(f"{name}:{telling}" if telling else name)
    return shown


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
