from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, cross_val_score

from kvpred.errors import DataError, MissingExtraError, UsageError
from kvpred.predictors.operators import (
    HybridRegressor,
    OperatorRegressor,
    PhysicsRegressor,
    load_regressor,
    make_regressor,
)
from kvpred.predictors.operators.base import median_per_site, regressor_names
from tests.predictors.operators.conftest import DECODE_SITES, decode_law

every_regressor = pytest.mark.parametrize("name", regressor_names())
BEYOND = np.array([[1, 1], [3, 700], [64, 8192]])


def fitted(name: str, **params: object) -> OperatorRegressor:
    return make_regressor(name, family="decode", **params).fit(DECODE_SITES, decode_law(*DECODE_SITES.T))


def edit_state(folder: Path, **changes: object) -> None:
    path = folder / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_there_are_five_regressors() -> None:
    assert set(regressor_names()) == {"physics", "forest", "lightgbm", "hybrid", "auto"}


@every_regressor
def test_a_regressor_learns_a_physical_law_inside_its_range(name: str) -> None:
    sites = np.array([[2, 1024], [8, 640], [16, 1536]])
    assert fitted(name).predict(sites) == pytest.approx(decode_law(*sites.T), rel=0.05)


@every_regressor
def test_a_saved_regressor_predicts_the_same(name: str, tmp_path: Path) -> None:
    model = fitted(name)
    model.to_state(tmp_path)
    again = type(model).from_state(tmp_path)
    assert again.predict(BEYOND).tolist() == model.predict(BEYOND).tolist()
    # JSON has lists only, where parameters may be tuples.
    assert json.dumps(again.get_params()) == json.dumps(model.get_params())


@pytest.mark.parametrize("name", ["physics", "lightgbm", "hybrid", "auto"])
def test_the_same_times_give_the_same_files(name: str, tmp_path: Path) -> None:
    for folder in ("first", "second"):
        fitted(name).to_state(tmp_path / folder)
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
        for folder in ("first", "second")
    )
    assert first == second


@every_regressor
def test_a_state_holds_no_pickle(name: str, tmp_path: Path) -> None:
    fitted(name).to_state(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".txt", ".skops"}


@pytest.mark.parametrize("name", ["forest", "lightgbm", "hybrid"])
def test_threads_do_not_change_the_result(name: str) -> None:
    one, two = fitted(name, n_jobs=1), fitted(name, n_jobs=2)
    assert one.predict(DECODE_SITES).tolist() == two.predict(DECODE_SITES).tolist()


@every_regressor
def test_an_operator_of_no_time_is_predicted_as_zero(name: str, tmp_path: Path) -> None:
    model = make_regressor(name).fit([[1], [64], [128]], [0.0, 0.0, 0.0])
    model.to_state(tmp_path)
    assert load_regressor(tmp_path).predict([[1], [4096]]).tolist() == [0.0, 0.0]


@every_regressor
def test_times_below_the_clocks_step_do_not_break_the_log(name: str) -> None:
    tokens = np.arange(64, 1025, 64)
    model = make_regressor(name).fit(tokens[:, None], np.round(tokens / 200_000, 3))
    predicted = model.predict(tokens[:, None])
    assert (predicted > 0).all()
    assert predicted[-1] == pytest.approx(0.005, rel=0.25)


@every_regressor
def test_one_site_is_enough_to_fit(name: str) -> None:
    assert make_regressor(name).fit([[64]], [0.5]).predict([[64]]) == pytest.approx([0.5])


@every_regressor
def test_no_rows_in_no_rows_out(name: str) -> None:
    assert fitted(name).predict(np.empty((0, 2))).shape == (0,)


def test_repeats_of_a_site_count_once_by_their_median() -> None:
    sites, times = median_per_site(np.array([[2.0], [1.0], [2.0], [2.0], [1.0]]), np.array([9.0, 1, 3, 4, 2]))
    assert sites.tolist() == [[1], [2]]
    assert times.tolist() == [1.5, 4]


