import os

from kvpred.hardware import cuda_device, detect_host, get_device


def test_this_hosts_processor_has_cores_and_memory_but_no_guessed_rates() -> None:
    cpu = get_device("host-cpu")
    assert 1 <= cpu.cores <= os.cpu_count()
    assert 0 < cpu.memory_bytes <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert (cpu.memory_bandwidth_bytes_s, cpu.peak_flops_16bit) == (None, None)
    assert "without measuring" in cpu.source


def test_the_host_lists_its_processor_first() -> None:
    cpu, *others = detect_host()
    assert cpu == get_device("host-cpu")
    assert [device.name for device in others] == [f"host-cuda-{i}" for i in range(len(others))]


def test_a_known_card_takes_its_rates_from_the_catalogue_and_its_memory_from_the_driver() -> None:
    found = cuda_device(1, title="NVIDIA H100 80GB HBM3", memory_bytes=84_000_000_000)
    assert found.name == "host-cuda-1"
    assert found.memory_bytes == 84_000_000_000
    assert found.memory_bandwidth_bytes_s == get_device("h100").memory_bandwidth_bytes_s


def test_an_unknown_card_has_no_guessed_rates() -> None:
    found = cuda_device(0, title="NVIDIA Tesla K80", memory_bytes=12_000_000_000)
    assert (found.memory_bandwidth_bytes_s, found.peak_flops_16bit, found.link) == (None, None, None)
