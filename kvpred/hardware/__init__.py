"""Where a model runs: devices, links, engines' memory facts, and what this host offers."""

from __future__ import annotations

from pathlib import Path

from kvpred.errors import unknown_name
from kvpred.hardware.catalogue import ALIASES, CATALOGUE
from kvpred.hardware.engine_specs import (
    DEFAULT_RESERVE_BYTES,
    EngineSpec,
    get_engine_spec,
    list_engine_specs,
    measured_engine,
)
from kvpred.hardware.host import HOST_CPU, cuda_device, detect_cpu, detect_host
from kvpred.hardware.spec import DeviceSpec, LinkSpec

__all__ = [
    "DEFAULT_RESERVE_BYTES",
    "DeviceSpec",
    "EngineSpec",
    "LinkSpec",
    "cuda_device",
    "detect_cpu",
    "detect_host",
    "get_device",
    "get_engine_spec",
    "list_devices",
    "list_engine_specs",
    "measured_engine",
]


def list_devices() -> list[DeviceSpec]:
    """List the devices of the catalogue."""
    return list(CATALOGUE.values())


def get_device(name_or_path: str | Path) -> DeviceSpec:
    """Find a device by its name or by the path of a device file.

    Parameters
    ----------
    name_or_path : str or Path
        A catalogue name or alias such as ``a6000`` or ``a100`` (upper and lower case alike), ``host-cpu`` for
        this host's processor, or the path of a TOML file (see `kvpred.hardware.device_file.read_device`).

    Returns
    -------
    DeviceSpec
        The device.

    Raises
    ------
    UsageError
        If the name is unknown.
    DataError
        If the file is broken.

    Examples
    --------
    >>> get_device("a100").name
    'a100-80gb'
    """
    if Path(name_or_path).suffix == ".toml":
        from kvpred.hardware.device_file import read_device  # pydantic: only where a file is read

        return read_device(Path(name_or_path))
    key = str(name_or_path).strip().lower().replace("_", "-").replace(" ", "-")
    key = ALIASES.get(key, key)
    if key in CATALOGUE:
        return CATALOGUE[key]
    if key == HOST_CPU:
        return detect_cpu()
    raise unknown_name(
        "device",
        name_or_path,
        [*CATALOGUE, HOST_CPU],
        spellings={name: name for name in (*CATALOGUE, *ALIASES)},
        otherwise="; for any other give the path of a TOML device file",
    )
