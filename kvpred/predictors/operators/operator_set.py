"""The fitted operators of one profile, and their predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from numpy.typing import ArrayLike

from kvpred.data.files import read_text, replaced_folder, write_text
from kvpred.data.profiles import Profile
from kvpred.errors import DataError, NotCoveredError
from kvpred.predictors.operators.base import OperatorRegressor, load_regressor, make_regressor
from kvpred.predictors.operators.features import FAMILIES, Family, FloatArray
from kvpred.predictors.operators.tables import OperatorTable, operator_tables

INDEX_FILE = "operators.json"


@dataclass(frozen=True, slots=True, eq=False)
class OperatorModel:
    """One operator and the regressor of its time.

    Parameters
    ----------
    operator : str
    regressor : OperatorRegressor
        Fitted.
    """

    operator: str
    regressor: OperatorRegressor

    @property
    def family(self) -> Family:
        """What the operator's time depends on."""
        return FAMILIES[self.regressor.family]

    def predict(self, **inputs: ArrayLike | None) -> FloatArray:
        """Return times in ms; see `OperatorSet.predict`."""
        rows, shape = self.family.stack(inputs)
        return self.regressor.predict(rows).reshape(shape)


@dataclass(frozen=True, slots=True, eq=False)
class OperatorSet:
    """All operators of one layer of a model on a device under a method.

    Parameters
    ----------
    models : mapping of str to OperatorModel
        By operator.
    tp : int
        Tensor-parallel degree that they were measured at.
    """

    models: Mapping[str, OperatorModel]
    tp: int

    def predict(
        self,
        operator: str,
        *,
        num_tokens: ArrayLike | None = None,
        batch_size: ArrayLike | None = None,
        kv_len: ArrayLike | None = None,
        prefill_chunk_size: ArrayLike | None = None,
    ) -> FloatArray:
        """Predict an operator's time in one layer.

        Decode attention depends on `batch_size` and `kv_len`, prefill attention on those and
        `prefill_chunk_size`, everything else on `num_tokens`; what an operator does not depend on is ignored,
        so that one call signature serves all.

        Parameters
        ----------
        operator : str
            As the profile names it, such as ``mlp_up_proj``.
        num_tokens : array of int
            Tokens in the step, over all sequences.
        batch_size : array of int
            Sequences in the step.
        kv_len : array of int
            Tokens in the cache before the step, per sequence.
        prefill_chunk_size : array of int
            Tokens of each sequence that the step prefills.

        Returns
        -------
        array
            Time in ms per layer, of the shape that the inputs broadcast to.

        Raises
        ------
        NotCoveredError
            If the operator was not profiled.
        UsageError
            If an input that it depends on is missing or impossible.
        """
        if operator not in self.models:
            raise NotCoveredError(
                f"operator {operator!r} was not profiled; there are {', '.join(self.models) or 'none'}"
            )
        return self.models[operator].predict(
            num_tokens=num_tokens,
            batch_size=batch_size,
            kv_len=kv_len,
            prefill_chunk_size=prefill_chunk_size,
        )

    def to_state(self, folder: Path | str) -> None:
        """Write the set as a folder of JSON, LightGBM text and skops files, in one step."""
        with replaced_folder(folder) as draft:
            places = {operator: f"{number:02d}" for number, operator in enumerate(self.models)}
            for operator, model in self.models.items():
                model.regressor.to_state(draft / places[operator])
            write_text(draft / INDEX_FILE, json.dumps({"tp": self.tp, "operators": places}, indent=1) + "\n")

    @classmethod
    def from_state(cls, folder: Path | str) -> Self:
        """Open what `to_state` wrote.

        Raises
        ------
        DataError
            If it is incomplete or damaged.
        """
        path = Path(folder) / INDEX_FILE
        try:
            index = json.loads(read_text(path))
            places = {str(operator): Path(place).name for operator, place in index["operators"].items()}
            tp = int(index["tp"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"not a set of operators: {error!r}", path=path) from None
        models = {
            name: OperatorModel(name, load_regressor(path.parent / place)) for name, place in places.items()
        }
        return cls(models, tp)


def fit_operators(profile: Profile, kind: str = "auto", *, tp: int = 1, n_jobs: int = 2) -> OperatorSet:
    """Fit every operator of a profile.

    Parameters
    ----------
    profile : Profile
    kind : str
        Regressor: ``auto``, ``physics``, ``hybrid``, ``lightgbm`` or ``forest``.
    tp : int
        Tensor-parallel degree.
    n_jobs : int
        Operators fitted at a time. The result does not depend on it.

    Returns
    -------
    OperatorSet

    Raises
    ------
    NotCoveredError
        If the profile has no times at that degree.
    UsageError
        If there is no such regressor.
    """
    tables = operator_tables(profile, tp=tp, steady=True)
    # The largest first, so that no thread is left with it alone at the end.
    largest_first = sorted(tables, key=lambda table: -len(table.time_ms))
    with ThreadPoolExecutor(n_jobs) as threads:
        fitted = dict(threads.map(lambda table: (table.operator, _fit(table, kind)), largest_first))
    return OperatorSet({t.operator: OperatorModel(t.operator, fitted[t.operator]) for t in tables}, tp)


def _fit(table: OperatorTable, kind: str) -> OperatorRegressor:
    return make_regressor(kind, family=table.family.name).fit(table.inputs, table.time_ms)
