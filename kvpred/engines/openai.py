"""Any server with OpenAI's HTTP interface: vLLM, SGLang, LMDeploy, TGI, llama.cpp, ``transformers serve``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from kvpred.engines.base import Engine, EngineError, Generation, Target, Usage
from kvpred.engines.openai_dialect import Dialect, Fields, find_dialect
from kvpred.engines.openai_server import RefusedError, Server
from kvpred.engines.sse import Answer
from kvpred.errors import UsageError
from kvpred.methods import Method

_TRIES = 3


class OpenAI(Engine):
    """Requests to servers that someone else started, one for each method.

    All requests of a batch are sent at once from one event loop; tokens are timed as they arrive. Prompts are
    random, and new in every call, so that no prefix cache knows them: token numbers where the server takes
    them, else common words, as many as make the length by the server's own count, within 2 %. Where there is
    no ``/v1/completions`` they go to ``/v1/chat/completions``, and the template's tokens are part of them.

    Parameters
    ----------
    target : Target
        `urls` names the servers, `served_name` the model there if it serves several; option ``timeout_s`` is
        the longest wait for the next part of an answer, 120 s if not given. The API key is read from
        OPENAI_API_KEY.
    methods : sequence of Method
        A server keeps one kind of KV cache: each method needs a server of its own.
    """

    name: ClassVar[str] = "openai"
    shared: ClassVar[bool] = True
    remote: ClassVar[bool] = True

    def __init__(self, target: Target, methods: Sequence[Method]) -> None:
        super().__init__(target, methods)
        timeout_s = _timeout_s(target)
        self._servers: dict[str, Server] = {}
        for method in methods:
            url = target.urls.get(method.spec) or target.urls.get("")
            if not url:
                raise UsageError(f"No server is named for {method.spec}: give --url {method.spec}=URL.")
            server = Server(url, timeout_s=timeout_s)
            for other, taken in self._servers.items():
                if taken.shown == server.shown:
                    raise UsageError(
                        f"{server.shown} is named for {other} and for {method.spec}, but a server keeps one "
                        "kind of KV cache: start one for each method, and give --url METHOD=URL for each."
                    )
            self._servers[method.spec] = server
        self._dialects: dict[str, Dialect] = {}

    def generate(
        self, method: Method, *, bsz: int, prompt_len: int, output_len: int, seed: int
    ) -> Generation:
        """Send one batch of random prompts.

        `kvpred.engines.sse.read_answer` says when tokens arrive that come together.

        Raises
        ------
        UsageError
            If the server refuses that many tokens.
        EngineError
            If it fails, or its answers or prompts have other lengths than asked.
        """
        dialect = self._dialect(method)
        for _ in range(_TRIES):
            answers = self._answers(dialect, bsz=bsz, prompt_len=prompt_len, output_len=output_len, seed=seed)
            _check_lengths(answers, output_len, dialect)
            if dialect.fits(answers, prompt_len):
                return _generation(answers)
        got = ", ".join(str(answer.prompt_tokens) for answer in answers)
        raise EngineError(
            f"{dialect.server.shown} counts {got} tokens in prompts that should have {prompt_len:,}, after "
            f"{_TRIES} tries: it may cut prompts, or count them oddly. Use another length, or see its log."
        )

    def complete(self, method: Method, prompt: str, *, max_tokens: int) -> str:
        """Continue a text, or answer it where the server has chat alone."""
        dialect = self._dialect(method)
        body = dialect.body(prompt, max_tokens, full_length=False)
        return dialect.server.stream(dialect.path, lambda: [body])[0].text

    def usage(self, method: Method, *, prompt_len: int, output_len: int) -> Usage | None:
        """Read the server's metrics while one sequence runs.

        vLLM and SGLang tell the capacity in tokens, TGI does so in ``/info``, LMDeploy tells the share in
        use, from which the capacity follows; llama.cpp and ``transformers serve`` tell nothing. The prompt
        is shorter where the server says that its context is.

        Raises
        ------
        UsageError
            If the server says that it stores its cache as another method does.
        """
        dialect = self._dialect(method)
        server = dialect.server
        if context := server.context_tokens(dialect.model):
            prompt_len = max(min(prompt_len, context - output_len), 1)
        idle = server.cache_state()
        if idle is None:
            tokens = server.get_json("/info").get("max_batch_total_tokens")
            kv_len = prompt_len + output_len
            known = isinstance(tokens, int) and tokens > 0
            return Usage(kv_len, capacity_tokens=tokens, source="/info") if known else None
        if idle.method not in (None, method.name):
            raise UsageError(
                f"{server.shown} stores its cache as {idle.told['cache_dtype']}: that is {idle.method}, not "
                f"{method.name}. Give each method its own server, --url METHOD=URL."
            )
        prompt = dialect.prompt(prompt_len, seed=self.target.seed)
        with _saying_what_fits(prompt_len, output_len):
            answer, states = server.watch(dialect.path, dialect.body(prompt, output_len))
        kv_len = answer.prompt_tokens + len(answer.arrivals_s)
        share = max((state.used_share or 0.0 for state in states), default=0.0) - (idle.used_share or 0.0)
        capacity = idle.capacity_tokens or (kv_len / share if share > 0 else None)
        if capacity is None:
            return None
        used = share * idle.capacity_tokens if idle.capacity_tokens and share > 0 else None
        return Usage(kv_len, cache_tokens=used, capacity_tokens=capacity, source=idle.source)

    def versions(self) -> dict[str, str]:
        """Return what the servers tell of themselves; several answers to one question are joined."""
        found: dict[str, set[str]] = {}
        for server in self._servers.values():
            models = server.get_json("/v1/models").get("data") or [{}]
            told = {
                "server": server.software(),
                "owned_by": models[0].get("owned_by") if isinstance(models[0], dict) else None,
                "version": server.get_json("/version").get("version")
                or server.get_json("/info").get("version"),
                "build": server.get_json("/props").get("build_info"),
            }
            for what, value in told.items():
                if value:
                    found.setdefault(what, set()).add(str(value))
        return {what: " / ".join(sorted(values)) for what, values in found.items()}

    def settings(self, method: Method) -> dict[str, Any]:
        """Return the method's server, without credentials, how it is asked, and what it tells of its KV."""
        dialect = self._dialect(method)
        state = dialect.server.cache_state()
        return {
            "url": dialect.server.shown,
            "served_name": dialect.model,
            "endpoint": dialect.path,
            "prompts": "token ids" if dialect.token_ids else "words",
            "full_length_fields": sorted(dialect.full_length(1)),
            "cache": dict(state.told) if state else {},
        }

    def _dialect(self, method: Method) -> Dialect:
        if method.spec not in self._dialects:
            self._dialects[method.spec] = find_dialect(self._servers[method.spec], self.target)
        return self._dialects[method.spec]

    def _answers(
        self, dialect: Dialect, *, bsz: int, prompt_len: int, output_len: int, seed: int
    ) -> list[Answer]:
        def bodies() -> list[Fields]:
            return [dialect.body(dialect.prompt(prompt_len, seed=seed), output_len) for _ in range(bsz)]

        with _saying_what_fits(prompt_len, output_len):
            return dialect.server.stream(dialect.path, bodies)


