import pytest

from kvpred.errors import UsageError
from kvpred.hardware import get_device, list_devices


def test_the_devices_of_the_datasheets_are_listed() -> None:
    assert [device.name for device in list_devices()] == [
        "a6000", "a40", "a100-40gb", "a100-80gb", "h100", "h100-pcie", "h200", "l40s", "rtx-4090",
        "arc-pro-b70",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "gb_s", "dense_tflops"),
    [
        ("a6000", 768, 154.8),
        ("a40", 696, 149.7),
        ("h100", 3350, 989.4),
        ("h100-pcie", 2000, 756.5),
        ("rtx-4090", 1008, 165.2),
    ],
)
def test_rates_are_those_of_the_datasheet(name: str, gb_s: float, dense_tflops: float) -> None:
    device = get_device(name)
    assert device.memory_bandwidth_bytes_s == gb_s * 1e9
    assert device.peak_flops_16bit == pytest.approx(dense_tflops * 1e12)


def test_links_count_one_direction() -> None:
    assert get_device("a6000").link.bandwidth_bytes_s == 56.25e9
    assert get_device("h100").link.bandwidth_bytes_s == 450e9


@pytest.mark.parametrize("device", list_devices(), ids=lambda d: d.name)
def test_the_drivers_total_is_within_the_cards_memory(device) -> None:
    # From the number in each source: the driver holds back at most a few per cent, for ECC most.
    advertised = {
        "a6000": 48,
        "a40": 48,
        "a100-40gb": 40,
        "a100-80gb": 80,
        "h100": 80,
        "h100-pcie": 80,
        "h200": 141,
        "l40s": 48,
        "arc-pro-b70": 32,
    }
    gib = advertised.get(device.name, 24)
    assert 0.93 * gib * 2**30 < device.memory_bytes <= gib * 2**30
    assert device.source


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("A6000", "a6000"),
        ("RTX A6000", "a6000"),
        ("a100", "a100-80gb"),
        ("RTX_4090", "rtx-4090"),
        ("4090", "rtx-4090"),
    ],
)
def test_a_device_is_found_under_its_names(spelling: str, name: str) -> None:
    assert get_device(spelling).name == name


def test_an_unknown_device_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'a600' is not known\. Did you mean a6000\?") as error:
        get_device("a600")
    assert "path of a TOML device file" in str(error.value)
