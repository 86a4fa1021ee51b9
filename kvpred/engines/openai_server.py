"""One OpenAI-compatible server: requests, streams with arrival times, and what can go wrong with them."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from kvpred.engines.base import EngineError
from kvpred.engines.server_metrics import CacheState, read_cache_state
from kvpred.engines.sse import Answer, Piece, is_over, read_answer
from kvpred.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    import httpx

KEY = "OPENAI_API_KEY"
_CONNECT_S = 10.0
_WAITS_S = (1.0, 2.0, 4.0)
"""Before each further try of a batch that a server was too busy for, unless the server says how long."""
_BUSY = (429, 503)
_MOST_WAIT_S = 30.0
_POLL_S = 0.02
_SHOWN = 500

Body = Mapping[str, Any]


class RefusedError(EngineError):
    """A request that the server answered with an error status."""

    def __init__(self, message: str, *, status: int, retry_after: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.wait_s = float(retry_after) if retry_after.isdecimal() else None


class Server:
    """A server's address, and how to talk to it.

    Every call opens its connections and closes them. The API key is read from the environment at each call,
    sent to this address alone, and struck from every message.

    Parameters
    ----------
    url : str
        Such as ``http://localhost:8000``; a trailing ``/v1`` may be given. User and password in it are used,
        never shown.
    timeout_s : float
        Longest wait for the first and for each further event of an answer.

    Raises
    ------
    UsageError
        If that is no URL.
    MissingExtraError
        Without httpx.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        try:
            import httpx
        except ImportError:
            raise MissingExtraError("httpx", "openai") from None
        try:
            parsed = httpx.URL(url.strip())
        except httpx.InvalidURL:
            parsed = httpx.URL("")
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise UsageError("The server's URL is none: give one such as http://localhost:8000.")
        path = parsed.path.rstrip("/").removesuffix("/v1")
        # httpx logs whole URLs.
        self._user = (parsed.username, parsed.password) if parsed.userinfo else None
        bare = httpx.URL(scheme=parsed.scheme, host=parsed.host, port=parsed.port, path=path or "/")
        self.shown = str(bare).rstrip("/")
        self._timeout_s = timeout_s

    def stream(self, path: str, bodies: Callable[[], Sequence[Body]]) -> list[Answer]:
        """Send a batch of streaming requests at once, and read their answers.

        A batch that the server was too busy for is sent again as a whole, since only all of it together is a
        true batch.

        Parameters
        ----------
        path : str
        bodies : callable
            Makes the requests of one try; other ones each time, or a prefix cache would know them.

        Raises
        ------
        EngineError
            If the server is down, refuses, hangs, or answers with something else; a `RefusedError` where a
            status says so.
        """
        for wait_s in (*_WAITS_S, None):
            try:
                return asyncio.run(self._stream(path, bodies()))
            except RefusedError as refusal:
                if refusal.status not in _BUSY or wait_s is None:
                    raise
                time.sleep(min(wait_s if refusal.wait_s is None else refusal.wait_s, _MOST_WAIT_S))
        raise AssertionError("the last try returns or raises")

    def watch(self, path: str, body: Body) -> tuple[Answer, list[CacheState]]:
        """Stream one answer, and read the cache's state all the while."""
        return asyncio.run(self._watch(path, body))

    def get_json(self, path: str) -> dict[str, Any]:
        """Return the JSON object at a path; an empty one if there is none."""
        return _object(asyncio.run(self._get(path)))

    def software(self) -> str | None:
        """Return what the server's headers say it is."""
        headers: Mapping[str, str] = asyncio.run(self._get("/v1/models")).headers
        return headers.get("server")

    def cache_state(self) -> CacheState | None:
        """Return the KV cache's state now, if the server has metrics that tell it."""
        response = asyncio.run(self._get("/metrics"))
        return read_cache_state(response.text) if response.status_code == 200 else None

    def model_names(self) -> list[str]:
        """List the models that it says it serves; none if it does not say.

        Raises
        ------
        EngineError
            If it is no API that may be used: down, hanging, denied, or a web site.
        """
        return [str(model.get("id")) for model in self._models()]

    def context_tokens(self, model: str) -> int | None:
        """Return the most tokens of a sequence, prompt and answer, if the server says so (vLLM, SGLang)."""
        told = {str(found.get("id")): found.get("max_model_len") for found in self._models()}.get(model)
        return told if isinstance(told, int) and told > 0 else None

    def _models(self) -> list[dict[str, Any]]:
        models = asyncio.run(self._get("/v1/models", strict=True))
        return [model for model in _object(models).get("data") or [] if isinstance(model, dict)]

    async def _get(self, path: str, *, strict: bool = False) -> httpx.Response:
        async with self._client() as client, self._blaming():
            response = await client.get(path)
        if strict and (wrong := self._no_api(response)):
            raise wrong
        return response

    async def _stream(self, path: str, bodies: Sequence[Body]) -> list[Answer]:
        async with self._client() as client:
            # Connections are opened before the clock starts: a first token takes no handshake.
            await asyncio.gather(*(self._greet(client) for _ in bodies))
            begin = time.perf_counter()
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._receive(client, path, body, begin)) for body in bodies]
            except BaseExceptionGroup as failures:
                raise failures.exceptions[0] from None
        return [self._read(task.result()) for task in tasks]

    async def _watch(self, path: str, body: Body) -> tuple[Answer, list[CacheState]]:
        states = []
        async with self._client() as client:
            answering = asyncio.create_task(self._receive(client, path, body, time.perf_counter()))
            try:
                while not answering.done():
                    async with self._blaming():
                        response = await client.get("/metrics")
                    states.append(read_cache_state(response.text))
                    await asyncio.wait([answering], timeout=_POLL_S)
                return self._read(await answering), [state for state in states if state is not None]
            finally:
                answering.cancel()

    async def _greet(self, client: httpx.AsyncClient) -> None:
        async with self._blaming():
            await client.get("/health")

    async def _receive(self, client: httpx.AsyncClient, path: str, body: Body, begin: float) -> list[Piece]:
        """Return an answer's bytes with their arrivals; reading them waits, so that it delays no other."""
        import httpx

        pieces: list[Piece] = []
        # Not bytes, such as the comments that keep a connection alive, but events count as signs of life.
        patient = httpx.Timeout(None, connect=_CONNECT_S)
        most = 1000 + 100 * int(body["max_tokens"])
        try:
            async with (
                self._blaming(),
                asyncio.timeout(self._timeout_s) as limit,
                client.stream("POST", path, json=body, timeout=patient) as response,
            ):
                await self._check(response)
                try:
                    async for piece in response.aiter_raw():
                        pieces.append((time.perf_counter() - begin, piece))
                        if is_over(piece):
                            break
                        if b"data:" in piece:
                            limit.reschedule(asyncio.get_running_loop().time() + self._timeout_s)
                        if len(pieces) > most:
                            raise EngineError(f"{self.shown} does not heed max_tokens: see its log.")
                except httpx.TransportError:
                    if not pieces:
                        raise
        except TimeoutError:
            raise self._hang(len(pieces)) from None
        return pieces

    def _read(self, pieces: Sequence[Piece]) -> Answer:
        try:
            return read_answer(pieces)
        except EngineError as error:
            raise EngineError(self._struck(f"{self.shown} {error}: see its log.")) from None

    async def _check(self, response: httpx.Response) -> None:
        """Refuse an answer that is no stream of events."""
        status, kind = response.status_code, response.headers.get("content-type", "")
        if status == 200 and "html" not in kind and "json" not in kind:
            return
        await response.aread()
        if wrong := self._no_api(response):
            raise wrong
        text = self._struck(_message(response.text))
        if status == 200:
            raise EngineError(f"{self.shown} does not stream its answers; it sent {text}")
        busy = " It was asked several times: use smaller batches, or wait." if status in _BUSY else ""
        raise RefusedError(
            f"{self.shown} answers {status}: {text}.{busy}",
            status=status,
            retry_after=response.headers.get("retry-after", ""),
        )

    def _no_api(self, response: httpx.Response) -> EngineError | None:
        """Say why an answer does not come from an API that may be used, if so."""
        status = response.status_code
        if response.is_redirect:
            to = response.url.join(response.headers.get("location", ""))
            to = to.copy_with(username=None, password=None, query=None)
            return EngineError(
                f"{self.shown} redirects to {to}: give the address that serves itself in --url."
            )
        if status in (401, 403):
            given = "the key given is not accepted" if _key() else "no key is given"
            message = f"{self.shown} refuses access ({status}), {given}: set {KEY} in the environment."
            return RefusedError(message, status=status)
        if status == 200 and "html" in response.headers.get("content-type", ""):
            return EngineError(f"{self.shown} answers with an HTML page: give the API's address in --url.")
        return None

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        import httpx

        headers = {"Accept-Encoding": "identity"}
        if key := _key():
            headers["Authorization"] = f"Bearer {key}"
        async with httpx.AsyncClient(
            base_url=self.shown,
            auth=self._user,
            headers=headers,
            timeout=httpx.Timeout(self._timeout_s, connect=_CONNECT_S),
            limits=httpx.Limits(max_connections=None),
        ) as client:
            yield client

    @asynccontextmanager
    async def _blaming(self) -> AsyncIterator[None]:
        """Say of which server an error of the transport is."""
        import httpx

        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            what = str(error) or "no answer"
            raise EngineError(f"No server is at {self.shown} ({what}): start it, or correct --url.") from None
        except httpx.TimeoutException:
            raise self._hang(0) from None
        except httpx.TransportError as error:
            what = self._struck(str(error) or type(error).__name__)
            raise EngineError(f"{self.shown} breaks off without an answer ({what}): see its log.") from None

    def _hang(self, n_parts: int) -> EngineError:
        after = f"after {n_parts} parts of an answer" if n_parts else "in answer to a request"
        return EngineError(
            f"{self.shown} hangs: nothing came for {self._timeout_s:g} s {after}. See its log, or allow more "
            "time with --option timeout_s=SECONDS."
        )

    def _struck(self, text: str) -> str:
        key = _key()
        return text.replace(key, "***") if key else text


def _key() -> str:
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UsageError(f"{KEY} holds characters that no key has: set it anew.")
    return key


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        found = response.json() if response.status_code == 200 else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _message(text: str) -> str:
    """Return what an error's body says, whichever of the usual forms it has."""
    try:
        found = json.loads(text)
        for name in ("error", "message", "detail"):
            found = found.get(name, found) if isinstance(found, dict) else found
    except ValueError:
        found = "an HTML page" if text.lstrip()[:1] == "<" else text
    shown = found if isinstance(found, str) else json.dumps(found)
    return " ".join(shown.split())[:_SHOWN].rstrip(".") or "nothing"
