from pathlib import Path

import pytest

from kvpred.errors import DataError
from kvpred.hardware import DeviceSpec, LinkSpec, get_device

WHOLE = """
name = "b300"
title = "My B300"
memory_bytes = 288_000_000_000
memory_bandwidth_bytes_s = 8e12
peak_flops_16bit = 2.5e15
source = "its data sheet"

[link]
name = "nvlink5"
bandwidth_bytes_s = 9e11
latency_s = 1e-6
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mine.toml"


def test_a_device_file_reads_as_written(file: Path) -> None:
    file.write_text(WHOLE)
    device = get_device(str(file))
    assert device.source == "its data sheet"
    assert device == DeviceSpec(
        name="b300",
        title="My B300",
        memory_bytes=288_000_000_000,
        memory_bandwidth_bytes_s=8e12,
        peak_flops_16bit=2.5e15,
        link=LinkSpec("nvlink5", 9e11, 1e-6),
        source="its data sheet",
    )


def test_name_and_memory_are_enough_and_the_rest_is_unknown(file: Path) -> None:
    file.write_text('name = "box"\nmemory_bytes = 1000')
    device = get_device(file)
    assert (device.memory_bandwidth_bytes_s, device.peak_flops_16bit, device.link) == (None, None, None)
    assert (device.title, device.source) == ("box", str(file))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('name = "x"', "column 'memory_bytes': is missing."),
        ('name = ""\nmemory_bytes = 1', "column 'name'"),
        ('name = "x"\nmemory_bytes = "48 GB"', "column 'memory_bytes', value \"'48 GB'\""),
        ('name = "x"\nmemory_bytes = -1', "column 'memory_bytes', value '-1'"),
        ('name = "x"\nmemory_bytes = 1\nmemory_bandwidth_bytes_s = nan', "column 'memory_bandwidth_bytes_s'"),
        ('name = "x"\nmemory_bytes = 1\npeak_flops_16bit = inf', "column 'peak_flops_16bit'"),
        (
            'name = "x"\nmemory_bytes = 1\nbandwidth = 2.0',
            "'bandwidth', value '2.0': is not a field of a device",
        ),
        ('name = "x"\nmemory_bytes = 1\n[link]\nname = "y"', "column 'link.bandwidth_bytes_s': is missing."),
        ("name = ", "is not TOML"),
        ("", "column 'name': is missing."),
    ],
)
def test_a_broken_device_file_says_where(file: Path, content: str, complaint: str) -> None:
    file.write_text(content)
    with pytest.raises(DataError) as error:
        get_device(file)
    assert str(error.value).startswith(str(file))
    assert complaint in str(error.value)


def test_binary_and_missing_device_files_are_named(file: Path) -> None:
    with pytest.raises(DataError, match=r"mine\.toml: cannot be read"):
        get_device(file)
    file.write_bytes("name = 'x'".encode("utf-16"))
    with pytest.raises(DataError, match="is not UTF-8 text"):
        get_device(file)


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "9" * 5_000], ids=["deep", "long"])
def test_a_device_file_that_no_parser_takes_is_bad_data(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=r"mine\.toml"):
        get_device(path)


def test_a_copy_elsewhere_is_the_same_device_and_another_number_is_not(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.toml"
    file.write_text('name = "box"\nmemory_bytes = 1000')
    copy.write_text(file.read_text())
    assert get_device(copy) == get_device(file)
    copy.write_text(file.read_text() + "0")
    assert get_device(copy) != get_device(file)


def test_a_byte_order_mark_is_passed_over(file: Path) -> None:
    file.write_text("\ufeff" + WHOLE)
    assert get_device(file).name == "b300"
