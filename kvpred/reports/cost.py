"""What requests cost as tables: what each takes, what each costs, and what the answers' lengths rest on."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType

from kvpred.predictors.cost import RequestCost
from kvpred.predictors.length.outputs import OutputShift
from kvpred.predictors.spread import Spread
from kvpred.reports.requests import distinct, short
from kvpred.reports.sheets import Column, Sheet, Show, sheet
from kvpred.reports.tables import rich_tables


def _between(scale: float = 1.0) -> Show:
    """Show a spread as its median and its interval."""

    def show(spread: Spread) -> str:
        return _ends(scale * spread.median, scale * spread.low, scale * spread.high)

    return show


def _ends(value: float, low: float, high: float) -> str:
    return f"{short(value)} ({short(low)}-{short(high)})" if low < high else short(value)


def _ratio(spread: Spread) -> str:
    ends = f" ({spread.low:.2f}-{spread.high:.2f})" if spread.low < spread.high else ""
    return f"{spread.median:.2f}{ends}"


def _shift(shift: OutputShift) -> str:
    return f"{shift.multiplier:.3g} {shift.basis}"


def _percent(share: float) -> str:
    if share in (0, 1) or 0.01 <= share <= 0.99:
        return f"{100 * share:.0f}"
    return "< 1" if share < 0.5 else "> 99"


def _thousand(usd: float) -> str:
    return short(1e3 * usd)


def cost_table(costs: Sequence[RequestCost], *, width: int) -> RenderableType:
    """Draw what a request takes and what it costs, one row per method, within 100 columns."""
    names = distinct([cost.method for cost in costs], [cost.method_params for cost in costs])
    return rich_tables([_taking(costs, names), _costing(costs, names)], notes=_notes(costs, names))


def _taking(costs: Sequence[RequestCost], names: Sequence[str]) -> Sheet:
    first = costs[0]
    columns = (
        Column("method", "Method"),
        Column("output_tokens", "Tokens", _between()),
        Column("ttft_s", "TTFT s", _between()),
        Column("tpot_s", "TPOT ms", _between(1e3)),
        Column("e2e_latency_s", "E2E s", _between()),
        Column("basis", "Basis"),
    )
    return sheet(
        "requests",
        f"{first.model} on {first.device}{f' x {first.tp}' if first.tp > 1 else ''}, {first.engine}: one "
        f"request of a batch of {first.bsz}, prompt {short(first.prompt_len)}: median "
        f"({first.interval_level:.0%} of requests)",
        columns,
        [
            (
                name,
                cost.output_tokens,
                cost.ttft_s,
                cost.tpot_s,
                cost.e2e_latency_s,
                cost.basis + _mark(cost),
            )
            for name, cost in zip(names, costs, strict=True)
        ],
    )


def _costing(costs: Sequence[RequestCost], names: Sequence[str]) -> Sheet:
    first = costs[0]
    columns = (
        Column("method", "Method"),
        Column("shift", "Lengths times", _shift),
        Column("usd_per_1000", "$/1k requests", str.format),
        Column("usd_without_shift", "without\nshift", _thousand),
        Column("usd_per_million", "$/1M\ntokens", short),
        Column("ratio", "$ vs fp16", _ratio),
        Column("cheaper", "cheaper\n%", _percent),
    )
    return sheet(
        "dollars",
        f"Mean cost at ${first.price_usd_per_device_hour:g} per device-hour, which is all that is paid for: "
        f"({first.interval_level:.0%} interval)",
        columns,
        [
            (
                name,
                None if cost.p_cheaper_than_fp16 is None else cost.output_shift,
                _ends(
                    1e3 * cost.usd_per_request.mean,
                    *(1e3 * end for end in cost.usd_per_request_mean_interval),
                ),
                cost.usd_per_request_without_shift,
                cost.usd_per_million_output_tokens.mean,
                cost.usd_ratio_vs_fp16,
                cost.p_cheaper_than_fp16,
            )
            for name, cost in zip(names, costs, strict=True)
        ],
    )


def _mark(cost: RequestCost) -> str:
    return "" if cost.in_domain_share == 1 else " *"


def _notes(costs: Sequence[RequestCost], names: Sequence[str]) -> list[str]:
    first = costs[0]
    notes = [
        f"Answers under fp16: {first.output_source}.",
        *(
            f"{shift.basis.capitalize()}, {', '.join(own)}: {shift.provenance}."
            for shift, own in _shifted(costs, names).items()
        ),
        f"Basis of step times: {first.provenance}",
    ]
    if any(cost.in_domain_share < 1 for cost in costs):
        notes.append("* partly outside the range measured for this method: intervals are widened there.")
    if cut := max(cost.cut_at_context for cost in costs):
        notes.append(f"The model's context ends up to {cut:.1%} of the answers.")
    if misfits := [name for name, cost in zip(names, costs, strict=True) if cost.fits_share < 1]:
        notes.append(
            f"Times are given as if memory sufficed; a batch does not always fit with {', '.join(misfits)}."
        )
    return notes


def _shifted(costs: Sequence[RequestCost], names: Sequence[str]) -> dict[OutputShift, list[str]]:
    """Return which methods have the same shift on the same grounds; fp16 has none."""
    found: dict[OutputShift, list[str]] = {}
    for name, cost in zip(names, costs, strict=True):
        if cost.p_cheaper_than_fp16 is not None:
            found.setdefault(cost.output_shift, []).append(name)
    return found
