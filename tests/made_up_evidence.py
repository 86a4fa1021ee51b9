"""Published measurements that nobody made, for tests."""

from __future__ import annotations

from typing import Any

from kvpred.data.evidence import Evidence


def make_evidence(**given: Any) -> Evidence:
    """Return a row of the packaged predictor's own place, with what is given."""
    usual: dict[str, Any] = {
        "stage": "decode", "method": "kv-fp8", "published_method": "fp8", "engine": "lmdeploy", "version": "",
        "device": "a6000", "model": "llama-2-7b", "weights": "fp16", "tp": 1, "bsz": 8, "prompt_len": 2048,
        "output_len": 256, "approximate": False, "metric": "tpot_ms", "baseline_value": 20.0,
        "compressed_value": 16.0, "ratio_better": 1.25, "quality": "B", "date": "2026-01-01",
        "source_url": "https://example.com/a",
    }  # fmt: skip
    return Evidence(**(usual | given))
