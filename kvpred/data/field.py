"""Curate a collection of published measurements: names to ours, words to numbers, unusable rows left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kvpred.data.evidence import Evidence
from kvpred.data.files import Table, read_table
from kvpred.errors import UsageError
from kvpred.hardware import get_device
from kvpred.models.catalogue import SPELLINGS, normalise

COLUMNS = (
    "source_url", "date", "engine", "engine_version", "device", "n_devices", "tp", "model", "weights_dtype",
    "method", "method_params", "concurrency_or_bsz", "prompt_len", "output_len", "metric", "baseline_value",
    "compressed_value", "ratio_better", "notes", "quality",
)  # fmt: skip

STAGE_OF = {
    "ttft_s": "prefill",
    "prefill_tok_s": "prefill",
    "tpot_ms": "decode",
    "decode_tok_s": "decode",
    "e2e_s": "e2e",
    "req_s": "e2e",
    "total_tok_s": "e2e",
    "kv_capacity_tokens": "memory",
    "peak_memory_mb": "memory",
}
"""What each published metric tells about."""

# Formats that store what one of our methods stores, by their published names. ExLlama's own formats, those
# that leave the keys or the values in 16 bit, and TurboQuant's relatives have no counterpart.
_METHODS = {
    "fp8": "kv-fp8",
    "fp8_e4m3": "kv-fp8",
    "fp8_e5m2": "kv-fp8",
    "exl2-fp8": "kv-fp8",
    "int8": "kv-int8",
    "q8_0": "kv-int8",
    "int8-affine": "kv-int8",
    "int4": "kv-int4",
    "q4_0": "kv-int4",
    "int4-affine": "kv-int4",
}
_TURBOQUANT = re.compile(r"turboquant-(\d|k\dv\d)")
# An engine's back ends and forks that keep its scheduler are that engine; the version says which it was.
_ENGINES = {"vllm": "vllm", "sglang": "sglang", "lmdeploy": "lmdeploy", "llama.cpp": "llamacpp",
            "hf transformers": "transformers"}  # fmt: skip
_COUNT = re.compile(r"(~?)(\d+)([kK]?)")
_OLDER_BRANCH = re.compile(r"^main (at|before)\b|\bbefore optimisation$")
_SHORT_OF_MEMORY = ("offload effect", "VRAM pressure", "under memory pressure")


@dataclass(frozen=True, slots=True)
class Curated:
    """What came of a collection.

    Parameters
    ----------
    rows : tuple of Evidence
        In the order of the collection.
    left_out : dict of str to int
        Rows left out, by reason.
    """

    rows: tuple[Evidence, ...]
    left_out: dict[str, int]


def count_of(text: str) -> tuple[int | None, bool]:
    """Return a published count, and whether it was rounded; None for words and limits, which say no number.

    A ``k`` is read as 1,000; where 1,024 was meant that is off by 2.4 %, so the count is marked as rounded.

    Examples
    --------
    >>> count_of("4096"), count_of("~20k"), count_of("<=400"), count_of("ShareGPT")
    ((4096, False), (20000, True), (None, False), (None, False))
    """
    found = _COUNT.fullmatch(text.strip())
    if found is None:
        return None, False
    return int(found[2]) * (1000 if found[3] else 1), bool(found[1] or found[3])


def method_of(published: str) -> str:
    """Return our method string for a published method, or nothing if there is no counterpart.

    Examples
    --------
    >>> method_of("fp8_e4m3"), method_of("turboquant-k8v4"), method_of("turboquant-4-v")
    ('kv-fp8', 'turboquant:bits=k8v4', '')
    """
    if found := _TURBOQUANT.fullmatch(published):
        return f"turboquant:bits={found[1]}"
    return _METHODS.get(published, "")


def curate(path: Path | str) -> Curated:
    """Read a collection of published measurements and keep what says something.

    Parameters
    ----------
    path : Path or str
        CSV with `COLUMNS`. Of its ``notes`` nothing is kept.

    Returns
    -------
    Curated

    Raises
    ------
    DataError
        If a column is missing, a metric is unknown, or a value is no number above 0.
    """
    table = read_table(path)
    table.require(COLUMNS)
    metrics = table.texts("metric")
    table.check(np.isin(metrics, list(STAGE_OF)), "metric", f"expected one of {', '.join(STAGE_OF)}")
    for name in ("baseline_value", "compressed_value", "ratio_better"):
        table.check(table.floats(name) > 0, name, "expected a number above 0")
    cells = [dict(zip(table.columns, row, strict=True)) for row in zip(*table.columns.values(), strict=True)]
    both = {_site(row) for row in cells if not _OLDER_BRANCH.search(row["engine_version"])}
    reasons: Counter[str] = Counter()
    kept: dict[tuple[str, ...], Evidence] = {}
    for number, row in enumerate(cells):
        evidence = _evidence(row, table, number)
        numbers = (*_site(row), row["engine_version"], row["baseline_value"], row["compressed_value"])
        reason = _unusable(row, evidence, both)
        if reason is None and numbers in kept:
            reason = "the same numbers stand in another row of the same source"
        if reason is None:
            kept[numbers] = evidence
        else:
            reasons[reason] += 1
    return Curated(tuple(kept.values()), dict(reasons.most_common()))


def _unusable(row: Mapping[str, str], evidence: Evidence, both: set[tuple[str, ...]]) -> str | None:
    """Return why a row says nothing about its method, or None if it does."""
    if " vs " in row["concurrency_or_bsz"]:
        return "the two values are of different batches"
    if " vs " in row["engine"]:
        return "the two values are of different engines"
    if any(sign in row["notes"] for sign in _SHORT_OF_MEMORY):
        return "memory ran short, so weights or cache moved: not the method's own speed"
    if _OLDER_BRANCH.search(row["engine_version"]) and _site(row) in both:
        return "an older branch of a pull request whose newer one is kept"
    if not (evidence.device or evidence.model or evidence.prompt_len is not None):
        return "neither device, model nor length is given"
    return None


def _site(row: Mapping[str, str]) -> tuple[str, ...]:
    """Return what two branches of a pull request have in common."""
    names = ("source_url", "engine", "device", "model", "method", "concurrency_or_bsz", "prompt_len")
    return tuple(row[name] for name in (*names, "output_len", "metric"))


def _evidence(row: Mapping[str, str], table: Table, number: int) -> Evidence:
    prompt_len, rough_prompt = count_of(row["prompt_len"])
    output_len, rough_output = count_of(row["output_len"])
    setting = row["method_params"]
    engine, fork = engine_name(row["engine"])
    return Evidence(
        stage=STAGE_OF[row["metric"]],
        method=method_of(row["method"]),
        published_method=f"{row['method']} ({setting})"
        if setting not in ("", row["method"])
        else row["method"],
        engine=engine,
        version=", ".join(filter(None, (fork, row["engine_version"]))),
        device=device_name(row["device"]),
        model=model_name(row["model"]),
        weights=row["weights_dtype"],
        tp=count_of(row["tp"])[0],
        bsz=count_of(row["concurrency_or_bsz"])[0],
        prompt_len=prompt_len,
        output_len=output_len,
        approximate=rough_prompt or rough_output,
        metric=row["metric"],
        baseline_value=float(table.floats("baseline_value")[number]),
        compressed_value=float(table.floats("compressed_value")[number]),
        ratio_better=float(table.floats("ratio_better")[number]),
        quality=row["quality"],
        date=row["date"],
        source_url=row["source_url"],
    )


def engine_name(published: str) -> tuple[str, str]:
    """Return our engine's name and the fork or back end in parentheses; others stay as published.

    Examples
    --------
    >>> engine_name("llama.cpp (fork)"), engine_name("TensorRT-LLM")
    (('llamacpp', 'fork'), ('TensorRT-LLM', ''))
    """
    bare, _, fork = published.partition(" (")
    bare = bare.partition(" / ")[0]
    return _ENGINES.get(bare.lower(), published), fork.rstrip(")") if bare.lower() in _ENGINES else ""


def device_name(published: str) -> str:
    """Return the catalogue's name of a device, else the published one without what stands in parentheses.

    Examples
    --------
    >>> device_name("H100 80GB"), device_name("RTX 4090 24GB (about 15.7 GB free)"), device_name("RTX 5090")
    ('h100', 'rtx-4090', 'RTX 5090')
    """
    bare = published.partition(" (")[0]
    # A card's memory stands behind its name where it has but one size.
    for spelling in (bare, re.sub(r" \d+GB$", "", bare)):
        with suppress(UsageError):
            return get_device(spelling).name
    return bare


def model_name(published: str) -> str:
    """Return the catalogue's name of a model, else the published one; a description is no name.

    Examples
    --------
    >>> model_name("LLaMA-3.1-8B"), model_name("Qwen3.5 2B"), model_name("(a GPTQ model)")
    ('llama-3.1-8b', 'Qwen3.5 2B', '')
    """
    bare = published.partition("(")[0].strip()
    # Tuning for chat leaves the architecture as it is.
    spellings = (bare, re.sub(r"-(instruct|chat)$", "", bare, flags=re.IGNORECASE))
    return next((SPELLINGS[normalise(one)] for one in spellings if normalise(one) in SPELLINGS), bare)


def unmatched(rows: Sequence[Evidence]) -> dict[str, int]:
    """Count published methods that have no counterpart, by their published name."""
    return dict(Counter(row.published_method.partition(" (")[0] for row in rows if not row.method))
