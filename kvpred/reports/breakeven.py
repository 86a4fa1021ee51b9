"""Break-even maps as tables, as one row per cell, and as a folder with a page and its data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from kvpred.predictors.breakeven_map import (
    BETTER,
    NO_ROOM,
    ONLY_THIS,
    QUANTITIES,
    UNCERTAIN,
    USD,
    WORSE,
    BreakEven,
    Map,
)
from kvpred.reports.breakeven_words import (
    BATCH_NAMES,
    border,
    breakeven_notes,
    cells_name,
    fixed_name,
    place_name,
    quantities_of,
    quantity_name,
    span_name,
)
from kvpred.reports.folder import Written, write_report
from kvpred.reports.sheets import Column, Sheet, decimal, percent, sheet, text
from kvpred.reports.style import method_label


def breakeven_sheets(found: BreakEven) -> list[Sheet]:
    """Return one table per kind of batches: the shares of the cells, and where the border lies in words."""
    columns = (
        Column("method", "Method"),
        Column("quantity", "For"),
        Column("better", "Better %", percent),
        Column("worse", "Worse %", percent),
        Column("uncertain", "Unsure %", percent),
        Column("does_not_fit", "No room %", percent),
        Column("only_this_fits", "Only it %", percent),
        Column("in_domain", "Measured %", percent),
        Column("median_ratio", "Ratio", decimal),
        Column("border", "Best estimate"),
    )
    drawn = []
    for batches, maps in _by_batches(found):
        rows = [
            (
                method_label(one.method),
                quantity_name(quantity, batches),
                *(one.share(quantity, word) for word in (BETTER, WORSE, UNCERTAIN, NO_ROOM, ONLY_THIS)),
                float(np.mean(one.in_domain[quantity])),
                _median(one, quantity),
                border(found.grid, one, quantity),
            )
            for one in maps
            for quantity in quantities_of(batches)
        ]
        title = (
            f"Against fp16 {BATCH_NAMES[batches]}: {place_name(found)}; {span_name(found.grid)}"
            f"{fixed_name(found.grid, batches)}"
        )
        drawn.append(sheet(f"breakeven_{batches}", title, columns, rows))
    return drawn


def _by_batches(found: BreakEven) -> Iterator[tuple[str, list[Map]]]:
    for batches, maps in groupby(found.maps, key=lambda one: one.batches):
        yield batches, list(maps)


def _median(one: Map, quantity: str) -> float | None:
    known = one.fits & one.base_fits
    return float(np.median(one.ratios[quantity][0][known])) if known.any() else None


def cell_records(found: BreakEven) -> list[dict[str, Any]]:
    """Return one flat object per method, kind of batches and cell, with all quantities."""
    return [row for one in found.maps for row in _records(found, one)]


def _records(found: BreakEven, one: Map) -> Iterator[dict[str, Any]]:
    grid = found.grid
    request = {"model": found.model, "device": found.device, "engine": found.engine, "tp": found.tp}
    shift = {"shift": one.shift.multiplier, "shift_basis": one.shift.basis}
    flat: dict[str, list[Any]] = {
        "prompt_len": grid.prompts.ravel().tolist(),
        "output_len": grid.filled(grid.output_len).ravel().tolist(),
        "bsz": one.bsz.ravel().tolist(),
        "fp16_bsz": one.base_bsz.ravel().tolist(),
        "fits": one.fits.ravel().tolist(),
        "fp16_fits": one.base_fits.ravel().tolist(),
    }
    if grid.axis == "bsz":
        flat = {"asked_bsz": grid.filled(grid.bsz).ravel().tolist()} | flat
    for name in QUANTITIES:
        for key, ends in zip(("ratio", "ratio_low", "ratio_high"), one.ratios[name], strict=True):
            flat[f"{name}_{key}"] = ends.ravel().tolist()
        flat[f"{name}_verdict"] = one.verdicts(name).ravel().tolist()
        flat[f"{name}_in_domain"] = one.in_domain[name].ravel().tolist()
    if one.base_usd is not None:
        flat["fp16_usd_per_request"] = one.base_usd.ravel().tolist()
        flat["usd_per_request"] = (one.base_usd * one.ratios[USD][0]).ravel().tolist()
    head = {
        "method": one.method.partition(":")[0],
        "method_params": one.method,
        **request,
        "batches": one.batches,
        "basis": one.basis,
        **shift,
    }
    for values in zip(*flat.values(), strict=True):
        yield head | dict(zip(flat, values, strict=True))


def cells_sheet(found: BreakEven, batches: str) -> Sheet:
    """Return all cells of one kind of batches as a table."""
    rows = [row for one in found.maps if one.batches == batches for row in _records(found, one)]
    columns = [Column(name, name, text) for name in rows[0]]
    return sheet(cells_name(batches), "All cells", columns, [list(row.values()) for row in rows])


def write_breakeven_report(found: BreakEven, folder: Path) -> Written:
    """Write the page, its tables as CSV and its figures as PNG into a folder, in one step.

    Raises
    ------
    UsageError, MissingExtraError
        See `kvpred.reports.folder.write_report`.
    """
    from kvpred.reports.breakeven_figures import breakeven_figures

    figures = breakeven_figures(found)
    parts: list[Any] = []
    for table in breakeven_sheets(found):
        kind = table.name.removeprefix("breakeven_")
        parts += [table, *(figure for figure in figures if cells_name(kind) in figure.sheets)]
    kinds: Sequence[str] = list(dict.fromkeys(one.batches for one in found.maps))
    return write_report(
        folder,
        title=f"Where compression beats fp16: {place_name(found)}",
        notes=breakeven_notes(found),
        parts=parts,
        data=[cells_sheet(found, kind) for kind in kinds],
    )
