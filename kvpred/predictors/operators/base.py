"""What every operator regressor shares: scikit-learn's estimator API, safe states, zeros, repeated sites."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self

import numpy as np
from numpy.typing import ArrayLike

from kvpred.data.files import read_text, write_text
from kvpred.errors import DataError, KvpredError, MissingExtraError, UsageError
from kvpred.predictors.operators.features import FAMILIES, Family, FloatArray

STATE_FILE = "state.json"
_REGRESSORS: dict[str, type[OperatorRegressor]] = {}


@dataclass(frozen=True, slots=True)
class State:
    """What a fit learnt, in a form that is safe to store and that regressors nest.

    Parameters
    ----------
    values : dict
        What JSON can hold.
    files : dict of str to bytes
        Content of the files beside it, by name.
    """

    values: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)


class OperatorRegressor(ABC):
    """Base of the regressors of one operator's time, with scikit-learn's estimator API.

    Inputs have one row per observation and the columns of the family's `inputs`; times are in ms. What a fit
    sees is the median time of each distinct row, so that repeats neither leak nor weigh. The target is the
    log of the time, for which a median of 0 (less than the clock can tell) counts as half the smallest
    positive one; an operator that always takes 0 is predicted as 0.

    Attributes
    ----------
    low_, high_ : array, shape (n_inputs,)
        Range of the training inputs.
    all_zero_ : bool
        Whether the operator took no time at all.
    """

    name: ClassVar[str]
    family: str
    low_: FloatArray
    high_: FloatArray
    all_zero_: bool

    @abstractmethod
    def _fit(self, inputs: FloatArray, time_ms: FloatArray) -> None:
        """Learn positive times of distinct inputs."""

    @abstractmethod
    def _predict(self, inputs: FloatArray) -> FloatArray:
        """Return times in ms of checked inputs."""

    @abstractmethod
    def _learnt(self) -> State:
        """Return what `_fit` learnt."""

    @abstractmethod
    def _restore(self, learnt: State) -> None:
        """Take over what `_learnt` returned; KeyError, TypeError or ValueError if it is not that."""

    def __init_subclass__(cls) -> None:
        """Enter each regressor that has a name of its own in the registry."""
        super().__init_subclass__()
        if "name" in cls.__dict__:
            _REGRESSORS[cls.name] = cls

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:  # noqa: N803 (scikit-learn's name)
        """Fit to measured times.

        Parameters
        ----------
        X : array, shape (n, n_inputs)
            Columns as in the family's `inputs`.
        y : array, shape (n,)
            Times in ms, at least 0.

        Returns
        -------
        OperatorRegressor
            Itself.

        Raises
        ------
        UsageError
            If the shapes are wrong, there is no row, or a value is negative or not finite.
        MissingExtraError
            If what the regressor is made of is not installed.
        """
        inputs, times = self._family.check(X), np.asarray(y, dtype=np.float64)
        if times.shape != (len(inputs),) or not len(times):
            raise UsageError(
                f"{len(inputs)} rows of inputs and times of shape {times.shape}: expected as many"
            )
        if not (np.isfinite(times) & (times >= 0)).all():
            raise UsageError("times must be finite and not negative")
        inputs, times = median_per_site(inputs, times)
        self.low_, self.high_ = inputs.min(axis=0), inputs.max(axis=0)
        self.all_zero_ = not times.any()
        if not self.all_zero_:
            self._fit(inputs, np.where(times > 0, times, times[times > 0].min() / 2))
        return self

    def predict(self, X: ArrayLike) -> FloatArray:  # noqa: N803
        """Predict times.

        Parameters
        ----------
        X : array, shape (n, n_inputs)

        Returns
        -------
        array, shape (n,)
            Times in ms.

        Raises
        ------
        UsageError
            If it was not fitted, or the inputs are not numbers of the right shape.
        """
        self._check_fitted()
        inputs = self._family.check(X)
        return np.zeros(len(inputs)) if self.all_zero_ or not len(inputs) else self._predict(inputs)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name; `deep` is scikit-learn's and changes nothing here."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name.

        Raises
        ------
        UsageError
            If there is no such parameter.
        """
        unknown = sorted(params.keys() - self.get_params().keys())
        if unknown:
            raise UsageError(f"{type(self).__name__} has no parameter {unknown[0]!r}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn's model selection that this is a regressor."""
        from sklearn.utils import InputTags, RegressorTags, Tags, TargetTags

        return Tags(
            estimator_type="regressor",
            target_tags=TargetTags(required=True),
            input_tags=InputTags(positive_only=True),
            regressor_tags=RegressorTags(),
        )

    def state(self) -> State:
        """Return everything that `restored` needs to make this regressor again."""
        self._check_fitted()
        learnt = State({}) if self.all_zero_ else self._learnt()
        values = {
            "regressor": self.name,
            "params": self.get_params(),
            "low": self.low_.tolist(),
            "high": self.high_.tolist(),
            "all_zero": self.all_zero_,
            "learnt": learnt.values,
        }
        return State(values, learnt.files)

    def to_state(self, folder: Path | str) -> None:
        """Write a fitted regressor as ``state.json`` and perhaps one model file, never as pickle.

        Parameters
        ----------
        folder : path
            Made if need be. To replace a whole older state in one step, wrap it in `replaced_folder`.
        """
        state = self.state()
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in state.files.items():
            (folder / file).write_bytes(content)
        digests = {file: _digest(content) for file, content in state.files.items()}
        text = json.dumps(state.values | {"sha256": digests}, indent=1, allow_nan=False)
        write_text(folder / STATE_FILE, text + "\n")

    @classmethod
    def from_state(cls, folder: Path | str) -> Self:
        """Open what `to_state` wrote; of a subclass, only that subclass's.

        Raises
        ------
        DataError
            If the state is incomplete, damaged, or another regressor's.
        """
        regressor = load_regressor(folder)
        if not isinstance(regressor, cls):
            raise DataError(f"this is a {regressor.name} regressor, not {cls.name}", path=folder)
        return regressor

    @property
    def _family(self) -> Family:
        if self.family not in FAMILIES:
            raise UsageError(f"family={self.family!r} is not known: use one of {', '.join(FAMILIES)}")
        return FAMILIES[self.family]

    def _check_fitted(self) -> None:
        if not hasattr(self, "all_zero_"):
            raise UsageError(f"this {type(self).__name__} is not fitted yet: call fit first")


def regressor_names() -> tuple[str, ...]:
    """Return the names of all regressors."""
    return tuple(_REGRESSORS)


def make_regressor(name: str, **params: Any) -> OperatorRegressor:
    """Make an unfitted regressor by its name.

    Parameters
    ----------
    name : str
        ``physics``, ``forest``, ``lightgbm``, ``hybrid`` or ``auto``.
    **params
        The regressor's own.

    Raises
    ------
    UsageError
        If there is no such regressor or parameter.

    Examples
    --------
    >>> make_regressor("physics", family="decode").get_params()
    {'family': 'decode'}
    """
    if name not in _REGRESSORS:
        raise UsageError(f"regressor {name!r} is not known: use one of {', '.join(_REGRESSORS)}")
    return _REGRESSORS[name]().set_params(**params)


def load_regressor(folder: Path | str) -> OperatorRegressor:
    """Open a regressor of any kind that `to_state` wrote.

    Every model file is checked against its digest before the library that made it reads it, because these
    libraries crash on damaged files.

    Raises
    ------
    DataError
        If the state is incomplete or damaged.
    """
    path = Path(folder) / STATE_FILE
    try:
        values = json.loads(read_text(path), parse_constant=_refuse)
        digests = values["sha256"].items()
        files = {file: _read_checked(path.parent / Path(file).name, sha256) for file, sha256 in digests}
        return restored(State(values, files))
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
        raise DataError(f"not an operator regressor's state: {error!r}", path=path) from None


def restored(state: State) -> OperatorRegressor:
    """Make a regressor again from its state.

    Raises
    ------
    KeyError, TypeError, ValueError, AttributeError, UsageError
        If it is not the state of a regressor.
    """
    values = state.values
    regressor = make_regressor(values["regressor"], **values["params"])
    regressor.low_, regressor.high_ = (np.array(values[end], dtype=np.float64) for end in ("low", "high"))
    shape = (len(regressor._family.inputs),)
    if regressor.low_.shape != shape or regressor.high_.shape != shape:
        raise ValueError(f"expected the range of {shape[0]} inputs")
    regressor.all_zero_ = bool(values["all_zero"])
    if not regressor.all_zero_:
        regressor._restore(State(values["learnt"], state.files))
    return regressor


def median_per_site(inputs: FloatArray, time_ms: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the distinct rows of `inputs`, sorted, and the median time of each."""
    sites, site = np.unique(inputs, axis=0, return_inverse=True)
    order = np.lexsort((time_ms, site.ravel()))
    counts = np.bincount(site.ravel())
    first = np.cumsum(counts) - counts
    ordered = time_ms[order]
    return sites, (ordered[first + (counts - 1) // 2] + ordered[first + counts // 2]) / 2


def import_extra(module: str) -> Any:
    """Import a library of the extra ``train``.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    KvpredError
        If the system lacks a library that it loads.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise MissingExtraError(module.partition(".")[0], "train") from None
    except OSError as error:
        message = (
            f"{module} cannot be loaded ({error}); LightGBM needs OpenMP: on Debian, apt-get install libgomp1"
        )
        raise KvpredError(message) from None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read_checked(path: Path, sha256: str) -> bytes:
    if not path.is_file():
        raise DataError("this file is missing: the state is incomplete", path=path)
    content = path.read_bytes()
    if _digest(content) != sha256:
        raise DataError("this file was changed or cut off after it was written: train again", path=path)
    return content


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number that a state holds")
