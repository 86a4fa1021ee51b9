"""What a model runs on: the numbers of a device that bound bytes and FLOPs per second."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """The wire between two devices of one host.

    Parameters
    ----------
    name : str
        Such as ``nvlink3`` or ``pcie4-x16``.
    bandwidth_bytes_s : float
        Bytes per second in one direction, per device.
    latency_s : float
        Seconds that one hop of a small message takes, without the start-up of the collective.
    """

    name: str
    bandwidth_bytes_s: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """One accelerator or host processor.

    Two are equal if their names and numbers are, wherever these come from.

    Parameters
    ----------
    name : str
        Name used on the command line, such as ``a6000``.
    title : str
        The maker's name of it.
    memory_bytes : int
        Total memory as the driver reports it.
    memory_bandwidth_bytes_s : float or None
        Peak memory bandwidth of the data sheet; None if unknown.
    peak_flops_16bit : float or None
        Dense 16-bit matrix FLOPs per second with FP32 accumulation, no sparsity; None if unknown.
    link : LinkSpec or None
        The fastest wire to its neighbours; None if there is none or it is unknown.
    source : str
        Where the numbers come from.
    cores : int or None
        Processor cores this process may use; None for accelerators.
    """

    name: str
    title: str
    memory_bytes: int
    memory_bandwidth_bytes_s: float | None
    peak_flops_16bit: float | None
    link: LinkSpec | None
    source: str = field(compare=False)
    cores: int | None = None
