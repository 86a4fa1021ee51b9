"""What a serving engine must be able to do to be measured, and what it hands back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from kvpred.data.requests import ServedRequests
from kvpred.errors import KvpredError, UsageError
from kvpred.hardware.engine_specs import get_engine_spec
from kvpred.methods import Method
from kvpred.models import ModelSpec


class EngineError(KvpredError):
    """An engine that could not do what it was asked: refused, hung, crashed, or served nonsense."""


@dataclass(frozen=True, slots=True)
class Target:
    """What an engine is to serve, and where.

    Parameters
    ----------
    model : ModelSpec
    weights : Path or None
        Folder or GGUF file of the weights; None where the engine has them already (a server), or for random
        ones where the engine can make them.
    device : str
        torch's name: ``cpu`` or ``cuda:0``.
    dtype : str
        Of weights and uncompressed cache: ``bfloat16``, ``float16`` or ``float32``.
    max_tokens : int
        Most tokens, prompt and answer, that all sequences of a batch hold together.
    max_bsz, max_seq_len : int
        Most sequences of a batch, and tokens, prompt and answer, of one of them.
    urls : mapping of str to str
        Of servers: full method string to the address of the server that runs it; ``""`` for every method.
    served_name : str or None
        The model's name at a server, if not the only one that it serves.
    options : mapping of str to str
        The engine's own options, as given by ``--option key=value``.
    seed : int
        Of random weights and prompts.
    """

    model: ModelSpec
    weights: Path | None = None
    device: str = "cpu"
    dtype: str = "bfloat16"
    max_tokens: int = 8192
    max_bsz: int = 8
    max_seq_len: int = 8192
    urls: Mapping[str, str] = field(default_factory=dict)
    served_name: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Generation:
    """One batch, served from its submission to its last token.

    Parameters
    ----------
    prompt_tokens : tuple of int
        Tokens of each prompt, as the engine counted them.
    arrivals_s : tuple of tuple of float
        Of each sequence: seconds from the batch's submission to the arrival of each new token, at the client.
    own_ttft_s, own_tpot_s : float or None
        The engine's own timings of what `ttft_s` and `tpot_s` are, where it has any: means over the batch.
    peak_memory_bytes : int or None
        Of the process, or of the device, during this batch.
    """

    prompt_tokens: tuple[int, ...]
    arrivals_s: tuple[tuple[float, ...], ...]
    own_ttft_s: float | None = None
    own_tpot_s: float | None = None
    peak_memory_bytes: int | None = None

    @property
    def bsz(self) -> int:
        """Sequences in the batch."""
        return len(self.arrivals_s)

    @property
    def output_len(self) -> int:
        """Tokens of the shortest answer."""
        return min(map(len, self.arrivals_s))

    @property
    def prefill_time_s(self) -> float:
        """Seconds until every sequence has its first token."""
        return max(arrivals[0] for arrivals in self.arrivals_s)

    @property
    def ttft_s(self) -> float:
        """Mean seconds to a sequence's first token."""
        return sum(arrivals[0] for arrivals in self.arrivals_s) / self.bsz

    @property
    def tpot_s(self) -> float:
        """Seconds of a decode step while all sequences decode.

        From the last first token to the earliest last one: the mean gap of each sequence's tokens there, and
        the mean of these. NaN if there is no such window, because the engine served the sequences one after
        another or answers have a single token.
        """
        begin, end = self.prefill_time_s, min(arrivals[-1] for arrivals in self.arrivals_s)
        if end <= begin:
            return float("nan")
        # Tokens of one step arrive a little after one another, and belong together.
        slack = (end - begin) / (2 * self.output_len)
        within = [
            [at for at in arrivals if begin - slack <= at <= end + slack] for arrivals in self.arrivals_s
        ]
        gaps = [(own[-1] - own[0]) / (len(own) - 1) for own in within if len(own) > 1]
        return sum(gaps) / len(gaps) if gaps else float("nan")

    @property
    def e2e_s(self) -> float:
        """Seconds until the last token of the batch."""
        return max(arrivals[-1] for arrivals in self.arrivals_s)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that comes while others are served.

    Parameters
    ----------
    id : str
    at_s : float
        Seconds after the first one.
    prompt : str
        A text, taken as it stands.
    output_len : int
        Tokens to answer with, past any stop token.
    """

    id: str
    at_s: float
    prompt: str
    output_len: int


@dataclass(frozen=True, slots=True)
class Usage:
    """How much KV cache a running sequence takes, as the engine itself counts it.

    Compared with fp16's `Usage` on the same engine this proves that a method took effect. What an engine
    cannot tell is None.

    Parameters
    ----------
    kv_len : int
        Tokens of the sequence, prompt and answer, when it was counted.
    cache_bytes : float or None
        Bytes that it took.
    cache_tokens : float or None
        Tokens that it took, or the tokens of its pages.
    capacity_tokens : float or None
        Tokens that the whole cache holds, where its bytes do not depend on the method.
    source : str
        Where the figures come from: a metric's name, a log line.
    """

    kv_len: int
    cache_bytes: float | None = None
    cache_tokens: float | None = None
    capacity_tokens: float | None = None
    source: str = ""


class Engine(ABC):
    """One engine, started with the methods that it is to serve at the same time.

    An engine does its work in the process that holds it; `kvpred.engines.worker.Worker` puts one into a
    process of its own.

    Parameters
    ----------
    target : Target
    methods : sequence of Method
        One method, unless the class is `shared`.

    Raises
    ------
    UsageError
        If it does not serve one of the methods, or the target lacks something.
    MissingExtraError
        If the engine is not installed.
    EngineError
        If it does not start.
    """

    name: ClassVar[str]
    """As in `kvpred.hardware.engine_specs`."""
    shared: ClassVar[bool] = False
    """Whether one instance serves all methods with one copy of the weights."""
    remote: ClassVar[bool] = False
    """Whether the work is done by a server that someone else started."""

    def __init__(self, target: Target, methods: Sequence[Method]) -> None:
        self.target = target
        self.methods = tuple(methods)

    @property
    def random_weights(self) -> bool:
        """Whether it made up its weights, so that its text says nothing."""
        return self.target.weights is None and not self.remote

    @classmethod
    def method_names(cls) -> tuple[str, ...]:
        """Return the bare names of the methods that it serves."""
        return get_engine_spec(cls.name).methods

    @abstractmethod
    def generate(
        self, method: Method, *, bsz: int, prompt_len: int, output_len: int, seed: int
    ) -> Generation:
        """Serve one true batch of random prompts, greedily, to `output_len` tokens each, past any stop token.

        All sequences are submitted at once, prefilled together as far as the engine can, and decoded
        together. No prefix is shared with an earlier batch.

        Raises
        ------
        UsageError
            If prompt and answer do not fit into the model's context.
        EngineError
            If the engine fails, or answers with fewer tokens than asked.
        """

    def serve(self, method: Method, arrivals: Sequence[Arrival]) -> ServedRequests:
        """Serve requests as they come, greedily, as the engine's own scheduler batches them.

        Parameters
        ----------
        method : Method
        arrivals : sequence of Arrival
            In the order in which they come.

        Raises
        ------
        UsageError
            If the engine cannot be fed over time, or a request does not fit into the model's context.
        EngineError
            If the engine fails.
        """
        raise UsageError(
            f"{self.name} cannot be fed over time by kvpred: use openvino or transformers-paged."
        )

    @abstractmethod
    def complete(self, method: Method, prompt: str, *, max_tokens: int) -> str:
        """Return a greedy continuation of a text."""

    @abstractmethod
    def usage(self, method: Method, *, prompt_len: int, output_len: int) -> Usage | None:
        """Serve one sequence and count its cache while, or right after, it decodes; None if nothing tells."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Return the versions of what does the work."""

    def settings(self, method: Method) -> dict[str, Any]:
        """Return the settings that a method's speed may depend on, as JSON can hold them."""
        return {}

    def close(self) -> None:  # noqa: B027 (most engines hold nothing but memory)
        """End what it started; may be called twice."""


def listed_versions(versions: Mapping[str, str]) -> str:
    """Return versions as one text, as runs and lengths carry them."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())
