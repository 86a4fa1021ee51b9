from collections.abc import Iterator
from pathlib import Path

import pytest

from kvpred.errors import UsageError
from kvpred.hardware import list_engine_specs
from kvpred.methods import get_method, list_methods, registry

NAMES = [
    "fp16", "gear", "h2o", "kivi", "kv-fp8", "kv-int4", "kv-int8", "snapkv", "streamingllm", "turboquant",
]  # fmt: skip


def test_every_method_of_the_paper_and_of_the_engines_is_listed() -> None:
    assert [method.name for method in list_methods()] == NAMES


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("fp16", "fp16"),
        ("kivi", "kivi:bits=4,group_size=32,residual_length=128"),
        ("gear", "gear:bits=4,group_size=32,residual_length=128,outlier=0.02,rank=0.02"),
        ("h2o", "h2o:heavy=64,recent=448"),
        ("streamingllm", "streamingllm:sinks=64,recent=448"),
        ("snapkv", "snapkv:budget=512,window=32,kernel=7"),
        ("turboquant", "turboquant:bits=4"),
        ("KV_INT8", "kv-int8"),
        (" KIVI : bits = 2 , group_size = 64 ", "kivi:bits=2,group_size=64,residual_length=128"),
        ("gear:rank=0", "gear:bits=4,group_size=32,residual_length=128,outlier=0.02,rank=0.0"),
    ],
)
def test_a_short_spelling_reads_as_the_full_one(short: str, full: str) -> None:
    assert get_method(short).spec == full
    assert get_method(full) == get_method(short)


def test_a_method_is_returned_as_it_is() -> None:
    method = get_method("kivi:bits=2")
    assert get_method(method) is method


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("kivy", "Method 'kivy' is not known. Did you mean kivi? Known methods: fp16, gear"),
        ("", "Method '' is not known."),
        ("kivi:bit=4", "kivi has no parameter 'bit'; it has bits, group_size, residual_length."),
        ("fp16:bits=4", "fp16 has no parameter 'bits'; it has none."),
        ("kivi:bits", "kivi: 'bits' is no parameter; write name=value, joined by commas."),
        ("kivi:bits=4,bits=2", "kivi: parameter bits is given twice."),
        ("kivi:bits=four", "kivi: bits=four must be of type int."),
        ("gear:rank=2%", "gear: rank=2% must be of type float."),
    ],
)
def test_a_wrong_spelling_says_what_is_allowed(spec: str, complaint: str) -> None:
    with pytest.raises(UsageError) as error:
        get_method(spec)
    assert complaint in str(error.value)
    assert error.value.exit_code == 2


def test_every_engine_names_methods_that_exist() -> None:
    assert {name for engine in list_engine_specs() for name in engine.methods} == set(NAMES)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in for site-packages: what is put there is importable and its entry points are seen."""
    monkeypatch.syspath_prepend(tmp_path)
    registry._foreign.cache_clear()
    yield tmp_path
    registry._foreign.cache_clear()


def put_package(folder: Path, *, module: str, code: str) -> None:
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[kvpred.methods]\nmine = {module}:Mine\n")


ONE_FILE = """
from dataclasses import dataclass
from typing import ClassVar
from kvpred.methods import Method

@dataclass(frozen=True)
class Mine(Method):
    name: ClassVar[str] = "{name}"
    title: ClassVar[str] = "Every k-th token"
    paper: ClassVar[str] = "none"
    every: int = 2

    def _attended(self, kv_len, prompt_len):
        return -(-kv_len // self.every)

    def _sequence_parts(self, heads, kv_len, prompt_len):
        return {{"kv": heads.token_bytes * self._stored(kv_len, prompt_len)}}
"""


def test_another_packages_method_is_one_file_and_an_entry_point(install: Path) -> None:
    put_package(install, module="kvpred_test_mine", code=ONE_FILE.format(name="every-kth"))
    assert get_method("every-kth:every=4").attended_tokens(10) == 3
    assert "every-kth" in [method.name for method in list_methods()]


def test_another_packages_method_may_not_take_a_name_of_ours(install: Path) -> None:
    put_package(install, module="kvpred_test_thief", code=ONE_FILE.format(name="kivi"))
    with pytest.raises(UsageError, match="the name kivi is kvpred's own"):
        list_methods()


def test_an_entry_point_that_does_not_load_is_named(install: Path) -> None:
    put_package(install, module="kvpred_test_broken", code="import not_there_at_all")
    with pytest.raises(UsageError, match="kvpred_test_broken:Mine cannot be loaded: No module named"):
        list_methods()


def test_an_entry_point_that_is_no_method_is_named(install: Path) -> None:
    put_package(install, module="kvpred_test_other", code="Mine = 3")
    with pytest.raises(UsageError, match="kvpred_test_other:Mine is no subclass of"):
        list_methods()
