"""Lengths predicted per second on one core, beside a tokeniser that merely counts the same texts.

The conversations are invented, in one batch: seven messages and 5,000 characters, about what those of the
ShareGPT sample have on average. The tokeniser is Llama-3's own (tiktoken), which a server would run anyhow.
"""

from __future__ import annotations

import os

# Before numpy and LightGBM are loaded: one thread.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import kvpred
from kvpred.data.tokenizers import get_counter

CONVERSATIONS, MESSAGES, WORDS = 2000, 7, 130
TARGET_PER_S = 2000
SYLLABLES = ("ka", "lo", "mi", "ne", "tu", "sor", "vel", "an", "ter", "in")

Conversation = list[dict[str, str]]


def invented(generator: random.Random) -> Conversation:
    """Return a conversation that ends with the user's message."""
    roles = ["user", "assistant"] * (MESSAGES // 2) + ["user"]
    lengths = [WORDS // 4 if role == "user" else 2 * WORDS for role in roles]
    return [
        {"role": role, "content": " ".join(word(generator) for _ in range(length)).capitalize() + "."}
        for role, length in zip(roles, lengths, strict=True)
    ]


def word(generator: random.Random) -> str:
    return "".join(generator.choices(SYLLABLES, k=generator.randint(1, 3)))


def per_second(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return conversations per second of each, medians of interleaved repeats."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - begin)
    return {name: CONVERSATIONS / statistics.median(taken) for name, taken in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    generator = random.Random(0)
    asked = [invented(generator) for _ in range(CONVERSATIONS)]
    count = get_counter("llama-3")
    kvpred.predict_length(asked[:10])
    found = per_second(
        {
            "predict_length": lambda: kvpred.predict_length(asked),
            "tokeniser": lambda: [count(m["content"]) for conversation in asked for m in conversation],
        },
        arguments.repeats,
    )
    ratio = found["predict_length"] / found["tokeniser"]
    print(f"{CONVERSATIONS:,} conversations of {MESSAGES} messages, on one core:")
    print(f"  kvpred.predict_length  {found['predict_length']:,.0f} a second (target {TARGET_PER_S:,})")
    print(f"  Llama-3's tokeniser    {found['tokeniser']:,.0f} a second: {ratio:.1f} times as fast as it")
    if arguments.json:
        arguments.json.write_text(json.dumps(found | {"target": TARGET_PER_S}, indent=2) + "\n")


if __name__ == "__main__":
    main()
