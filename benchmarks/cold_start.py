"""Cold start of `kvpred predict`, beside a bare import of numpy, typer and rich, in turn in new processes."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

PREDICT = [sys.executable, "-m", "kvpred", "predict", "--bsz", "32", "--prompt-len", "2048"]
BASELINE = "import numpy, typer, rich"
COMMANDS = {
    BASELINE: [sys.executable, "-c", BASELINE],
    "kvpred predict, JSON": [*PREDICT, "--format", "json"],
    "kvpred predict, table": PREDICT,
}
TARGET_RATIO = 3.0


def seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()

    for command in COMMANDS.values():  # fills the file cache and writes byte code
        seconds(command)
    rounds = [
        {name: seconds(command) for name, command in COMMANDS.items()} for _ in range(arguments.repeats)
    ]
    medians = {name: statistics.median(times[name] for times in rounds) for name in COMMANDS}
    ratios = {name: statistics.median(times[name] / times[BASELINE] for times in rounds) for name in COMMANDS}

    print(
        f"Medians of {arguments.repeats} interleaved repeats, each a new process; target: {TARGET_RATIO:g}x"
    )
    for name in COMMANDS:
        print(f"  {name:28} {1e3 * medians[name]:6.0f} ms  {ratios[name]:.2f}x")
    if arguments.json:
        found = {
            "repeats": arguments.repeats,
            "median_s": medians,
            "ratio": ratios,
            "target_ratio": TARGET_RATIO,
        }
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
