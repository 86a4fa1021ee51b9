"""The options that say what a simulated replica is, shared by commands that simulate."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

_replica = partial(typer.Option, rich_help_panel="Replica")

SchedulerOption = Annotated[
    str, _replica("--scheduler", help="vllm (prompts first, whole) or sarathi (in parts, beside decoding).")
]
MaxBszOption = Annotated[int, _replica("--max-bsz", help="Most requests that a replica serves at once.")]
MaxBatchTokensOption = Annotated[
    int | None,
    _replica("--max-batch-tokens", help="Most prompt tokens of a step (vllm); the engine's if not given."),
]
ChunkTokensOption = Annotated[
    int, _replica("--chunk-tokens", help="Tokens of a step, decoding ones included (sarathi).")
]
NoShiftOption = Annotated[
    bool, typer.Option("--no-shift", help="Take every method's answers to be as long as fp16's.")
]
ShiftsOption = Annotated[
    Path | None,
    typer.Option("--shifts", help="Of `kvpred shift --output`; they go before the packaged ones."),
]
HourPriceOption = Annotated[
    float | None, typer.Option("--price-per-hour", help="US dollars per device-hour.")
]
