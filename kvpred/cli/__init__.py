"""The command line: parse, call one public function, render."""

from __future__ import annotations

import sys

from kvpred.cli import exchange, judge, know, learn, predict
from kvpred.cli.app import app, run

__all__ = ["app", "exchange", "judge", "know", "learn", "main", "predict", "run"]


def main() -> None:
    """Run ``kvpred``, the console script."""
    sys.exit(run())
