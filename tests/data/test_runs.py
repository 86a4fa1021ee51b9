from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kvpred.data.runs import Run, read_runs, write_runs
from kvpred.errors import DataError, UsageError

FACTS = {"model": "llama-2-7b", "engine": "lmdeploy", "device": "a6000", "bsz": 4, "prompt_len": 512}


def run(**fields: object) -> Run:
    return Run.model_validate(
        FACTS | {"method": "fp16", "stage": "decode", "throughput_tok_s": 100.0} | fields
    )


def test_prefill_time_is_all_prompt_tokens_over_throughput() -> None:
    assert run(stage="prefill", throughput_tok_s=1024.0).time_s == 4 * 512 / 1024


def test_decode_step_is_one_token_per_sequence_over_throughput() -> None:
    assert run(throughput_tok_s=100.0).time_s == 4 / 100


def test_full_method_string_is_split() -> None:
    split = run(method="kivi:bits=2,group_size=64")
    assert (split.method, split.method_params) == ("kivi", "kivi:bits=2,group_size=64")


def test_a_methods_name_is_read_in_any_case_and_its_parameters_as_they_are() -> None:
    assert run(method="FP16").method_params == "fp16"
    split = run(method="KV_FP8", method_params="KV-FP8:kind=E4M3")
    assert (split.method, split.method_params) == ("kv-fp8", "kv-fp8:kind=E4M3")


def test_method_params_of_another_method_are_refused() -> None:
    with pytest.raises(ValidationError, match="not a full string of method 'kivi'"):
        run(method="kivi", method_params="gear:bits=4")


def test_tidy_rows_are_read_with_defaults(runs_csv: Path) -> None:
    prefill, decode = read_runs(runs_csv)
    assert (prefill.method_params, prefill.tp, prefill.repeat, prefill.output_len) == ("fp16", 1, 0, None)
    assert (decode.method, decode.method_params, decode.label) == ("kivi", "kivi:bits=4", None)


def test_published_rows_are_read_in_our_words(published_csv: Path) -> None:
    first, second = read_runs(published_csv, device="a6000", engine="lmdeploy")
    assert (first.model, first.label, first.method, first.stage) == (
        "Llama-7b",
        "Llama-7b",
        "fp16",
        "prefill",
    )
    assert (second.method_params, second.stage, second.prompt_len) == ("kivi:bits=4", "decode", 321)


def test_pooled_labels_are_runs_of_the_given_model(published_csv: Path) -> None:
    runs = read_runs(published_csv, model="m", device="d", engine="e", pool_labels=True)
    assert [(one.model, one.label) for one in runs] == [("m", "Llama-7b"), ("m", "Llama-13b")]


def test_several_labels_are_never_pooled_by_accident(published_csv: Path) -> None:
    with pytest.raises(DataError, match=r"2 model names .*--pool-labels"):
        read_runs(published_csv, model="m", device="d", engine="e")


def test_published_rows_need_device_and_engine(published_csv: Path) -> None:
    with pytest.raises(DataError, match="give --device, --engine"):
        read_runs(published_csv)


def test_empty_option_is_a_usage_error(published_csv: Path) -> None:
    with pytest.raises(UsageError, match="--device"):
        read_runs(published_csv, device="", engine="e")


def test_published_table_without_model_names_is_refused(published_csv: Path) -> None:
    published_csv.write_text(published_csv.read_text().replace("model,", "other,"))
    with pytest.raises(DataError, match="missing column model"):
        read_runs(published_csv, model="m", device="d", engine="e", pool_labels=True)


def test_arguments_fill_missing_columns_but_contradict_none(runs_csv: Path) -> None:
    with pytest.raises(DataError, match="contradicts --device a100") as caught:
        read_runs(runs_csv, device="a100")
    assert (caught.value.row, caught.value.column, caught.value.value) == (2, "device", "a6000")
    runs_csv.write_text(runs_csv.read_text().replace("device,", "unused,"))
    with pytest.raises(DataError, match="missing columns: device; --device"):
        read_runs(runs_csv)
    assert {one.device for one in read_runs(runs_csv, device="a100")} == {"a100"}


def test_pooling_without_a_model_and_no_paths_are_usage_errors(published_csv: Path) -> None:
    with pytest.raises(UsageError, match="--model"):
        read_runs(published_csv, device="d", engine="e", pool_labels=True)
    with pytest.raises(UsageError, match="no runs given"):
        read_runs()


