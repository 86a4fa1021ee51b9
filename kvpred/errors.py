"""What can go wrong, each kind with the exit code that the command line promises."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path


class KvpredError(Exception):
    """Base of every error that kvpred raises on purpose; its text is one paragraph for a person to read."""

    exit_code = 1


class UsageError(KvpredError):
    """A request that makes no sense as asked: an unknown name, a parameter out of range."""

    exit_code = 2


def unknown_name(
    kind: str,
    name: object,
    known: Iterable[str],
    *,
    spellings: Mapping[str, str] | None = None,
    otherwise: str = "",
) -> UsageError:
    """Return the error that a name is not known, with the nearest one that is.

    Parameters
    ----------
    kind : str
        What it names, such as ``method``.
    name : object
        As it was written.
    known : iterable of str
        All that it could have been.
    spellings : mapping of str to str, optional
        Ways to write them, all in small letters and with hyphens, to the nearest of which is pointed; `known`
        if not given.
    otherwise : str
        What else can be done, added to the list.

    Examples
    --------
    >>> print(unknown_name("engine", "vlm", ["lmdeploy", "vllm"]))
    Engine 'vlm' is not known. Did you mean vllm? Known engines: lmdeploy, vllm.
    """
    known = list(known)
    nearest = dict(spellings or zip(known, known, strict=True))
    written = str(name).strip().lower().replace("_", "-").replace(" ", "-")
    close = difflib.get_close_matches(written, nearest, n=1)
    hint = f" Did you mean {nearest[close[0]]}?" if close else ""
    return UsageError(
        f"{kind.capitalize()} {str(name)[:80]!r} is not known.{hint} "
        f"Known {kind}s: {', '.join(known)}{otherwise}."
    )


class DataError(KvpredError):
    """Input data that cannot be used, with the place where it is wrong.

    Parameters
    ----------
    message : str
        What is wrong and what to do about it.
    path, row, column, value
        Where it is wrong. `row` is the line of the file as an editor counts it (the header is line 1).
    """

    exit_code = 3

    def __init__(
        self,
        message: str,
        *,
        path: Path | str | None = None,
        row: int | None = None,
        column: str | None = None,
        value: object = None,
    ) -> None:
        self.path, self.row, self.column, self.value = path, row, column, value
        places = [
            f"{path}" if path is not None else "",
            f"line {row}" if row is not None else "",
            f"column '{column}'" if column is not None else "",
            f"value {str(value)[:80]!r}" if value is not None else "",
        ]
        where = ", ".join(place for place in places if place)
        super().__init__(f"{where}: {message}" if where else message)


class NotCoveredError(KvpredError):
    """No basis for an estimate: nothing measured and nothing to transfer from."""

    exit_code = 4


class DoesNotFitError(KvpredError):
    """The request needs more memory than the device has (only with ``--strict``)."""

    exit_code = 5


class MissingExtraError(KvpredError):
    """An optional dependency is not installed.

    Parameters
    ----------
    package : str
        The import name that is missing.
    extra : str
        The extra of kvpred that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'kvpred[{extra}]' brings it.")
