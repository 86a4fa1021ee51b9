"""What operator profiles show, table by table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kvpred.evaluation.profile_views import ProfileViews
from kvpred.evaluation.speedups import Crossing
from kvpred.profiling.grid import Site
from kvpred.reports.sheets import Column, Sheet, decimal, percent, sheet, signed_percent
from kvpred.reports.style import method_label

_METHOD, _STAGE, _BSZ = (
    Column("method", "Method", method_label),
    Column("stage", "Stage"),
    Column("bsz", "Batch", str),
)


def tokens(value: float) -> str:
    """Show a number of tokens."""
    return f"{value:,.0f}"


def short_ms(value: float) -> str:
    """Show milliseconds with three significant digits."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


_LENGTH = Column("length", "Tokens", tokens)


def site_label(site: Site) -> str:
    """Show a site as batch and length.

    Examples
    --------
    >>> site_label(Site("decode", 8, 4096))
    '8 × 4,096'
    """
    return f"{site.bsz} × {site.length:,}"


def summary_sheet(views: ProfileViews) -> Sheet:
    """Return one row per method and stage."""
    columns = (
        _METHOD,
        _STAGE,
        Column("sites", "Sites", str),
        Column("speedup", "Speed-up", decimal),
        Column("faster", "Faster", str),
        Column("slower", "Slower", str),
        Column("at", "At"),
        Column("attention_ms", "ms/layer", short_ms),
        Column("roofline_share", "% of roofline", percent),
        Column("attention_share", "% of step", percent),
        Column("operators_over_step", "Sum %", percent),
        Column("hooks", "Hooks %", signed_percent),
    )
    rows = [
        (
            s.method,
            s.stage,
            s.sites,
            s.speedup,
            s.faster,
            s.slower,
            site_label(s.at) if s.at else None,
            s.attention_ms,
            s.roofline_share,
            s.attention_share,
            s.explained,
            s.hooks,
        )
        for s in views.summaries
    ]
    title = (
        "Median speed-up of the step; sites faster and slower than fp16 beyond noise; attention at the "
        "largest common site"
    )
    return sheet("summary", title, columns, rows)


def crossing_table(views: ProfileViews) -> Sheet:
    """Return one row per method and stage, one column per batch size, for people."""
    batches = sorted({crossing.bsz for crossing in views.crossings})
    keys = dict.fromkeys((crossing.stage, crossing.method) for crossing in views.crossings)
    columns = (_STAGE, _METHOD, *(Column(f"bsz_{bsz}", f"Batch {bsz}") for bsz in batches))
    rows = []
    for stage, method in sorted(keys):
        own = [c for c in views.crossings if (c.stage, c.method) == (stage, method)]
        cells = [", ".join(_verdict(c) for c in own if c.bsz == bsz) or None for bsz in batches]
        rows.append((stage, method, *cells))
    title = (
        "Where the speed-up against fp16 crosses 1, in tokens (↑ faster beyond, ↓ slower beyond, "
        "? not beyond noise on both sides)"
    )
    return sheet("crossing_table", title, columns, rows)


def _verdict(crossing: Crossing) -> str:
    if crossing.crosses_at is not None:
        doubt = "" if crossing.certain else "?"
        return f"{tokens(crossing.crosses_at)} {'↑' if crossing.upward else '↓'}{doubt}"
    for count, word in ((crossing.faster, "faster"), (crossing.slower, "slower")):
        if count:
            return word if count == crossing.sites else f"{word} at {count} of {crossing.sites}"
    return "within noise"


def crossings_sheet(views: ProfileViews) -> Sheet:
    """Return one row per crossing, and per batch size without one."""
    columns = (
        _METHOD,
        _STAGE,
        _BSZ,
        Column("shortest", "From tokens", tokens),
        Column("longest", "to", tokens),
        Column("sites", "Sites", str),
        Column("faster", "Faster", str),
        Column("slower", "Slower", str),
        Column("crosses_at", "Crosses 1 at tokens", tokens),
        Column("upward", "Faster beyond"),
        Column("certain", "Beyond noise on both sides"),
    )
    rows = [tuple(getattr(c, column.name) for column in columns) for c in views.crossings]
    return sheet("crossings", "Crossings of 1", columns, rows)


def attention_sheet(views: ProfileViews) -> Sheet:
    """Return one row per method and site: attention, upkeep and roofline of one layer."""
    columns = (
        _METHOD,
        _STAGE,
        _BSZ,
        _LENGTH,
        Column("attention_ms", "Attention ms", short_ms),
        Column("upkeep_ms", "Upkeep ms", short_ms),
        Column("roofline_ms", "Roofline ms", short_ms),
    )
    rows = [
        (t.method, t.site.stage, t.site.bsz, t.site.length, t.attention_ms, t.upkeep_ms, t.roofline_ms)
        for t in views.attention
    ]
    return sheet("attention_times", "Attention of one layer", columns, rows)


def steps_sheet(views: ProfileViews) -> Sheet:
    """Return one row per method and site: the whole step and its speed-up."""
    columns = (
        _METHOD,
        _STAGE,
        _BSZ,
        _LENGTH,
        Column("step_ms", "Step ms", short_ms),
        Column("error", "Standard error %", percent),
        Column("hooked_step_ms", "With hooks ms", short_ms),
        Column("operators_ms", "Operators ms", short_ms),
        Column("speedup", "Speed-up", decimal),
        Column("speedup_low", "from", decimal),
        Column("speedup_high", "to", decimal),
        Column("told_apart", "Beyond noise", str),
    )
    rows = [
        (
            s.method,
            s.site.stage,
            s.site.bsz,
            s.site.length,
            s.step_ms,
            s.error,
            s.hooked_ms,
            s.operators_ms,
            s.speedup,
            *(s.bounds or (None, None)),
            None if s.speedup is None else s.told_apart,
        )
        for s in views.steps
    ]
    return sheet("step_times", "Whole steps and their speed-up against fp16", columns, rows)


def parts_sheet(views: ProfileViews) -> Sheet:
    """Return one row per method, site and part of the step."""
    columns = (
        _METHOD,
        _STAGE,
        _BSZ,
        _LENGTH,
        Column("part", "Part"),
        Column("ms", "ms", short_ms),
        Column("share", "Share %", percent),
    )
    rows = [
        (c.method, c.site.stage, c.site.bsz, c.site.length, part, ms, ms / c.whole_ms)
        for c in views.compositions
        for part, ms in c.parts.items()
    ]
    return sheet("step_parts", "What a step is made of", columns, rows)


def noise_sheet(views: ProfileViews) -> Sheet:
    """Return one row per operator, one column per method."""
    operators = sorted({operator for noise in views.noise.values() for operator in noise})
    columns = (
        Column("operator", "Operator"),
        *(Column(method, method_label(method), percent) for method in views.noise),
    )
    rows = [(operator, *(noise.get(operator) for noise in views.noise.values())) for operator in operators]
    title = "Noise: standard deviation between repeats over their median, median over the points, %"
    return sheet("noise", title, columns, rows)


def terminal_sheets(views: ProfileViews) -> list[Sheet]:
    """Return the tables that a terminal shows."""
    return [summary_sheet(views)] + ([crossing_table(views)] if views.crossings else [])


def data_sheets(views: ProfileViews) -> list[Sheet]:
    """Return the tables that are too long for the page."""
    makers: Sequence[tuple[object, Callable[[ProfileViews], Sheet]]] = (
        (views.attention, attention_sheet),
        (views.steps, steps_sheet),
        (views.crossings, crossings_sheet),
        (views.compositions, parts_sheet),
    )
    return [make(views) for present, make in makers if present]