def test_folder_is_read_file_by_file(runs_csv: Path) -> None:
    runs_csv.with_name("again.csv").write_text(runs_csv.read_text())
    assert len(read_runs(runs_csv.parent)) == 4


def test_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no CSV files"):
        read_runs(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        read_runs("x" * 5000)


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("bsz", "0"),
        ("bsz", "two"),
        ("bsz", "2.5"),
        ("prompt_len", "-1"),
        ("prompt_len", "9" * 30),
        ("throughput_tok_s", "nan"),
        ("throughput_tok_s", "inf"),
        ("throughput_tok_s", "0"),
        ("throughput_tok_s", "-5"),
        ("throughput_tok_s", "fast"),
        ("stage", "warmup"),
        ("throughput_tok_s", ""),
        ("method", "magic"),
    ],
)
def test_bad_cell_is_named_with_line_column_and_value(runs_csv: Path, column: str, cell: str) -> None:
    header, first, second = runs_csv.read_text().splitlines()
    cells = first.split(",")
    cells[header.split(",").index(column)] = cell
    runs_csv.write_text("\n".join([header, second, ",".join(cells)]))
    with pytest.raises(DataError) as caught:
        read_runs(runs_csv, known_methods={"fp16", "kivi"})
    error = caught.value
    assert (error.path, error.row, error.column, error.value) == (runs_csv, 3, column, cell)


@pytest.mark.parametrize(("old", "column"), [("None-16", "method"), ("prefill", "stage"), ("4000", "thr")])
def test_bad_published_cell_is_named_by_its_own_column(published_csv: Path, old: str, column: str) -> None:
    published_csv.write_text(published_csv.read_text().replace(old, "zip"))
    with pytest.raises(DataError) as caught:
        read_runs(published_csv, device="d", engine="e")
    assert (caught.value.row, caught.value.column, caught.value.value) == (2, column, "zip")


def test_many_bad_rows_are_counted(runs_csv: Path) -> None:
    header, row, _ = runs_csv.read_text().splitlines()
    runs_csv.write_text("\n".join([header, *[row.replace("5000", "-1")] * 8]))
    with pytest.raises(DataError, match=r"8 rows are bad: lines 2, 3, 4, 5, 6, \.\.\."):
        read_runs(runs_csv)


names = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(str.strip)
methods = st.from_regex(r"[a-z0-9-]{1,10}(:[a-z]{1,5}=[0-9.]{1,4}(,[a-z]{1,5}=[0-9]{1,3})?)?", fullmatch=True)
many_runs = st.lists(
    st.builds(
        Run,
        model=names,
        method=methods,
        method_params=st.none(),
        engine=names,
        device=names,
        tp=st.integers(1, 8),
        bsz=st.integers(1, 1_000_000),
        prompt_len=st.integers(1, 100_000_000),
        output_len=st.none() | st.integers(1, 10_000),
        stage=st.sampled_from(["prefill", "decode"]),
        throughput_tok_s=st.floats(1e-8, 1e12),
        latency_s=st.none() | st.floats(1e-9, 1e9),
        repeat=st.integers(0, 99),
        peak_memory_bytes=st.none() | st.integers(0, 2**60),
        host=st.none() | names,
        versions=st.none() | names,
        measured_at=st.none() | st.datetimes(timezones=st.just(UTC)),
        label=st.none() | names,
    ),
    min_size=1,
    max_size=4,
)


@given(runs=many_runs)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_written_runs_are_read_back_the_same(tmp_path: Path, runs: list[Run]) -> None:
    write_runs(tmp_path / "written.csv", runs)
    assert read_runs(tmp_path / "written.csv") == runs


def test_measuring_time_survives_the_file(tmp_path: Path) -> None:
    moment = datetime(2025, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    write_runs(tmp_path / "w.csv", [run(measured_at=moment)])
    assert read_runs(tmp_path / "w.csv")[0].measured_at == moment


def test_all_published_runs_are_read(shared_data: Path) -> None:
    runs = read_runs(
        shared_data / "a6000" / "throughput",
        model="llama-2-7b",
        device="a6000",
        engine="lmdeploy",
        pool_labels=True,
    )
    assert len(runs) == 663
    assert {one.method_params for one in runs} == {
        "fp16",
        "kivi:bits=4",
        "gear:bits=4",
        "h2o",
        "streamingllm",
    }
    assert len({one.label for one in runs}) == 4