@contextmanager
def _saying_what_fits(prompt_len: int, output_len: int) -> Iterator[None]:
    """Say of a request that a server refuses, after it took a short one, what is wrong with it."""
    try:
        yield
    except RefusedError as refusal:
        if refusal.status not in (400, 413, 422):
            raise
        raise UsageError(
            f"{refusal} It takes shorter requests: {prompt_len:,} + {output_len} tokens may be more than "
            "its context. Use a shorter --prompt-len, or start it with a longer context."
        ) from None


def _timeout_s(target: Target) -> float:
    unknown = set(target.options) - {"timeout_s"}
    if unknown:
        raise UsageError(f"openai has no option {sorted(unknown)[0]!r}: it has timeout_s.")
    given = target.options.get("timeout_s", "120")
    try:
        timeout_s = float(given)
    except ValueError:
        timeout_s = 0.0
    if not 0 < timeout_s < float("inf"):
        raise UsageError(f"timeout_s is {given!r}: give seconds, such as timeout_s=300.")
    return timeout_s


def _check_lengths(answers: Sequence[Answer], output_len: int, dialect: Dialect) -> None:
    lengths = sorted({len(answer.arrivals_s) for answer in answers})
    if lengths != [output_len]:
        ways = ", ".join(sorted(dialect.full_length(1))) or "nothing that asks to pass stop tokens"
        got = " and ".join(map(str, lengths))
        raise EngineError(
            f"{dialect.server.shown} answered with {got} tokens where {output_len} were asked: "
            f"a stop token ended the answer, or the context is full (it was sent {ways}). "
            "Ask for fewer tokens, or start the server with a longer context."
        )
    for answer in answers:
        if output_len > 1 and answer.arrivals_s[0] == answer.arrivals_s[-1]:
            raise EngineError(
                f"{dialect.server.shown} sent all {output_len} tokens of an answer at once, so that they "
                "cannot be timed: a proxy in between may hold streams back. Ask the server itself."
            )


def _generation(answers: Sequence[Answer]) -> Generation:
    # In a batch, servers time a request from where its own prefill begins; others' are among its steps.
    alone = len(answers) == 1
    return Generation(
        prompt_tokens=tuple(answer.prompt_tokens for answer in answers),
        arrivals_s=tuple(answer.arrivals_s for answer in answers),
        own_ttft_s=answers[0].own_ttft_s if alone else None,
        own_tpot_s=answers[0].own_tpot_s if alone else None,
    )
