"""What a prompt's words say of the answer's length: ridge regressions on hashed words and pairs of words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from kvpred.data.files import read_text, write_text
from kvpred.errors import MissingExtraError
from kvpred.predictors.length.features import excerpt

Floats = NDArray[np.float64]
# Hash buckets: with a quarter of them the mean absolute error of first answers rises by 3 tokens.
_BUCKETS = 2**14
# Of the ridge regressions: 3, 10 and 30 were tried, the rank correlation is flat between 3 and 10.
_ALPHA = 10.0
# Characters of a prompt that are read: the head and the tail of a long one.
_HEAD_CHARS, _TAIL_CHARS = 800, 400
_TOKENS = r"(?u)\b\w+\b|[?!:\n]"
# Digits kept of a coefficient, and of an intercept: the last ones depend on the number of threads.
_DIGITS, _INTERCEPT_DIGITS = 4, 8


class TextScores:
    """Linear scores of a text, one for each target; words are hashed, so that none is stored.

    Attributes
    ----------
    idf_ : array, shape (2**14,)
        Inverse document frequencies of the buckets.
    coef_ : array, shape (n_targets, 2**14)
    intercept_ : array, shape (n_targets,)
    """

    def __init__(self) -> None:
        self._hasher: Any = None

    def fit(self, texts: Sequence[str], targets: Floats, *, weights: Floats) -> Self:
        """Fit one ridge regression per target; `targets` has shape (n, n_targets)."""
        from sklearn.feature_extraction.text import TfidfTransformer
        from sklearn.linear_model import Ridge

        counts = self._counts(texts)
        tfidf = TfidfTransformer(sublinear_tf=True)
        ridge = Ridge(alpha=_ALPHA).fit(tfidf.fit_transform(counts), targets, sample_weight=weights)
        self.idf_: Floats = _short(tfidf.idf_)
        self.coef_: Floats = _short(ridge.coef_)
        self.intercept_: Floats = _short(ridge.intercept_, digits=_INTERCEPT_DIGITS)
        return self

    def predict(self, texts: Sequence[str]) -> Floats:
        """Return the scores, shape (n, n_targets)."""
        counts = self._counts(texts)
        counts.data = (1 + np.log(counts.data)) * self.idf_[counts.indices]
        norms = np.sqrt(counts.multiply(counts).sum(axis=1)).A1
        scores: Floats = counts @ self.coef_.T
        scores = scores / np.maximum(norms, 1e-12)[:, None] + self.intercept_
        return scores

    def save(self, path: Path) -> None:
        """Write the coefficients as JSON."""
        fitted = {"idf": self.idf_, "coef": self.coef_, "intercept": self.intercept_}
        write_text(path, json.dumps({name: value.tolist() for name, value in fitted.items()}) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        scores = cls()
        fitted = {name: np.array(value) for name, value in json.loads(read_text(path)).items()}
        scores.idf_, scores.coef_, scores.intercept_ = fitted["idf"], fitted["coef"], fitted["intercept"]
        return scores

    def _counts(self, texts: Sequence[str]) -> Any:
        if self._hasher is None:
            try:
                from sklearn.feature_extraction.text import HashingVectorizer
            except ModuleNotFoundError:
                raise MissingExtraError("sklearn", "train") from None
            self._hasher = HashingVectorizer(
                n_features=_BUCKETS,
                ngram_range=(1, 2),
                alternate_sign=False,
                norm=None,
                token_pattern=_TOKENS,
            )
        return self._hasher.transform(excerpt(text, _HEAD_CHARS, _TAIL_CHARS) for text in texts)


def _short(values: Floats, digits: int = _DIGITS) -> Floats:
    """Round to a few significant digits: what a file then holds is what was fitted."""
    return np.array([float(f"{value:.{digits}g}") for value in values.ravel()]).reshape(values.shape)
