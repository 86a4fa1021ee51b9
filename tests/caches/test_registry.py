import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from kvpred.caches import layer_class, make_layer
from kvpred.errors import UsageError
from kvpred.methods import Method, get_method, list_methods
from kvpred.methods.fp16 import Fp16

CODE = """
from kvpred.caches.fp16 import Fp16Layer
from kvpred.methods.fp16 import Fp16

class Plain(Fp16):
    name = "plain"

class PlainLayer(Fp16Layer):
    method_type = Plain
"""


@dataclass(frozen=True)
class OnPaper(Fp16):
    name: ClassVar[str] = "on-paper"


@pytest.mark.parametrize("method", list_methods(), ids=lambda method: method.name)
def test_every_method_has_its_layer(method: Method) -> None:
    layer = make_layer(method)
    assert layer.method == method
    assert layer.seen == layer.nbytes == 0
    assert type(layer).method_type is type(method)


def test_a_method_that_extends_another_does_not_take_its_layer() -> None:
    assert layer_class(type(get_method("gear"))) is not layer_class(type(get_method("kivi")))


def test_a_method_without_a_layer_is_refused() -> None:
    with pytest.raises(UsageError, match="on-paper has no cache layer that runs here; an entry point"):
        make_layer(OnPaper())


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install another package that brings a method's layer."""
    (tmp_path / "plain_caches.py").write_text(CODE)
    info = tmp_path / "plain_caches-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plain-caches\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kvpred.caches]\nplain = plain_caches:PlainLayer\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("plain_caches", None)


@pytest.mark.usefixtures("package")
def test_another_package_may_bring_a_layer() -> None:
    from plain_caches import Plain, PlainLayer  # type: ignore[import-not-found]

    assert type(make_layer(Plain())) is PlainLayer
