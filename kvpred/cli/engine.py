"""Options of commands that run an engine: which, on what, and with which settings."""

from __future__ import annotations

from typing import Annotated

import typer

RunEngineOption = Annotated[str, typer.Option("--engine", help="Engine to run; see `kvpred engines`.")]
RunModelOption = Annotated[
    str | None,
    typer.Option("--model", help="Catalogue name, or path of a config.json; smollm2-135m if not given."),
]
RunDeviceOption = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda or cuda:0; a server's by its catalogue name.")
]
DtypeOption = Annotated[
    str, typer.Option("--dtype", help="bfloat16, float16 or float32: of weights and 16-bit caches.")
]
UrlOption = Annotated[
    list[str] | None,
    typer.Option("--url", help="Of a server, or METHOD=URL for the one that runs a method; repeatable."),
]
ServedNameOption = Annotated[
    str | None, typer.Option("--served-name", help="The model's name at the server.")
]
EngineSettingsOption = Annotated[
    list[str] | None, typer.Option("--option", help="The engine's own KEY=VALUE; may be repeated.")
]
