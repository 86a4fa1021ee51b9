"""The Typer application: groups of commands, the options they share, and how errors reach the user."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from kvpred._version import __version__
from kvpred.errors import KvpredError, UsageError

app = typer.Typer(
    name="kvpred",
    help="Predict what serving an LLM with KV-cache compression really costs, and check it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Which file holds each command, in the order of `--help`. A call builds only the file that it needs: building
# all commands takes Typer longer than a prediction.
COMMANDS = {
    "start": ("quickstart",),
    "predict": ("predict", "memory"),
    "breakeven": ("breakeven",),
    "cost": ("cost",),
    "recommend": ("recommend",),
    "simulate": ("simulate",),
    "capacity": ("capacity",),
    "profile": ("profile",),
    "measure": ("measure",),
    "collect": ("collect-lengths",),
    "learn": ("train", "calibrate"),
    "lengths": ("train-length", "predict-length"),
    "judge": ("validate", "audit"),
    "shift": ("shift",),
    "scores": ("collect-scores",),
    "negatives": ("negatives",),
    "report": ("report",),
    "evidence": ("evidence",),
    "know": ("models", "devices", "methods", "engines", "predictors", "doctor"),
    "exchange": ("import", "export"),
}
START, PREDICT, MEASURE, LEARN = "Start", "Predict", "Measure", "Learn"
JUDGE, KNOW, LENGTHS, EXCHANGE = "Judge", "Know", "Lengths", "Exchange"


# Of a command that Ctrl-C ended: 128 + SIGINT.
INTERRUPTED = 130


class Format(StrEnum):
    """How a command prints its result."""

    table = "table"
    json = "json"
    csv = "csv"


FormatOption = Annotated[Format, typer.Option("--format", help="How to print the result on stdout.")]
ModelOption = Annotated[str, typer.Option("--model", help="Catalogue name, or path of a config.json.")]
DeviceOption = Annotated[
    str, typer.Option("--device", help="Catalogue name, or path of a device file (TOML).")
]
EngineOption = Annotated[str, typer.Option("--engine", help="Serving engine; see `kvpred engines`.")]
MethodOption = Annotated[
    str,
    typer.Option(
        "--method", help="Methods separated by commas, such as h2o,kivi:bits=2,group_size=32; or all."
    ),
]
TpOption = Annotated[int, typer.Option("--tp", help="Tensor-parallel degree.")]
BszOption = Annotated[int, typer.Option("--bsz", help="Sequences in the batch.")]
WeightBitsOption = Annotated[int, typer.Option("--weight-bits", help="Width of the weights: 16, 8 or 4.")]
UtilizationOption = Annotated[
    float, typer.Option("--memory-utilization", help="Share of the device's memory that may be used.")
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Exit with 5 if any row does not fit.")]
LevelOption = Annotated[float, typer.Option("--level", help="Level of the intervals, 0.5 to 0.99.")]
ReportOption = Annotated[
    Path | None, typer.Option("--report", help="Folder for an HTML page, CSV files and PNG figures.")
]
PredictorOption = Annotated[
    str | None, typer.Option("--predictor", help="Predictor bundle; the packaged one if not given.")
]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if version:
        typer.echo(f"kvpred {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


def whole_app() -> typer.Typer:
    """Return the application with every command."""
    for module in COMMANDS:
        import_module(f"kvpred.cli.{module}")
    return app


def _app_for(given: Sequence[str]) -> typer.Typer:
    """Return the application with at least the command that is called."""
    command = next((word for word in given if not word.startswith("-")), None)
    for module, commands in COMMANDS.items():
        if command in commands:
            import_module(f"kvpred.cli.{module}")
            return app
    return whole_app()


def _debug_first(given: Sequence[str]) -> list[str]:
    """Put --debug before the command, wherever it was given."""
    end = given.index("--") if "--" in given else len(given)
    others = [word for word in given[:end] if word != "--debug"]
    debug = ["--debug"] if len(others) < end else []
    return [*debug, *others, *given[end:]]


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors become one paragraph on stderr."""
    given = _debug_first(sys.argv[1:] if arguments is None else arguments)
    try:
        code = int(_app_for(given)(given, standalone_mode=False) or 0)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        message, code = _explained(error)
        if given[:1] == ["--debug"] and not hasattr(error, "format_message"):
            raise
        return _fail(message, code)
    return _fail("interrupted", code) if code == INTERRUPTED else code


def _explained(error: Exception) -> tuple[str, int]:
    """Return what to tell the user of an error, and the exit code."""
    if isinstance(error, KvpredError):
        return str(error), error.exit_code
    # Typer's own errors, whose class moved between releases.
    if usage := getattr(error, "format_message", None):
        return usage() or "no command given; `kvpred --help` lists them", UsageError.exit_code
    if isinstance(error, OSError):
        return f"the system refused: {error}", KvpredError.exit_code
    hint = "this is a defect of kvpred; `kvpred --debug ...` shows where"
    return f"{type(error).__name__}: {error} ({hint})", KvpredError.exit_code


def _fail(message: str, code: int) -> int:
    print(f"kvpred: {' '.join(message.splitlines())}", file=sys.stderr)
    return code
