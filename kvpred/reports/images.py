"""Figures as PNG files, drawn by a Chrome browser if the machine has one."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from kvpred.reports.figures import Figure

_SECONDS_PER_IMAGE = 60


def write_images(figures: Sequence[Figure], folder: Path) -> str | None:
    """Write one PNG per figure, with its own size at twice the resolution.

    Kaleido finds Chrome or Chromium by itself, or where ``BROWSER_PATH`` points.

    Returns
    -------
    str or None
        Why there are no images, in one line; None if there are.
    """
    if find_spec("kaleido") is None:
        return "no PNG files: kaleido is not installed (pip install 'kvpred[report]' brings it)"
    kaleido, errors = import_module("kaleido"), import_module("kaleido.errors")
    jobs = [
        {
            "fig": figure.plot,
            "path": folder / f"{figure.name}.png",
            "opts": {
                "format": "png",
                "width": figure.plot.layout.width,
                "height": figure.plot.layout.height,
                "scale": 2,
            },
        }
        for figure in figures
    ]
    try:
        kaleido.write_fig_from_object_sync(jobs, kopts={"mathjax": False, "timeout": _SECONDS_PER_IMAGE})
    except errors.ChromeNotFoundError:
        return "no PNG files: no Chrome found (`kaleido_get_chrome` installs one; BROWSER_PATH can name one)"
    except (errors.BrowserFailedError, errors.BrowserClosedError, errors.KaleidoError, TimeoutError) as error:
        for figure in figures:
            (folder / f"{figure.name}.png").unlink(missing_ok=True)
        return f"no PNG files: the browser failed ({type(error).__name__}); BROWSER_PATH can name another"
    return None
