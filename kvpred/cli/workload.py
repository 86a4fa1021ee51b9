"""The options that say which requests are served, shared by commands that need traffic."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

_traffic = partial(typer.Option, rich_help_panel="Requests")

TraceOption = Annotated[
    Path | None,
    _traffic(
        "--trace",
        help="Azure CSV, Mooncake JSONL, or a CSV of id,arrived_at_s,prompt_tokens,output_tokens.",
    ),
]
ConversationsOption = Annotated[
    list[Path] | None,
    _traffic("--conversations", "--sharegpt", help="Draw requests from these as vLLM does; may be repeated."),
]
LengthsOption = Annotated[
    str,
    _traffic("--lengths", help="Of answers to --conversations: file, predicted (drawn) or predicted-mean."),
]
TokenizerOption = Annotated[
    str,
    _traffic("--tokenizer", help="Counts --conversations: estimated, llama-3, llama-2, mistral or a file."),
]
ArrivalsOption = Annotated[
    str | None,
    _traffic("--arrivals", help="poisson, gamma or uniform; a trace's own, else poisson, if not given."),
]
QpsOption = Annotated[
    float | None, _traffic("--qps", help="Requests per second; a trace's own if not given.")
]
CvOption = Annotated[float, _traffic("--cv", help="Coefficient of variation of gamma's gaps.")]
RequestsOption = Annotated[
    int | None, _traffic("--requests", help="How many; all of a trace, else 1,000, if not given.")
]
PromptLenOption = Annotated[
    int | None, _traffic("--prompt-len", help="Tokens of every prompt; 1,024 if nothing else is given.")
]
OutputLenOption = Annotated[
    int | None, _traffic("--output-len", help="Tokens of every answer; 256 if nothing else is given.")
]
TooLongOption = Annotated[
    str, _traffic("--too-long", help="refuse or drop requests that exceed the model's context.")
]
SeedOption = Annotated[int, _traffic("--seed", min=0, help="Of all that is drawn.")]
