from kvpred.methods import list_methods
from kvpred.reports.style import layout, method_label, method_marker


def test_no_two_methods_look_alike() -> None:
    looks = {
        (marker["color"], marker["symbol"]) for marker in map(method_marker, (m.spec for m in list_methods()))
    }
    assert len(looks) == len(list_methods())


def test_unusual_parameters_keep_the_colour_and_open_the_symbol() -> None:
    usual, unusual = method_marker("kivi"), method_marker("kivi:bits=2")
    assert unusual["color"] == usual["color"]
    assert unusual["symbol"] == f"{usual['symbol']}-open"


def test_defaults_spelled_out_are_not_shown() -> None:
    assert method_label("h2o:heavy=64,recent=448") == "h2o"
    assert method_label("h2o:heavy=32,recent=448") == "h2o:heavy=32"


def test_legend_lies_below_the_panels() -> None:
    assert layout("t", height=500)["legend"]["y"] < 0
