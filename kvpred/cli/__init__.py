"""The command line: parse, call one public function, render."""

from __future__ import annotations

import sys

from kvpred.cli.app import run, whole_app

__all__ = ["main", "run", "whole_app"]


def main() -> None:
    """Run ``kvpred``, the console script."""
    sys.exit(run())
