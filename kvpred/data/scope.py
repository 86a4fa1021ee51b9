"""Read the response lengths that SCOPE published: Llama-3.1-8B-Instruct on LongGenBench, greedy.

Source: https://github.com/Linking-ai/SCOPE (MIT); its ``run_longgenbench.py`` sets ``do_sample=False`` and at
most 4,096 new tokens for 30 questions in one prompt, 7,950 for 60.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kvpred.data.files import read_table
from kvpred.data.lengths import LengthRun
from kvpred.errors import DataError

MODEL = "llama-3.1-8b-instruct"
_CAPS = {
    "results_longgenbench_4K": 4096,
    "results_longgenbench_8K": 7950,
    "results_longgenbench_gsm8k_plug_in": 4096,
}
# The plug-in runs answer the prompts of the 4K ones, whose full cache they are compared with.
_SAME_PROMPTS = {"results_longgenbench_gsm8k_plug_in": "results_longgenbench_4K"}
# Nearly every answer there, the full cache's included, is cut: nothing to compare.
_DROPPED_TASK = "csqa"
_FULL_CACHE = ("ALLKV", "None")
# Lengths were counted on the decoded text, which tokenises to a few tokens more or less: cut answers stand
# within 12 of their cap, and the next lower ones are 14 (of 4,096) and 98 (of 7,950) below it.
_RECOUNTED_TOKENS = 12
_COLUMNS = (
    "bench", "task", "prefill_method", "prefill_budget", "decode_method", "decode_window", "prompt_id",
    "pred_tokens", "prompt_tokens",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ScopeLengths:
    """What the file holds that can be compared.

    Parameters
    ----------
    runs : tuple of LengthRun
        The method is ``fp16`` for the full cache, and a label such as ``H2O+slide 2048+512`` (compression of
        the prompt and of the answer, and how many tokens of each are kept) for all others.
    dropped : mapping of str to int
        Rows left out, by the reason.
    """

    runs: tuple[LengthRun, ...]
    dropped: Mapping[str, int]


def read_scope(path: Path | str, *, baseline: str = "fp16") -> ScopeLengths:
    """Read the table of SCOPE's lengths.

    A setup that repeats an earlier one's length at each of its prompts is its copy, and dropped.

    Parameters
    ----------
    path : path
    baseline : str
        What to call the full cache.

    Raises
    ------
    DataError
        If a column is missing, a cell is no number, or a benchmark is unknown.
    """
    table = read_table(path)
    table.require(_COLUMNS)
    lengths, prompts = table.integers("pred_tokens"), table.integers("prompt_tokens")
    dropped: Counter[str] = Counter()
    by_setup: dict[tuple[str, str], list[LengthRun]] = {}
    for row, cells in enumerate(zip(*(table.columns[name] for name in _COLUMNS[:7]), strict=True)):
        bench, task, prefill, budget, decode, window, prompt = cells
        if bench not in _CAPS:
            raise table.bad_cell(row, "bench", f"unknown benchmark; known are {', '.join(_CAPS)}")
        if task == _DROPPED_TASK:
            dropped[f"{task}: nearly all answers are cut, the full cache's too"] += 1
            continue
        cap = _CAPS[bench]
        censored = bool(lengths[row] >= cap - _RECOUNTED_TOKENS)
        full = (prefill, decode) == _FULL_CACHE
        label = baseline if full else f"{prefill}+{decode} {budget}+{window}"
        run = LengthRun(
            model=MODEL,
            method=label,
            method_params=label,
            engine="transformers",
            prompt_id=f"{_SAME_PROMPTS.get(bench, bench)}/{task}/{prompt}",
            temperature=0.0,
            seed=0,
            prompt_tokens=int(prompts[row]),
            output_tokens=cap if censored else int(lengths[row]),
            cap=cap,
            censored=censored,
            cache_ratio=float("nan"),
        )
        by_setup.setdefault((bench, label), []).append(run)
    runs: list[LengthRun] = []
    seen: dict[tuple[tuple[str, int], ...], str] = {}
    for (_, label), own in by_setup.items():
        first = seen.setdefault(tuple(sorted((run.prompt_id, run.output_tokens) for run in own)), label)
        if first == label:
            runs += own
        else:
            dropped[f"{label} repeats {first}"] += len(own)
    if not runs:
        raise DataError("no rows are left to compare", path=path)
    return ScopeLengths(tuple(runs), dict(dropped))
