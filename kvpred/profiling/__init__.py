"""Operators timed in place, on grids, in sweeps that can be interrupted.

Needs the extra ``profile`` (torch, transformers).
"""
