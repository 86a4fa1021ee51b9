"""Whatever bytes a reader is given, it returns data or raises an error of ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kvpred.data.collectives import read_collectives
from kvpred.data.files import read_table
from kvpred.data.profiles import (
    Columns,
    Manifest,
    Profile,
    format_profile_table,
    read_manifest,
    read_profile_table,
)
from kvpred.data.runs import Run, read_runs, write_runs
from kvpred.data.sites import pool_sites, read_site_table, write_site_table
from kvpred.errors import DataError, UsageError

Reader = Callable[[Path], object]


def read_and_pool(path: Path) -> object:
    return pool_sites(read_runs(path))


def read_published(path: Path) -> object:
    return pool_sites(read_runs(path, model="m", device="d", engine="e", pool_labels=True))


# Each reader with the name that its file must have.
READERS: dict[str, tuple[str, Reader]] = {
    "table": ("table.csv", read_table),
    "runs": ("runs.csv", read_and_pool),
    "published": ("published.csv", read_published),
    "sites": ("sites.csv", read_site_table),
    "attention": ("attention.csv", read_profile_table),
    "mlp": ("mlp.csv", read_profile_table),
    "steps": ("steps.csv", read_profile_table),
    "manifest": ("manifest.json", read_manifest),
    "collectives": ("all_reduce.csv", lambda path: read_collectives(path.parent)),
}

cells = st.sampled_from(
    [
        "",
        "nan",
        "-inf",
        "1e400",
        "-0",
        "9" * 40,
        "1_0",
        '"',
        ",",
        "\r",
        "\n",
        "\0",
        "\ufeff",
        "٣",
        "True",
        "0x1",
        " 1 ",
        "1e-320",
    ]
)
chunks = st.binary(max_size=20) | cells.map(str.encode)


@st.composite
def damage(draw: st.DrawFn, content: bytes) -> bytes:
    """Replace up to three stretches of a valid file."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        length = draw(st.integers(0, 12))
        content = content[:start] + draw(chunks) + content[start + length :]
    return content


@pytest.fixture
def valid(
    tmp_path: Path, small_profile: Profile, small_steps: Columns, runs_csv: Path, published_csv: Path
) -> dict[str, bytes]:
    """Content that each reader accepts."""
    facts = {"model": "m", "method": "fp16", "engine": "e", "device": "d", "bsz": 1, "prompt_len": 8}
    run = Run.model_validate(facts | {"stage": "decode", "throughput_tok_s": 3.5})
    write_runs(tmp_path / "tidy.csv", [run, run])
    write_site_table(tmp_path / "pooled.csv", pool_sites([run, run]))
    manifest = Manifest(model="m", device="d", method="fp16", method_params="fp16")
    return {
        "table": runs_csv.read_bytes(),
        "runs": (tmp_path / "tidy.csv").read_bytes(),
        "published": published_csv.read_bytes(),
        "sites": (tmp_path / "pooled.csv").read_bytes(),
        "attention": format_profile_table(small_profile.attention).encode(),
        "mlp": format_profile_table(small_profile.mlp).encode(),
        "steps": format_profile_table(small_steps).encode(),
        "manifest": manifest.model_dump_json().encode(),
        "collectives": (
            b"num_workers,devices_per_node,size,collective,time_stats.all_reduce.median\n2,2,8,all_reduce,1\n"
        ),
    }


def survives(folder: Path, name: str, content: bytes) -> bool:
    """Whether a reader accepts the content; any error but ours fails the test."""
    file, reader = READERS[name]
    folder.mkdir(exist_ok=True)
    (folder / file).write_bytes(content)
    try:
        reader(folder / file)
    except (DataError, UsageError):
        return False
    return True


@pytest.mark.parametrize("name", READERS)
def test_valid_content_is_accepted(tmp_path: Path, valid: dict[str, bytes], name: str) -> None:
    assert survives(tmp_path / "fuzz", name, valid[name])


@pytest.mark.parametrize("name", READERS)
@given(content=st.binary(max_size=200))
@example(content=b"thr\n1\n")
@example(content=b"\r")
@example(content=b'"')
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_arbitrary_bytes_are_refused_in_our_words(tmp_path: Path, name: str, content: bytes) -> None:
    # Of bytes this short only the untyped table can be a valid one.
    assert not survives(tmp_path / "fuzz", name, content) or name == "table"


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=120)
def test_damaged_files_never_crash_a_reader(
    tmp_path: Path, valid: dict[str, bytes], name: str, data: st.DataObject
) -> None:
    survives(tmp_path / "fuzz", name, data.draw(damage(valid[name])))
