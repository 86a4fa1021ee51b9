"""What kvpred knows: ``models``, ``devices``, ``methods``, ``engines``, ``predictors`` and ``doctor``."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from kvpred.cli.app import KNOW, Format, FormatOption, app
from kvpred.cli.output import emit
from kvpred.errors import KvpredError

EXTRAS = {
    "train": ("sklearn", "lightgbm", "pandas", "skops"),
    "report": ("plotly", "kaleido"),
    "profile": ("torch", "transformers", "gguf", "psutil"),
    "length": (
        *("torch", "transformers", "safetensors", "lightgbm", "sklearn"),
        *("tokenizers", "tiktoken", "sentencepiece"),
    ),
    "openvino": ("openvino_genai", "psutil"),
    "llamacpp": ("xllamacpp", "psutil"),
    "openai": ("httpx", "psutil"),
    "vidur": ("vidur",),
    "ray": ("ray",),
    "parquet": ("pyarrow",),
    "longbench": ("rouge",),
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def _list(
    rows: Sequence[Mapping[str, Any]], form: Format, columns: Sequence[str], *, wide: Sequence[str] = ()
) -> None:
    """Print rows; the table shows only the named columns, and those of `wide` where there is room."""
    from kvpred.reports.lists import plain_table

    emit(rows, form, lambda width: plain_table(rows, columns, wide=wide, width=width))


@app.command("models", rich_help_panel=KNOW)
def models_command(
    config: Annotated[
        str | None, typer.Argument(help="A config.json to read; the catalogue if not given.")
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """List the models of the catalogue, or show what a config.json says.

    Example: kvpred models ./config.json --format json
    """
    from dataclasses import asdict

    from kvpred.models import get_model, list_models

    models = [get_model(config)] if config else list_models()
    rows = [
        asdict(m)
        | {"n_params": m.n_params, "kv_bytes_per_token": m.kv_bytes_per_token(), "params_b": m.n_params / 1e9}
        for m in models
    ]
    shown = ("name", "params_b", "n_layers", "n_q_heads", "n_kv_heads", "head_dim", "kv_bytes_per_token")
    _list(rows, form, shown, wide=["source"])


@app.command("devices", rich_help_panel=KNOW)
def devices_command(form: FormatOption = Format.table) -> None:
    """List the devices of the catalogue and those of this host.

    Example: kvpred devices --format json
    """
    from dataclasses import asdict

    from kvpred.hardware import detect_host, list_devices

    rows = [
        asdict(device)
        | {
            "memory_gib": device.memory_bytes / 2**30,
            "bandwidth_gb_s": (device.memory_bandwidth_bytes_s or 0) / 1e9 or None,
            "tflops_16bit": (device.peak_flops_16bit or 0) / 1e12 or None,
        }
        for device in (*list_devices(), *detect_host())
    ]
    _list(rows, form, ("name", "title", "memory_gib", "bandwidth_gb_s", "tflops_16bit"), wide=["source"])


@app.command("methods", rich_help_panel=KNOW)
def methods_command(form: FormatOption = Format.table) -> None:
    """List the compression methods with their default parameters.

    Example: kvpred methods
    """
    from kvpred.methods import list_methods

    rows = [
        {"method": m.name, "method_params": m.spec, "title": m.title, "paper": m.paper}
        for m in list_methods()
    ]
    _list(rows, form, ("method", "method_params", "title"), wide=["paper"])


@app.command("engines", rich_help_panel=KNOW)
def engines_command(form: FormatOption = Format.table) -> None:
    """List the serving engines whose memory facts are known, and the methods each executes.

    Example: kvpred engines
    """
    from dataclasses import asdict

    from kvpred.hardware import list_engine_specs

    rows = [asdict(engine) for engine in list_engine_specs()]
    _list(rows, form, ("name", "title", "block_tokens", "methods"), wide=["source"])


@app.command("predictors", rich_help_panel=KNOW)
def predictors_command(
    bundles: Annotated[
        list[str] | None, typer.Argument(help="Bundles to describe, beside the packaged one.")
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """Describe the packaged predictor and other bundles: what they cover and how accurate they are.

    Example: kvpred predictors ./my-bundle
    """
    import kvpred
    from kvpred.predictors.summary import summarise

    rows = [summarise(path) for path in (kvpred.PACKAGED, *map(Path, bundles or []))]
    # Bundles of lengths have answers instead of sites.
    kinds = [name for name in ("kind", "answers") if any("answers" in row for row in rows)]
    columns = ("name", "model", "device", "engine", "methods", "sites", "accuracy_held_out_lengths")
    rows = [row | {name: row.get(name) for name in kinds} for row in rows]
    _list(rows, form, [columns[0], *kinds, *columns[1:]])


@app.command("doctor", rich_help_panel=KNOW)
def doctor_command(form: FormatOption = Format.table) -> None:
    """Check this installation: Python, extras, the packaged predictor, a browser for PNG export.

    Example: kvpred doctor
    """
    rows = [{"check": "python", "ok": True, "detail": f"{platform.python_version()} at {sys.executable}"}]
    for extra, packages in EXTRAS.items():
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        detail = f"missing {', '.join(missing)}: pip install 'kvpred[{extra}]'" if missing else "installed"
        rows.append({"check": f"extra {extra}", "ok": not missing, "detail": detail})
    rows += [_packaged_predictor(), _browser()]
    _list(rows, form, ("check", "ok", "detail"))


def _packaged_predictor() -> dict[str, Any]:
    import kvpred
    from kvpred.predictors.bundle import load

    try:
        predictor = load(kvpred.PACKAGED)
    except KvpredError as error:
        return {"check": "packaged predictor", "ok": False, "detail": str(error)}
    return {
        "check": "packaged predictor",
        "ok": True,
        "detail": f"{len(predictor.sites)} sites, {predictor.provenance}",
    }


def _browser() -> dict[str, Any]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    detail = found or "none found: reports are written as HTML and CSV, without PNG"
    return {"check": "browser for PNG", "ok": found is not None, "detail": detail}
