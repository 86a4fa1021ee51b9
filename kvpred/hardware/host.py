"""Find out what this host offers: its processor and, where torch is installed, its CUDA devices."""

from __future__ import annotations

import importlib
import importlib.util
import os
from dataclasses import replace
from pathlib import Path

from kvpred.hardware.catalogue import CATALOGUE
from kvpred.hardware.spec import DeviceSpec

HOST_CPU = "host-cpu"
"""The name under which `get_device` finds this host's processor."""

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_CPUINFO = Path("/proc/cpuinfo")


def detect_host() -> tuple[DeviceSpec, ...]:
    """List this host's processor and CUDA devices.

    Returns
    -------
    tuple of DeviceSpec
        ``host-cpu`` first, whose bandwidth and FLOPs are None because no system interface tells them (measure
        operators on it instead); then ``host-cuda-0`` and so on if torch is installed and sees any, with the
        driver's memory total, and the data sheet's rates where the catalogue knows the card.
    """
    return (detect_cpu(), *_detect_cuda())


def detect_cpu() -> DeviceSpec:
    """Describe this host's processor: cores this process may use, and memory it may fill.

    Examples
    --------
    >>> detect_cpu().memory_bandwidth_bytes_s is None
    True
    """
    return DeviceSpec(
        name=HOST_CPU,
        title=_cpu_title(),
        memory_bytes=_usable_memory_bytes(),
        memory_bandwidth_bytes_s=None,
        peak_flops_16bit=None,
        link=None,
        source="this host's operating system; bandwidth and FLOPs are not known without measuring",
        cores=usable_cores(),
    )


def usable_cores() -> int:
    """Return how many of the processor's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _usable_memory_bytes() -> int:
    """Physical memory, or the container's limit where that is lower."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CGROUP_LIMIT.read_text(encoding="ascii").strip() if _CGROUP_LIMIT.is_file() else "max"
    return min(physical, int(limit)) if limit.isdigit() else physical


def _cpu_title() -> str:
    if _CPUINFO.is_file():
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "CPU"


def _detect_cuda() -> list[DeviceSpec]:
    if importlib.util.find_spec("torch") is None:
        return []
    torch = importlib.import_module("torch")
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(cuda_device(index, title=properties.name, memory_bytes=properties.total_memory))
    return found


def cuda_device(index: int, *, title: str, memory_bytes: int) -> DeviceSpec:
    """Describe a CUDA device from what its driver says, completed from the catalogue where it knows the card.

    Parameters
    ----------
    index : int
        The device's number.
    title : str
        Its name as the driver gives it.
    memory_bytes : int
        Its total memory as the driver gives it.

    Examples
    --------
    >>> cuda_device(0, title="NVIDIA RTX A6000", memory_bytes=50_000_000_000).memory_bandwidth_bytes_s
    768000000000.0
    """
    name = f"host-cuda-{index}"
    for spec in CATALOGUE.values():
        if spec.title == title:
            return replace(spec, name=name, memory_bytes=memory_bytes)
    return DeviceSpec(
        name=name,
        title=title,
        memory_bytes=memory_bytes,
        memory_bandwidth_bytes_s=None,
        peak_flops_16bit=None,
        link=None,
        source="this host's driver; bandwidth and FLOPs are not known without measuring",
    )
