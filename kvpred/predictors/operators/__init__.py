"""Operator times: regressors of one operator, sets of them for a profile, and their held-out errors."""

from kvpred.predictors.operators.auto import AutoRegressor
from kvpred.predictors.operators.base import OperatorRegressor, load_regressor, make_regressor
from kvpred.predictors.operators.features import DECODE, PREFILL, TOKENS, Family
from kvpred.predictors.operators.forest import ForestRegressor
from kvpred.predictors.operators.hybrid import HybridRegressor
from kvpred.predictors.operators.lightgbm import LightGBMRegressor
from kvpred.predictors.operators.operator_set import OperatorModel, OperatorSet, fit_operators
from kvpred.predictors.operators.physics import PhysicsRegressor
from kvpred.predictors.operators.tables import (
    ATTENTION_OPERATORS,
    OperatorTable,
    operator_tables,
    stage_operator,
)

__all__ = [
    "ATTENTION_OPERATORS",
    "DECODE",
    "PREFILL",
    "TOKENS",
    "AutoRegressor",
    "Family",
    "ForestRegressor",
    "HybridRegressor",
    "LightGBMRegressor",
    "OperatorModel",
    "OperatorRegressor",
    "OperatorSet",
    "OperatorTable",
    "PhysicsRegressor",
    "fit_operators",
    "load_regressor",
    "make_regressor",
    "operator_tables",
    "stage_operator",
]
