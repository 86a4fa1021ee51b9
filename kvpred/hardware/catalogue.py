"""The devices that kvpred knows by name, every number with its data sheet.

Memory is the total that ``nvidia-smi`` prints (R525 drivers and later; ECC as shipped). Link latencies are
NCCL's own tuning constants for one hop of a ring with the LL protocol, 0.6 µs over NVLink and 1.0 µs over
PCIe (NVIDIA/nccl, ``src/graph/tuning.cc``).
"""

from __future__ import annotations

from kvpred.hardware.spec import DeviceSpec, LinkSpec

MIB = 2**20

# Per direction: half of the data sheets' bidirectional totals.
_NVLINK_BRIDGE = LinkSpec("nvlink3-bridge", bandwidth_bytes_s=112.5e9 / 2, latency_s=0.6e-6)
_NVLINK3 = LinkSpec("nvlink3", bandwidth_bytes_s=600e9 / 2, latency_s=0.6e-6)
_NVLINK4 = LinkSpec("nvlink4", bandwidth_bytes_s=900e9 / 2, latency_s=0.6e-6)
_PCIE4 = LinkSpec("pcie4-x16", bandwidth_bytes_s=64e9 / 2, latency_s=1.0e-6)

_SPECS = (
    DeviceSpec(
        name="a6000",
        title="NVIDIA RTX A6000",
        memory_bytes=49140 * MIB,
        memory_bandwidth_bytes_s=768e9,
        peak_flops_16bit=154.8e12,
        link=_NVLINK_BRIDGE,
        source="NVIDIA RTX A6000 datasheet (48 GB, 768 GB/s, NVLink 112.5 GB/s bidirectional, 309.7 tensor "
        "TFLOPS with sparsity; dense is half, as in the NVIDIA Ampere GA102 whitepaper)",
    ),
    DeviceSpec(
        name="a40",
        title="NVIDIA A40",
        memory_bytes=46068 * MIB,
        memory_bandwidth_bytes_s=696e9,
        peak_flops_16bit=149.7e12,
        link=_NVLINK_BRIDGE,
        source="NVIDIA A40 datasheet (48 GB with ECC, 696 GB/s, 149.7 dense FP16 tensor TFLOPS, NVLink "
        "112.5 GB/s)",
    ),
    DeviceSpec(
        name="a100-40gb",
        title="NVIDIA A100-SXM4-40GB",
        memory_bytes=40960 * MIB,
        memory_bandwidth_bytes_s=1555e9,
        peak_flops_16bit=312e12,
        link=_NVLINK3,
        source="NVIDIA A100 datasheet, SXM 40 GB (1,555 GB/s, 312 dense FP16 TFLOPS, NVLink 600 GB/s)",
    ),
    DeviceSpec(
        name="a100-80gb",
        title="NVIDIA A100-SXM4-80GB",
        memory_bytes=81920 * MIB,
        memory_bandwidth_bytes_s=2039e9,
        peak_flops_16bit=312e12,
        link=_NVLINK3,
        source="NVIDIA A100 datasheet, SXM 80 GB (2,039 GB/s, 312 dense FP16 TFLOPS, NVLink 600 GB/s)",
    ),
    DeviceSpec(
        name="h100",
        title="NVIDIA H100 80GB HBM3",
        memory_bytes=81559 * MIB,
        memory_bandwidth_bytes_s=3.35e12,
        peak_flops_16bit=989.4e12,
        link=_NVLINK4,
        source="NVIDIA H100 datasheet, SXM5 (3.35 TB/s, NVLink 900 GB/s); 989.4 dense FP16 TFLOPS: NVIDIA "
        "H100 architecture whitepaper",
    ),
    DeviceSpec(
        name="h100-pcie",
        title="NVIDIA H100 PCIe",
        memory_bytes=81559 * MIB,
        memory_bandwidth_bytes_s=2.0e12,
        peak_flops_16bit=756.5e12,
        link=None,
        source="NVIDIA H100 datasheet, PCIe (80 GB HBM2e, 2 TB/s, 1,513 FP16 TFLOPS with sparsity)",
    ),
    DeviceSpec(
        name="h200",
        title="NVIDIA H200",
        memory_bytes=143771 * MIB,
        memory_bandwidth_bytes_s=4.8e12,
        peak_flops_16bit=989.4e12,
        link=_NVLINK4,
        source="NVIDIA H200 datasheet, SXM5 (141 GB, 4.8 TB/s, NVLink 900 GB/s; FP16 as the H100 SXM5)",
    ),
    DeviceSpec(
        name="l40s",
        title="NVIDIA L40S",
        memory_bytes=46068 * MIB,
        memory_bandwidth_bytes_s=864e9,
        peak_flops_16bit=362.05e12,
        link=_PCIE4,
        source="NVIDIA L40S datasheet (48 GB with ECC, 864 GB/s, 362.05 dense FP16 TFLOPS, PCIe 4.0 x16 "
        "64 GB/s)",
    ),
    DeviceSpec(
        name="rtx-4090",
        title="NVIDIA GeForce RTX 4090",
        memory_bytes=24564 * MIB,
        memory_bandwidth_bytes_s=1008e9,
        peak_flops_16bit=165.2e12,
        link=_PCIE4,
        source="NVIDIA Ada GPU architecture whitepaper (24 GB, 1,008 GB/s, 165.2 dense FP16 TFLOPS with FP32 "
        "accumulation; 330.3 with FP16 accumulation, which attention kernels do not use), PCIe 4.0 x16",
    ),
    DeviceSpec(
        name="arc-pro-b70",
        title="Intel Arc Pro B70",
        memory_bytes=32 * 1024 * MIB,
        memory_bandwidth_bytes_s=608e9,
        peak_flops_16bit=183.5e12,
        link=None,
        source="Intel Arc Pro B70 product page (32 GB, 608 GB/s, 367 INT8 TOPS, of which 16 bit is half)",
    ),
)

CATALOGUE: dict[str, DeviceSpec] = {spec.name: spec for spec in _SPECS}
"""Devices by name."""

ALIASES: dict[str, str] = {
    "rtx-a6000": "a6000",
    "a100": "a100-80gb",
    "a100-40": "a100-40gb",
    "a100-80": "a100-80gb",
    "h100-sxm": "h100",
    "h100-80gb": "h100",
    "h200-sxm": "h200",
    "4090": "rtx-4090",
    "rtx4090": "rtx-4090",
    "intel-arc-pro-b70": "arc-pro-b70",
}
"""Other spellings, each with its catalogue name."""
