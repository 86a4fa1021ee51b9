from __future__ import annotations

from pathlib import Path

import pytest

from kvpred.data.collectives import read_collectives
from kvpred.errors import DataError

HEADER = "num_workers,devices_per_node,size,collective,time_stats.all_reduce.median"


def test_collectives_are_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "all_reduce.csv").write_text(f"{HEADER}\n2,2,2048,all_reduce,0.043\n")
    times = read_collectives(tmp_path)["all_reduce"]
    assert (times.num_workers[0], times.size_bytes[0], times.median_ms[0]) == (2, 2048, 0.043)


def test_the_devices_of_one_node_count(tmp_path: Path) -> None:
    rows = ["4,4,2048,all_reduce,0.02", "4,4,1024,all_reduce,0.01"]
    others = ["4,2,2048,all_reduce,9", "2,2,2048,all_reduce,8"]
    (tmp_path / "all_reduce.csv").write_text("\n".join([HEADER, *rows, *others]))
    times = read_collectives(tmp_path)["all_reduce"]
    sizes, ms = times.among(4)
    assert (sizes.tolist(), ms.tolist()) == ([2048, 1024], [0.02, 0.01])
    assert [len(part) for part in times.among(8)] == [0, 0]


@pytest.mark.parametrize(
    "row", ["2,2,2048,send_recv,0.1", "2,2,0,all_reduce,0.1", "2,2,8,all_reduce,0", "2,2,8,all_reduce,"]
)
def test_bad_row_is_named(tmp_path: Path, row: str) -> None:
    (tmp_path / "all_reduce.csv").write_text(f"{HEADER}\n{row}\n")
    with pytest.raises(DataError) as caught:
        read_collectives(tmp_path)
    assert caught.value.row == 2


def test_folder_without_collectives_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither all_reduce nor send_recv"):
        read_collectives(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        read_collectives(tmp_path / "nowhere")