@every_regressor
def test_scikit_learn_can_clone_and_cross_validate(name: str) -> None:
    model = clone(make_regressor(name, family="decode"))
    scores = cross_val_score(
        model,
        DECODE_SITES,
        decode_law(*DECODE_SITES.T),
        groups=DECODE_SITES[:, 1],
        cv=GroupKFold(3),
        scoring="neg_mean_absolute_percentage_error",
    )
    assert scores.min() > -0.2


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([1.0], "expected as many"),
        ([1.0, -1.0], "not negative"),
        ([1.0, np.nan], "finite"),
    ],
)
def test_impossible_times_are_refused(times: list[float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PhysicsRegressor().fit([[1], [2]], times)


def test_no_measurement_is_refused() -> None:
    with pytest.raises(UsageError, match="0 rows"):
        PhysicsRegressor().fit(np.empty((0, 1)), [])


def test_an_unfitted_regressor_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="not fitted yet: call fit"):
        PhysicsRegressor().predict([[1]])


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("oracle", {}, "'oracle' is not known: use one of physics"),
        ("physics", {"depth": 3}, "no parameter 'depth'"),
    ],
)
def test_unknown_names_are_refused(name: str, params: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_regressor(name, **params)


def test_an_unknown_family_is_refused_when_fitting() -> None:
    with pytest.raises(UsageError, match="family='attention' is not known: use one of tokens"):
        PhysicsRegressor(family="attention").fit([[1]], [1.0])


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(MissingExtraError, match=r"lightgbm is not installed: pip install 'kvpred\[train\]'"):
        fitted("lightgbm")


@pytest.mark.parametrize(("name", "file"), [("hybrid", "lightgbm.txt"), ("forest", "forest.skops")])
def test_a_cut_off_model_file_is_refused_before_its_library_reads_it(
    name: str, file: str, tmp_path: Path
) -> None:
    fitted(name).to_state(tmp_path)
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match="changed or cut off"):
        load_regressor(tmp_path)


def test_a_missing_model_file_is_named(tmp_path: Path) -> None:
    fitted("lightgbm").to_state(tmp_path)
    (tmp_path / "lightgbm.txt").unlink()
    with pytest.raises(DataError, match=r"lightgbm\.txt.*missing"):
        load_regressor(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"regressor": "oracle"},
        {"params": {"family": "decode", "depth": 1}},
        {"params": {"family": "tokens"}},
        {"low": ["one", "two"]},
        {"learnt": {}},
        {"learnt": {"coef_ms": {"1": -1.0}}},
        {"learnt": {"coef_ms": {"magic": 1.0}}},
        {"learnt": {"coef_ms": {"1": float("nan")}}},
        {"sha256": []},
    ],
)
def test_a_changed_state_is_refused(changes: dict[str, object], tmp_path: Path) -> None:
    fitted("physics").to_state(tmp_path)
    edit_state(tmp_path, **changes)
    with pytest.raises(DataError, match="not an operator regressor's state"):
        load_regressor(tmp_path)


def test_a_truncated_state_is_refused(tmp_path: Path) -> None:
    fitted("physics").to_state(tmp_path)
    path = tmp_path / "state.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(DataError, match=r"state\.json"):
        load_regressor(tmp_path)


def test_a_state_never_leads_outside_its_folder(tmp_path: Path) -> None:
    fitted("lightgbm").to_state(tmp_path / "inside")
    (tmp_path / "inside" / "lightgbm.txt").rename(tmp_path / "lightgbm.txt")
    edit_state(tmp_path / "inside", sha256={"../lightgbm.txt": "0" * 64})
    with pytest.raises(DataError, match=r"inside/lightgbm\.txt.*missing"):
        load_regressor(tmp_path / "inside")


def test_a_regressor_of_another_class_is_refused(tmp_path: Path) -> None:
    fitted("physics").to_state(tmp_path)
    with pytest.raises(DataError, match="this is a physics regressor, not hybrid"):
        HybridRegressor.from_state(tmp_path)
