"""``kvpred import`` and ``kvpred export``: operator profiles from and for Vidur."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvpred.cli.app import EXCHANGE, Format, FormatOption, app
from kvpred.cli.output import emit

SourceArgument = Annotated[Path, typer.Argument(help="Folder with attention.csv and mlp.csv.")]


@app.command("import", rich_help_panel=EXCHANGE)
def import_command(
    source: SourceArgument,
    output: Annotated[Path, typer.Option("--output", help="Root of the profile store to write into.")],
    device: Annotated[str | None, typer.Option("--device", help="Device, if the folders do not say.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Model, if the folders do not say.")] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="Method; fp16 for Vidur's own profiles.")
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """Check an operator profile in Vidur's columns and store it with a manifest.

    A folder of all_reduce.csv and send_recv.csv, as Vidur's network/DEVICE, is stored for its device:
    profiles under the same root take their all-reduces from there.

    Example: kvpred import profiles/compute/a100/meta-llama/Llama-2-7b-hf --method fp16 --output my-profiles
    """
    from kvpred.data.store import is_network, read_profile, write_network, write_profile
    from kvpred.errors import UsageError
    from kvpred.methods import get_method, list_methods

    if is_network(source):
        if model is not None or method is not None:
            raise UsageError(
                "times of communication are of no model or method: leave --model and --method out"
            )
        _written(write_network(output, source, device=device), form)
        return
    known = [m.name for m in list_methods()]
    profile = read_profile(source, device=device, model=model, method=method, known_methods=known)
    get_method(profile.method)
    _written(write_profile(output, profile), form)


@app.command("export", rich_help_panel=EXCHANGE)
def export_command(
    source: SourceArgument,
    output: Annotated[Path, typer.Option("--output", help="Root to write into, as Vidur's data/profiling.")],
    device: Annotated[str | None, typer.Option("--device", help="Device, if the folders do not say.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Model name as Vidur knows it.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="Method, if the folders do not say.")] = None,
    form: FormatOption = Format.table,
) -> None:
    """Write an operator profile in Vidur's own layout, compute/DEVICE/MODEL/, without a method or manifest.

    Example: kvpred export my-profiles/compute/a100/llama-2-7b/fp16 --output data/profiling
    """
    from kvpred.data.store import export_vidur, read_profile
    from kvpred.methods import list_methods

    known = [m.name for m in list_methods()]
    profile = read_profile(source, device=device, method=method, known_methods=known)
    _written(export_vidur(output, profile, model=model), form)


def _written(folder: Path, form: Format) -> None:
    from kvpred.reports.lists import plain_table

    rows = [{"written": str(path)} for path in sorted(folder.iterdir())]
    emit(rows, form, lambda width: plain_table(rows, ("written",), width=width))
