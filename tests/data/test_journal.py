"""The journal keeps every point that was finished, whatever a killed process left behind it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvpred.data.journal import FILE, Journal
from kvpred.errors import DataError, UsageError

HEADER = {"model": "tiny", "grid": {"repeats": 4, "prefill": None}, "versions": {"torch": "2.13"}}
POINTS = [{"method": "fp16", "bsz": bsz, "timing": {"step": [0.1 * bsz]}} for bsz in (1, 2, 4)]


def _write(folder: Path) -> bytes:
    journal = Journal(folder, HEADER)
    for point in POINTS:
        journal.add(point)
    return (folder / FILE).read_bytes()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What a sweep of three points writes."""
    return _write(tmp_path_factory.mktemp("written"))


def test_points_come_back_in_their_order(tmp_path: Path) -> None:
    _write(tmp_path / "sweep")
    assert Journal(tmp_path / "sweep", HEADER).points == POINTS


def test_nothing_is_written_before_the_first_point(tmp_path: Path) -> None:
    Journal(tmp_path / "sweep", HEADER)
    assert list(tmp_path.iterdir()) == []


def test_reading_changes_no_byte(tmp_path: Path) -> None:
    written = _write(tmp_path)[:-5]
    (tmp_path / FILE).write_bytes(written)
    Journal(tmp_path, HEADER)
    assert (tmp_path / FILE).read_bytes() == written


def test_a_point_is_on_disk_when_add_returns(tmp_path: Path) -> None:
    journal = Journal(tmp_path, HEADER)
    for count, point in enumerate(POINTS, start=1):
        journal.add(point)
        assert Journal(tmp_path, HEADER).points == POINTS[:count]


def test_appended_points_are_synced_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def counted(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    journal = Journal(tmp_path, HEADER)
    monkeypatch.setattr(os, "fsync", counted)
    sizes = []
    for point in POINTS:
        journal.add(point)
        sizes.append((tmp_path / FILE).stat().st_size)
    assert [size for size in sizes if size not in synced] == []


@settings(max_examples=40)
@given(data=st.data())
def test_whatever_byte_a_killed_process_reached_all_whole_points_are_kept(
    tmp_path_factory: pytest.TempPathFactory, written: bytes, data: st.DataObject
) -> None:
    torn = written[: data.draw(st.integers(min_value=0, max_value=len(written)))]
    whole = max(torn.count(b"\n") - 1, 0)
    folder = tmp_path_factory.mktemp("torn")
    (folder / FILE).write_bytes(torn)

    journal = Journal(folder, HEADER)
    assert journal.points[:whole] == POINTS[:whole]
    assert len(journal.points) <= whole + 1  # the line that lacks nothing but its end is whole, too
    journal.add(POINTS[0])
    assert Journal(folder, HEADER).points == [*journal.points]


def test_noughts_that_a_lost_power_supply_left_are_dropped(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(_write(tmp_path) + bytes(64))
    assert Journal(tmp_path, HEADER).points == POINTS


@pytest.mark.parametrize("line", ['{"method": "fp', "[1, 2]", "17", "\xff"])
def test_a_journal_damaged_before_its_last_line_is_refused(tmp_path: Path, line: str) -> None:
    lines = _write(tmp_path).split(b"\n")
    lines[2] = line.encode("latin-1")
    (tmp_path / FILE).write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match=r"sweep\.jsonl, line 3: not ") as caught:
        Journal(tmp_path, HEADER)
    assert caught.value.row == 3


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"versions": {"torch": "2.14"}}, 'versions.torch was "2.13", now "2.14"'),
        ({"grid": {"repeats": 4, "prefill": {"bsz": [1]}}}, 'grid.prefill was not there, now {"bsz": [1]}'),
        ({"seed": 1}, "seed was not there, now 1"),
        (
            {"model": "other", "versions": {}},
            'model was "tiny", now "other"; versions.torch was "2.13", now not there',
        ),
    ],
)
def test_another_sweeps_journal_is_refused_with_every_difference(
    tmp_path: Path, changed: dict[str, object], difference: str
) -> None:
    _write(tmp_path)
    with pytest.raises(UsageError) as caught:
        Journal(tmp_path, HEADER | changed)
    assert f"holds another sweep ({difference}): choose another --output" in str(caught.value)


def test_a_full_disk_loses_no_finished_point(tmp_path: Path) -> None:
    size = len(_write(tmp_path))
    code = (
        "import json, resource, sys; from pathlib import Path\n"
        "from kvpred.errors import UsageError; from kvpred.data.journal import Journal\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size} + 20, {size} + 20))\n"
        "folder, header, point = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])\n"
        "try: Journal(folder, header).add(point)\n"
        "except UsageError as error: print(error)\n"
    )
    arguments = (str(tmp_path), json.dumps(HEADER), json.dumps(POINTS[0]))
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"cannot write {tmp_path / FILE}: File too large\n"
    assert Journal(tmp_path, HEADER).points == POINTS
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
