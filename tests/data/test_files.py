from __future__ import annotations

from pathlib import Path

import pytest

from kvpred.data.files import format_table, read_table, remove_drafts, replaced_folder, write_text
from kvpred.errors import DataError, UsageError


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (b"a,b\n", "only a header"),
        (b"a;b\n1;2\n", "delimiter"),
        (b"a\tb\n1\t2\n", "delimiter"),
        ("a,b\n1,2\n".encode("utf-16"), "UTF-16's byte order mark"),
        (b"\xef\xbb\xbf \n", "empty"),
        ("a,b\n1,2\n".encode("utf-16-le"), "binary"),
        (b"a,b\n1,\0\n", "binary"),
        (b"a,b\n1,\xff\n", "line 2: not UTF-8"),
        (b"a,b,a\n1,2,3\n", "twice: 'a'"),
        (b"a,b\n1,2\n1\n", "line 3: 1 cells, the header has 2"),
        (b'a,b\n1,"2\n', "not a CSV table"),
        (b"a,b\n1," + b"x" * 200_000 + b"\n", "not a CSV table"),
    ],
)
def test_broken_table_is_refused_with_file_and_reason(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_table(path)
    assert str(path) in str(caught.value)


def test_the_mark_that_spreadsheets_begin_with_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"\xef\xbb\xbfa,b\n1,2\n")
    assert read_table(path).columns == {"a": ("1",), "b": ("2",)}


def test_missing_file_and_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="this is a folder"):
        read_table(tmp_path)


def test_name_too_long_for_a_file_is_refused() -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_table("x" * 5000)


def test_all_missing_columns_are_named_at_once(tmp_path: Path) -> None:
    write_text(tmp_path / "t.csv", "a\n1\n")
    with pytest.raises(DataError, match="missing columns b, c; the header has a"):
        read_table(tmp_path / "t.csv").require(["a", "b", "c"])


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    write_text(tmp_path / "t.csv", 'a,b\n1,"two\nlines"\n\n3,x\n')
    assert read_table(tmp_path / "t.csv").lines == (3, 5)


@pytest.mark.parametrize("cell", ["-1", "nan", "inf", "ten", "1_000", "١"])
def test_bad_number_is_named_with_line_column_and_value(tmp_path: Path, cell: str) -> None:
    write_text(tmp_path / "t.csv", f"a,b\n1,2\n3,{cell}\n")
    with pytest.raises(DataError, match="expected a") as caught:
        read_table(tmp_path / "t.csv").floats("b")
    assert (caught.value.row, caught.value.column, caught.value.value) == (3, "b", cell)


@pytest.mark.parametrize("cell", ["1.5", "", "0", "1e300"])
def test_whole_numbers_are_whole_and_within_bounds(tmp_path: Path, cell: str) -> None:
    write_text(tmp_path / "t.csv", f"a,b\n1,{cell}\n")
    with pytest.raises(DataError, match="whole number of at least 1"):
        read_table(tmp_path / "t.csv").integers("b", minimum=1)


def test_empty_cells_stand_for_none_and_nan() -> None:
    assert format_table(["a", "b", "c"], [(None, float("nan"), 0.1)]) == "a,b,c\n,,0.1\n"


def test_writing_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "t.csv"
    write_text(path, "old")
    write_text(path, "new")
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \udc80")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_under_a_file_is_a_usage_error(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "x")
    with pytest.raises(UsageError, match="cannot write"):
        write_text(tmp_path / "file" / "t.csv", "x")
    with pytest.raises(UsageError, match="cannot write"), replaced_folder(tmp_path / "file" / "folder"):
        pass


def test_folder_is_replaced_only_when_filled_without_error(tmp_path: Path) -> None:
    folder = tmp_path / "profile"
    with replaced_folder(folder) as draft:
        (draft / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), replaced_folder(folder) as draft:
        (draft / "a").write_text("half")
        raise ZeroDivisionError
    assert (folder / "a").read_text() == "old"
    with replaced_folder(folder) as draft:
        (draft / "b").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["b"]
    assert list(tmp_path.iterdir()) == [folder]


def test_drafts_that_killed_processes_left_are_removed_and_nothing_else(tmp_path: Path) -> None:
    folder, other = tmp_path / "profile", tmp_path / ".other.0123abcd.tmp"
    kept = [folder / "t.csv", folder / ".t.csv.tmp", folder / ".hidden", other]
    drafts = [
        tmp_path / ".profile.0123abcd.tmp" / "t.csv",
        folder / ".t.csv.0123abcd.tmp",
        folder / "deep" / ".folder.89abcdef.tmp" / ".t.csv.0123abcd.tmp",
    ]
    for path in (*kept, *drafts):
        write_text(path, "x")
    remove_drafts(folder)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)
    assert not (tmp_path / ".profile.0123abcd.tmp").exists()
    remove_drafts(tmp_path / "nowhere")
