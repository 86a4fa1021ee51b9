"""How far scaling by bytes and FLOPs misses another device: Vidur's linear layers on A40, A100 and H100.

Each device's measured times are scaled to each other device as kvpred scales a fitted predictor, by
bytes / bandwidth + FLOPs / peak, and compared with that device's own. The 90 % quantile of the absolute log
error is `kvpred.predictors.scaling.TRANSFER_LOG_ERROR`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kvpred.data.store import read_profile
from kvpred.hardware import DeviceSpec, get_device
from kvpred.predictors.scaling import TRANSFER_LOG_ERROR

OPERATORS = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")
DEVICES = {"a40": "a40", "a100": "a100-80gb", "h100": "h100"}  # Vidur's folders, kvpred's catalogue
LEVEL = 0.9


def linear_layers(folder: Path) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
    """Return token counts, summed times of a layer's four linear operators in ms, and its parameters."""
    mlp = read_profile(folder, method="fp16").mlp
    rows = mlp["num_tensor_parallel_workers"] == 1
    times = sum(mlp[f"time_stats.{operator}.median"][rows] for operator in OPERATORS)
    hidden, inner = int(mlp["n_embd"][0]), int(mlp["n_expanded_embd"][0])
    kv = hidden * int(mlp["n_kv_head"][0]) // int(mlp["n_head"][0])
    parameters = 2 * hidden * (hidden + kv) + 3 * hidden * inner
    return mlp["num_tokens"][rows], np.asarray(times), parameters


def ideal_ms(device: DeviceSpec, tokens: NDArray[np.int64], parameters: int) -> NDArray[np.float64]:
    """Return the time of reading the 16-bit weights once, plus that of every token's FLOPs."""
    assert device.memory_bandwidth_bytes_s and device.peak_flops_16bit
    seconds = 2 * parameters * (1 / device.memory_bandwidth_bytes_s + tokens / device.peak_flops_16bit)
    return 1e3 * seconds


def log_errors(root: Path) -> dict[str, NDArray[np.float64]]:
    """Return log(scaled / measured) of every token count that both devices measured, by ordered pair."""
    measured = {name: linear_layers(root / name / "meta-llama" / "Llama-2-7b-hf") for name in DEVICES}
    errors = {}
    for origin, target in itertools.permutations(DEVICES, 2):
        shared = np.intersect1d(measured[origin][0], measured[target][0])
        times, ideals = {}, {}
        for name in (origin, target):
            tokens, times_ms, parameters = measured[name]
            times[name] = np.array([np.median(times_ms[tokens == count]) for count in shared])
            ideals[name] = ideal_ms(get_device(DEVICES[name]), shared, parameters)
        scaled = times[origin] * ideals[target] / ideals[origin]
        errors[f"{origin} to {target}"] = np.log(scaled / times[target])
    return errors


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = Path(os.environ.get("KVPRED_SHARED", "../shared"))
    parser.add_argument("--profiles", type=Path, default=shared / "data" / "vidur" / "compute")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()

    errors = log_errors(arguments.profiles)
    absolute = np.abs(np.concatenate(list(errors.values())))
    quantile = float(np.quantile(absolute, LEVEL))
    print("log(scaled / measured) of a LLaMA-2-7B layer's linear operators: median (5th to 95th percentile)")
    for pair, values in errors.items():
        low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
        print(f"  {pair:13} {len(values):4} token counts: {middle:+.3f} ({low:+.3f} to {high:+.3f})")
    print(f"{LEVEL:.0%} of {len(absolute):,} absolute errors are below {quantile:.3f}")
    print(f"kvpred widens a transferred interval by {TRANSFER_LOG_ERROR}")
    if arguments.json:
        found = {"level": LEVEL, "points": len(absolute), "quantile": quantile, "used": TRANSFER_LOG_ERROR}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
