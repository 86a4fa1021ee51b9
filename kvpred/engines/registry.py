"""Find an engine's class by its name: a file of this folder, or another package's."""

from __future__ import annotations

import importlib

from kvpred.engines.base import Engine
from kvpred.errors import UsageError
from kvpred.hardware.engine_specs import get_engine_spec

ENTRY_POINTS = "kvpred.engines"

_CLASSES = {
    "transformers": "kvpred.engines.transformers:Transformers",
    "transformers-eager": "kvpred.engines.transformers:TransformersEager",
    "transformers-paged": "kvpred.engines.transformers_paged:TransformersPaged",
    "openvino": "kvpred.engines.openvino:OpenVINO",
    "llamacpp": "kvpred.engines.llamacpp:LlamaCpp",
    "openai": "kvpred.engines.openai:OpenAI",
}


def engine_names() -> list[str]:
    """List the engines that kvpred itself runs."""
    return list(_CLASSES)


def engine_class(name: str) -> type[Engine]:
    """Return an engine's class.

    Parameters
    ----------
    name : str
        As in `kvpred.hardware.engine_specs`, or of an entry point ``kvpred.engines``.

    Raises
    ------
    UsageError
        If the engine is unknown, or known by its memory alone.
    """
    from importlib.metadata import entry_points

    for entry in entry_points(group=ENTRY_POINTS, name=name):
        found: type[Engine] = entry.load()
        return found
    spec = get_engine_spec(name)
    if spec.name not in _CLASSES:
        raise UsageError(
            f"{spec.title} is not started by kvpred: start its server and measure it with --engine openai "
            f"--url. Engines that kvpred runs: {', '.join(_CLASSES)}."
        )
    module, _, attribute = _CLASSES[spec.name].partition(":")
    own: type[Engine] = getattr(importlib.import_module(module), attribute)
    return own
