"""Whatever is wrong with the input: the contract's exit code, one paragraph on stderr, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
RunsText = Callable[..., str]

CONFIG = {
    "model_type": "llama", "num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 512, "vocab_size": 1000, "max_position_embeddings": 2048,
}  # fmt: skip
DEVICE = (
    'name = "mine"\nmemory_bytes = 50_000_000_000\nmemory_bandwidth_bytes_s = 7e11\npeak_flops_16bit = 1e14\n'
)


def _refused(answer: Any, code: int, *names: str) -> None:
    """Assert a clean refusal whose last line names what is wrong; lines before it are progress."""
    assert (answer.code, answer.out) == (code, ""), answer.err
    lines = answer.err.splitlines()
    assert all(line.startswith("kvpred: ") for line in lines)
    assert "defect of kvpred" not in answer.err
    assert [name for name in names if name not in lines[-1]] == [], lines[-1]


@pytest.mark.parametrize("command", ["predict", "memory"])
@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--bsz", 0), ["bsz=0"]),
        (("--bsz", -1), ["bsz=-1"]),
        (("--bsz", 10**9), ["bsz=1000000000", "100,000"]),
        (("--bsz", 10**30), ["bsz=1" + 30 * "0"]),
        (("--bsz", "many"), ["--bsz"]),
        (("--bsz", "1.5"), ["--bsz"]),
        (("--prompt-len", 0), ["prompt_len=0"]),
        (("--prompt-len", 10**12), ["prompt_len=1000000000000"]),
        (("--output-len", 0), ["output_len=0"]),
        (("--output-len", 10**8), ["output_len=100000000"]),
        (("--tp", 0), ["tp=0"]),
        (("--tp", 3), ["tp=3", "32 query heads", "1, 2, 4, 8, 16, 32"]),
        (("--tp", 10**24), ["tp=1" + 24 * "0"]),
        (("--weight-bits", 5), ["weight_bits=5", "16, 8, 4"]),
        (("--memory-utilization", 0), ["memory_utilization=0"]),
        (("--memory-utilization", 1.5), ["memory_utilization=1.5"]),
        (("--memory-utilization", "nan"), ["memory_utilization=nan"]),
        (("--model", "lama-2-7b"), ["lama-2-7b", "Did you mean llama-2-7b?"]),
        (("--device", "a600"), ["a600", "Did you mean a6000?"]),
        (("--engine", "lmdeplo"), ["lmdeplo", "Did you mean lmdeploy?"]),
        (("--engine", "two\nlines"), [r"two\nlines"]),
        (("--method", "kivy"), ["kivy", "Did you mean kivi?"]),
        (("--method", "kivi\nh2o"), [r"kivi\nh2o"]),
        (("--method", "kïvi"), ["kïvi"]),
        (("--method", "kivi:bit=2"), ["'bit'", "bits, group_size, residual_length"]),
        (("--method", "kivi:bits=3"), ["bits=3", "2, 4, 8"]),
        (("--method", "kivi:bits=two"), ["bits=two"]),
        (("--method", "kivi:bits=2,bits=4"), ["bits is given twice"]),
        (("--method", "h2o:heavy=-5"), ["heavy=-5"]),
        (("--method", "gear:outlier=inf"), ["outlier=inf"]),
        (("--method", "bits=2"), ["'bits=2'"]),
        (("--method", ","), ["no method"]),
        (("--format", "xml"), ["xml"]),
        (("--frmat", "json"), ["--frmat", "--format"]),
    ],
)
def test_a_senseless_request_is_a_usage_error(
    cli: Cli, command: str, options: tuple[object, ...], names: list[str]
) -> None:
    _refused(cli(command, "--bsz", 1, "--prompt-len", 512, *options), 2, *names)


@pytest.mark.parametrize("options", [("--level", 1.5), ("--level", "nan"), ("--min-basis", "good")])
def test_predict_refuses_unknown_levels_and_bases(cli: Cli, options: tuple[object, ...]) -> None:
    _refused(cli("predict", "--bsz", 1, "--prompt-len", 512, *options), 2, str(options[1]))


def test_unknown_commands_have_a_hint(cli: Cli) -> None:
    _refused(cli("predikt"), 2, "predikt", "'predict'")
    _refused(cli("predict", "--bsz", 1), 2, "--prompt-len")


def _cell(text: str, column: str, value: str) -> str:
    """Put a value into line 6."""
    lines = [line.split(",") for line in text.splitlines()]
    lines[5][lines[0].index(column)] = value
    return "\n".join(map(",".join, lines)) + "\n"


def _without(text: str, column: str) -> str:
    lines = [line.split(",") for line in text.splitlines()]
    place = lines[0].index(column)
    return "\n".join(",".join([*line[:place], *line[place + 1 :]]) for line in lines)


def _only(text: str, *words: str) -> str:
    header, *lines = text.splitlines()
    return "\n".join([header, *(line for line in lines if all(word in line for word in words))])


def _contradicted(text: str) -> str:
    """Repeat line 2 with a throughput that cannot be the same measurement."""
    cells = text.splitlines()[1].split(",")
    return text + ",".join([*cells[:-2], "0.5", cells[-1]]) + "\n"


BAD_RUNS: dict[str, tuple[Callable[[str], str | bytes], list[str]]] = {
    "empty": (lambda text: "", ["empty"]),
    "header only": (lambda text: text.splitlines()[0], ["only a header"]),
    "wrong delimiter": (lambda text: text.replace(",", ";"), ["line 1", "';'"]),
    "utf-16": (lambda text: text.encode("utf-16"), ["UTF-16"]),
    "latin-1": (lambda text: text.replace("h2o", "h²o").encode("latin-1"), ["not UTF-8", "line 130"]),
    "binary": (lambda text: bytes(range(256)), ["binary"]),
    "missing column": (lambda text: _without(text, "stage"), ["stage"]),
    "column twice": (lambda text: text.replace("repeat", "bsz", 1), ["'bsz'"]),
    "ragged": (lambda text: text + "a,b\n", ["line 194", "2 cells"]),
    "open quote": (lambda text: text + '"open\n', ["not a CSV table"]),
    "text": (lambda text: _cell(text, "throughput_tok_s", "fast"), ["line 6", "throughput_tok_s", "fast"]),
    "negative": (lambda text: _cell(text, "throughput_tok_s", "-5"), ["line 6", "throughput_tok_s", "-5"]),
    "nan": (lambda text: _cell(text, "throughput_tok_s", "nan"), ["line 6", "throughput_tok_s", "nan"]),
    "infinite": (lambda text: _cell(text, "throughput_tok_s", "inf"), ["line 6", "inf"]),
    "overflow": (lambda text: _cell(text, "throughput_tok_s", "1e400"), ["line 6", "1e400"]),
    "zero": (lambda text: _cell(text, "throughput_tok_s", "0"), ["line 6", "throughput_tok_s", "'0'"]),
    "blank": (lambda text: _cell(text, "throughput_tok_s", ""), ["line 6", "throughput_tok_s"]),
    "zero batch": (lambda text: _cell(text, "bsz", "0"), ["line 6", "bsz", "'0'"]),
    "huge batch": (lambda text: _cell(text, "bsz", "9" * 5000), ["line 6", "bsz"]),
    "unknown stage": (lambda text: _cell(text, "stage", "warm-up"), ["line 6", "stage", "warm-up"]),
    "unknown method": (lambda text: _cell(text, "method", "kivy"), ["line 6", "method", "kivy"]),
    "invisible letter": (lambda text: _cell(text, "method", "ki\u200bvi"), ["line 6", r"ki\u200bvi"]),
    "newline in a cell": (lambda text: _cell(text, "method", '"ki\nvi"'), ["line 7", r"ki\nvi"]),
    "unknown parameter": (lambda text: _cell(text, "method", "kivi:bits=3"), ["method", "kivi:bits=3"]),
    "two models": (lambda text: _cell(text, "model", "llama-2-13b"), ["2 models", "llama-2-13b"]),
    "two devices": (lambda text: _cell(text, "device", "a100"), ["2 devices", "a100"]),
    "unknown model": (lambda text: text.replace("llama-2-7b", "lama"), ["'lama'"]),
    "unknown device": (lambda text: text.replace("a6000", "b200"), ["'b200'"]),
    "unknown engine": (lambda text: text.replace("lmdeploy", "lmdeplo"), ["'lmdeplo'"]),
    "contradiction": (_contradicted, ["disagree", "fp16 prefill", "bsz 1", "prompt_len 256", "0.5"]),
    "no fp16": (lambda text: _only(text, ",kivi,"), ["no runs of fp16"]),
    "one stage": (lambda text: _only(text, ",prefill,"), ["no decode runs"]),
    "one site": (lambda text: _only(text, ",1,256,"), ["1 sites"]),
}


@pytest.mark.parametrize("flaw", BAD_RUNS)
def test_training_refuses_bad_runs(cli: Cli, runs_text: RunsText, tmp_path: Path, flaw: str) -> None:
    spoil, names = BAD_RUNS[flaw]
    spoilt = spoil(runs_text())
    path = tmp_path / "runs.csv"
    path.write_bytes(spoilt if isinstance(spoilt, bytes) else spoilt.encode())
    answer = cli("train", "--runs", path, "--output", tmp_path / "bundle", "--format", "json")
    _refused(answer, 3, str(path), *names)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "flaw", ["empty", "nan", "unknown method", "unknown parameter", "two devices", "contradiction"]
)
def test_judging_refuses_bad_runs(
    cli: Cli, trained: Path, runs_text: RunsText, tmp_path: Path, flaw: str
) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(str(BAD_RUNS[flaw][0](runs_text())))
    _refused(cli("validate", "--predictor", trained, "--runs", path), 3, str(path))
    _refused(cli("audit", path), 3, str(path))


def _no_tables(folder: Path) -> None:
    folder.mkdir()


def _loop(folder: Path) -> None:
    folder.symlink_to(folder.name)


def _nothing(folder: Path) -> None:
    assert not folder.exists()


@pytest.mark.parametrize("place", [_no_tables, _loop, _nothing])
@pytest.mark.parametrize(
    "command",
    [
        ("train", "--output", "b", "--runs"),
        ("train", "--output", "b", "--profile"),
        ("validate", "--runs"),
        ("validate", "--profile"),
        ("audit",),
        ("import", "--output", "s"),
        ("export", "--output", "s"),
        ("predictors",),
    ],
)
def test_a_place_without_data_is_refused(
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    place: Callable[[Path], None],
) -> None:
    monkeypatch.chdir(tmp_path)
    place(tmp_path / "place")
    before = sorted(tmp_path.iterdir())
    _refused(cli(*command, "place"), 3, "place")
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_to_learn_from_is_a_usage_error(cli: Cli, tmp_path: Path) -> None:
    _refused(cli("train", "--output", tmp_path / "bundle"), 2, "--runs", "--profile")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--device", "b200"), ["b200"]),
        (("--model", "lama"), ["lama"]),
        (("--engine", "lmdeplo"), ["lmdeplo"]),
        (("--regressor", "tree"), ["tree", "physics"]),
    ],
)
def test_options_are_blamed_on_the_options(
    cli: Cli, measured: Path, store: Path, tmp_path: Path, options: tuple[str, str], names: list[str]
) -> None:
    answer = cli("train", "--runs", measured, "--profile", store, "--output", tmp_path / "bundle", *options)
    _refused(answer, 2, *names)
    assert list(tmp_path.iterdir()) == []


def test_options_that_contradict_the_table_are_refused(cli: Cli, measured: Path, tmp_path: Path) -> None:
    answer = cli("train", "--runs", measured, "--device", "h100", "--output", tmp_path / "bundle")
    _refused(answer, 3, str(measured), "line 2", "device", "--device h100")


def test_a_profile_at_another_degree_is_not_covered(cli: Cli, store: Path, tmp_path: Path) -> None:
    _refused(cli("train", "--profile", store, "--tp", 2, "--output", tmp_path / "bundle"), 4, "tp=2")


@pytest.mark.parametrize("value", ["fast", "-1", "nan", "inf"])
def test_a_bad_time_in_a_profile_is_named(cli: Cli, fp16_profile: Path, tmp_path: Path, value: str) -> None:
    shutil.copytree(fp16_profile, tmp_path / "p")
    table = tmp_path / "p" / "attention.csv"
    table.write_text(_cell(table.read_text(), "time_stats.attn_prefill.median", value))
    answer = cli("import", tmp_path / "p", "--output", tmp_path / "s")
    _refused(answer, 3, str(table), "line 6", "time_stats.attn_prefill.median", value)
    assert not (tmp_path / "s").exists()


def _rewritten(bundle: Path, **changes: object) -> None:
    index = bundle / "bundle.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | changes))


BAD_BUNDLES: dict[str, Callable[[Path], object]] = {
    "newer schema": lambda bundle: _rewritten(bundle, schema_version=99),
    "tampered index": lambda bundle: _rewritten(bundle, tp=2),
    "tampered sites": lambda bundle: (bundle / "sites.csv").open("a").write("\n"),
    "truncated index": lambda bundle: (bundle / "bundle.json").write_text('{"schema_version": 1, "mod'),
    "truncated sites": lambda bundle: (bundle / "sites.csv").write_text("method"),
    "no sites": lambda bundle: (bundle / "sites.csv").unlink(),
    "no index": lambda bundle: (bundle / "bundle.json").unlink(),
    "empty index": lambda bundle: (bundle / "bundle.json").write_text(""),
    "nested index": lambda bundle: (bundle / "bundle.json").write_text("[" * 100_000),
    "other index": lambda bundle: (bundle / "bundle.json").write_text("[1]"),
    "binary index": lambda bundle: (bundle / "bundle.json").write_bytes(bytes(100)),
}


@pytest.mark.parametrize("flaw", BAD_BUNDLES)
def test_a_bad_bundle_is_refused(cli: Cli, trained: Path, tmp_path: Path, flaw: str) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(trained, bundle)
    BAD_BUNDLES[flaw](bundle)
    for command in (
        ("predict", "--bsz", 1, "--prompt-len", 64, "--predictor"),
        ("validate", "--predictor"),
        ("predictors",),
    ):
        _refused(cli(*command, bundle), 3, str(bundle))


def test_a_bundle_that_is_a_file_is_refused(cli: Cli, measured: Path) -> None:
    _refused(cli("predictors", measured), 3, str(measured), "no predictor bundle")


BAD_CONFIGS: dict[str, tuple[str | bytes, int, str]] = {
    "empty": ("", 3, "JSON"),
    "truncated": (json.dumps(CONFIG)[:50], 3, "line 1"),
    "nested": ("[" * 200_000, 3, "JSON"),
    "nested objects": ('{"a":' * 200_000, 3, "JSON"),
    "no object": ("[]", 3, "object"),
    "utf-16": (json.dumps(CONFIG).encode("utf-16"), 3, "UTF-8"),
    "text": (json.dumps(CONFIG | {"hidden_size": "256"}), 3, "hidden_size"),
    "negative": (json.dumps(CONFIG | {"hidden_size": -1}), 3, "hidden_size"),
    "nan": (json.dumps(CONFIG | {"hidden_size": float("nan")}), 3, "hidden_size"),
    "missing": (json.dumps({k: v for k, v in CONFIG.items() if k != "vocab_size"}), 3, "vocab_size"),
    "indivisible": (json.dumps(CONFIG | {"num_key_value_heads": 3}), 3, "num_key_value_heads"),
    "mixture of experts": (json.dumps(CONFIG | {"num_local_experts": 8}), 2, "num_local_experts"),
    "latent attention": (json.dumps(CONFIG | {"model_type": "deepseek_v3"}), 2, "deepseek_v3"),
    "hybrid": (json.dumps(CONFIG | {"model_type": "jamba"}), 2, "jamba"),
}


@pytest.mark.parametrize("flaw", BAD_CONFIGS)
def test_a_bad_config_is_refused(cli: Cli, tmp_path: Path, flaw: str) -> None:
    content, code, name = BAD_CONFIGS[flaw]
    path = tmp_path / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    _refused(cli("models", path), code, str(path), name)
    _refused(cli("memory", "--bsz", 1, "--prompt-len", 64, "--model", path), code, str(path), name)


def test_a_huge_config_is_read(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG | {"note": "x" * 20_000_000}))
    assert cli("models", path).code == 0


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("", "name"),
        ("name =\n", "TOML"),
        (DEVICE.replace("50_000_000_000", "-5"), "memory_bytes"),
        (DEVICE.replace("50_000_000_000", "0"), "memory_bytes"),
        (DEVICE.replace("7e11", "nan"), "memory_bandwidth_bytes_s"),
        (DEVICE.replace("1e14", "'fast'"), "peak_flops_16bit"),
        (DEVICE + "colour = 1\n", "colour"),
    ],
)
def test_a_bad_device_file_is_refused(cli: Cli, tmp_path: Path, content: str, name: str) -> None:
    path = tmp_path / "device.toml"
    path.write_text(content)
    _refused(cli("predict", "--bsz", 1, "--prompt-len", 64, "--device", path), 3, str(path), name)
