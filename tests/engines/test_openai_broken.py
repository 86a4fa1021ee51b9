"""The `openai` engine against servers that misbehave: each is a foreign server of the standard library."""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kvpred.engines.base import EngineError, Generation, Target
from kvpred.engines.openai import OpenAI
from kvpred.engines.openai_server import Server as OpenAIServer
from kvpred.errors import KvpredError, MissingExtraError, UsageError
from kvpred.methods import get_method
from tests.tiny import TINY

FP16, INT8 = get_method("fp16"), get_method("kv-int8")
KEY = "sk-never-to-be-seen-0123456789"
N_TOKENS = 4
Reply = Callable[["Handler", dict[str, Any]], None]


class Handler(BaseHTTPRequestHandler):
    """One request; `reply` of the server answers those that are posted."""

    server: Server

    def do_GET(self) -> None:
        found = self.server.pages.get(self.path)
        text = found() if callable(found) else found
        self.send(
            200 if text is not None else 404, text or '{"error": "no such page"}', kind="application/json"
        )

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.server.headers.append(dict(self.headers))
        # The engine asks for one token to find out how a server is to be asked.
        reply = good if body["max_tokens"] == 1 and not self.server.from_start else self.server.reply
        reply(self, body)

    def send(self, status: int, text: str, *, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(text.encode()))}.items():
            self.send_header(name, value)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(text.encode())

    def begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()

    def event(self, event: object) -> None:
        text = event if isinstance(event, str) else json.dumps(event)
        self.wfile.write(f"data: {text}\n\n".encode())
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    reply: Reply
    from_start: bool

    def __init__(self, reply: Reply, *, from_start: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.from_start = reply, from_start  # type: ignore[method-assign]
        self.pages: dict[str, Any] = {"/v1/models": '{"data": [{"id": "toy"}]}'}
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves is no error."""


@contextmanager
def serving(reply: Reply, *, from_start: bool = False, **pages: Any) -> Iterator[Server]:
    with Server(reply, from_start=from_start) as server:
        server.pages |= {f"/{path.replace('__', '/')}": page for path, page in pages.items()}
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


def prompt_tokens(body: dict[str, Any]) -> int:
    prompt = body["prompt"]
    return len(prompt) if isinstance(prompt, list) else len(prompt.split())


def usage(body: dict[str, Any], n_tokens: int | None = None) -> dict[str, Any]:
    tokens = body["max_tokens"] if n_tokens is None else n_tokens
    return {"choices": [], "usage": {"prompt_tokens": prompt_tokens(body), "completion_tokens": tokens}}


def text(text: str = "x", **fields: Any) -> dict[str, Any]:
    return {"choices": [{"text": text, **fields}]}


def good(handler: Handler, body: dict[str, Any], *, n_tokens: int | None = None) -> None:
    handler.begin_stream()
    for _ in range(body["max_tokens"] if n_tokens is None else n_tokens):
        handler.event(text())
        time.sleep(0.002)
    handler.event(usage(body, n_tokens))
    handler.event("[DONE]")


def status(code: int, message: str = '{"error": {"message": "told by the server"}}', **headers: str) -> Reply:
    return lambda handler, body: handler.send(code, message, **headers)


def engine(url: str, **changes: Any) -> OpenAI:
    options = {"timeout_s": "20"} | changes.pop("options", {})
    return OpenAI(Target(TINY, urls={"": url}, options=options, **changes), [FP16])


def generate(engine: OpenAI, *, bsz: int = 1, prompt_len: int = 16) -> Generation:
    return engine.generate(FP16, bsz=bsz, prompt_len=prompt_len, output_len=N_TOKENS, seed=0)


def refusal(server: Server, kind: type[KvpredError] = EngineError, **changes: Any) -> str:
    """Return what the engine says of a server, which it names."""
    with pytest.raises(kind) as caught:
        generate(engine(server.url, **changes))
    assert server.url in str(caught.value)
    return str(caught.value)


def open_sockets() -> Counter[str]:
    found: Counter[str] = Counter()
    for link in Path("/proc/self/fd").iterdir():
        try:
            found[str(link.readlink()).partition(":")[0]] += 1
        except OSError:
            continue
    return found


@pytest.fixture(autouse=True)
def nothing_left_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    threads, sockets = threading.active_count(), open_sockets()["socket"]
    yield
    for _ in range(200):
        if threading.active_count() <= threads and open_sockets()["socket"] <= sockets:
            return
        time.sleep(0.01)
    pytest.fail(f"left behind: {threading.enumerate()}, {open_sockets()['socket']} of {sockets} sockets")


def test_a_good_server_is_measured() -> None:
    with serving(good) as server:
        found = generate(engine(server.url))
    assert found.prompt_tokens == (16,)
    assert found.output_len == N_TOKENS
    assert 0 < found.ttft_s < found.e2e_s


def test_a_batch_is_in_flight_at_once() -> None:
    all_there = threading.Barrier(3, timeout=10)

    def reply(handler: Handler, body: dict[str, Any]) -> None:
        all_there.wait()
        good(handler, body)

    with serving(reply) as server:
        found = generate(engine(server.url), bsz=3)
        prompts = [tuple(body["prompt"][:4]) for body in server.asked if body["max_tokens"] == N_TOKENS]
    assert found.bsz == 3
    assert len(set(prompts)) == 3


def test_server_down() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(EngineError, match=f"No server is at {url} .*start it, or correct --url"):
        generate(engine(url))


@pytest.mark.parametrize("code", [401, 403])
def test_access_refused_names_the_variable(code: int) -> None:
    with serving(status(code), from_start=True) as server:
        assert f"refuses access ({code}), no key is given: set OPENAI_API_KEY" in refusal(server)


def test_the_key_is_sent_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def echo(handler: Handler, body: dict[str, Any]) -> None:
        handler.send(400, json.dumps({"error": {"message": f"bad {handler.headers['Authorization']}"}}))

    with serving(echo) as server:
        with pytest.raises(KvpredError, match=r"bad Bearer \*\*\*") as caught:
            generate(engine(server.url))
        assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert KEY not in "".join(traceback.format_exception(caught.value)) + caplog.text


def test_a_key_that_cannot_be_sent_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "schlüssel")
    with serving(good) as server, pytest.raises(UsageError, match="OPENAI_API_KEY holds") as caught:
        generate(engine(server.url))
    assert "schlüssel" not in "".join(traceback.format_exception(caught.value))


def test_a_password_in_the_url_is_used_and_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(good) as server:
        one = engine(server.url.replace("//", "//me:secret-word@"))
        generate(one)
        assert server.headers[-1]["Authorization"].startswith("Basic ")
        assert one.settings(FP16)["url"] == server.url
    assert "secret-word" not in caplog.text


def hang(handler: Handler, body: dict[str, Any]) -> None:
    handler.begin_stream()
    handler.event(text())
    handler.server.closing.wait(20)


def ping(handler: Handler, body: dict[str, Any]) -> None:
    handler.begin_stream()
    handler.event(text())
    while not handler.server.closing.wait(0.05):
        handler.wfile.write(b": still here\n\n")
        handler.wfile.flush()


@pytest.mark.parametrize("reply", [hang, ping])
def test_hanging_in_mid_stream(reply: Reply) -> None:
    with serving(reply) as server:
        message = refusal(server, options={"timeout_s": "0.5"})
    assert "hangs: nothing came for 0.5 s after" in message
    assert "timeout_s=SECONDS" in message


def test_hanging_before_an_answer() -> None:
    def silent(handler: Handler, body: dict[str, Any]) -> None:
        handler.server.closing.wait(20)

    with serving(silent) as server:
        assert "nothing came for 0.5 s in answer" in refusal(server, options={"timeout_s": "0.5"})


@pytest.mark.parametrize("code", [429, 503])
def test_busy_is_tried_again_with_other_prompts(code: int) -> None:
    def reply(handler: Handler, body: dict[str, Any]) -> None:
        tries = sum(asked["max_tokens"] == N_TOKENS for asked in handler.server.asked)
        (status(code, Retry_After="0") if tries < 3 else good)(handler, body)

    with serving(reply) as server:
        assert generate(engine(server.url)).output_len == N_TOKENS
        prompts = [str(body["prompt"]) for body in server.asked if body["max_tokens"] == N_TOKENS]
    assert len(prompts) == len(set(prompts)) == 3


def test_busy_for_good() -> None:
    with serving(status(429, Retry_After="0")) as server:
        message = refusal(server)
        assert sum(body["max_tokens"] == N_TOKENS for body in server.asked) == 4
    assert "answers 429: told by the server" in message
    assert "use smaller batches, or wait" in message


def test_internal_error_is_not_tried_again() -> None:
    with serving(status(500)) as server:
        assert "answers 500: told by the server" in refusal(server)
        assert sum(body["max_tokens"] == N_TOKENS for body in server.asked) == 1


def stream_of(*events: object, done: bool = True) -> Reply:
    def reply(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin_stream()
        for event in events:
            handler.event(usage(body) if event == "usage" else event)
        if done:
            handler.event("[DONE]")

    return reply


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (stream_of(text(), '{"choices": [{"te'), "sent a malformed event after 1 good ones: '{\"choices"),
        (stream_of(text(), "[1, 2]"), "sent a malformed event"),
        (
            stream_of(text(), {"error": {"message": "out of memory"}}),
            "failed after 1 events: .*out of memory",
        ),
        (stream_of(text(), text(), done=False), "cut its stream after 2 events"),
        (stream_of(done=False), "cut its stream after 0 events"),
        (stream_of(*[text()] * N_TOKENS), "did not report `usage`"),
        (stream_of(text("x" * N_TOKENS), "usage"), f"sent all {N_TOKENS} tokens of an answer at once"),
    ],
)
def test_broken_streams(reply: Reply, said: str) -> None:
    with serving(reply) as server, pytest.raises(EngineError, match=said):
        generate(engine(server.url))


def test_connection_dropped_without_an_answer() -> None:
    def drop(handler: Handler, body: dict[str, Any]) -> None:
        handler.close_connection = True

    with serving(drop) as server:
        assert "breaks off without an answer" in refusal(server)


def test_max_tokens_not_heeded() -> None:
    def endless(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin_stream()
        while not handler.server.closing.is_set():
            handler.event(text())
            time.sleep(0.0005)

    with serving(endless) as server:
        assert "does not heed max_tokens" in refusal(server)


def test_fewer_tokens_than_asked() -> None:
    with serving(lambda handler, body: good(handler, body, n_tokens=2)) as server:
        message = refusal(server)
    assert f"answered with 2 tokens where {N_TOKENS} were asked: a stop token" in message
    assert "it was sent ignore_eos, min_tokens" in message


def test_a_wrong_model_name_shows_the_right_ones() -> None:
    missing = status(404, '{"object": "error", "message": "The model `mine` does not exist."}')
    with serving(missing, from_start=True) as server:
        message = refusal(server, served_name="mine")
    assert "answers 404: The model `mine` does not exist" in message
    assert "it lists toy. Correct --served-name" in message


def test_one_of_several_models_must_be_named() -> None:
    models = '{"data": [{"id": "one"}, {"id": "two"}]}'
    with serving(good, v1__models=models) as server:
        assert "serves one, two: give one's name with --served-name" in refusal(server, UsageError)
        assert generate(engine(server.url, served_name="two")).output_len == N_TOKENS
        assert server.asked[-1]["model"] == "two"


def test_a_server_without_a_list_of_models_must_be_told_one() -> None:
    with serving(good, v1__models=None) as server:
        assert "does not say which model it serves" in refusal(server, UsageError)


def vllm_metrics(dtype: str, *, n_blocks: int = 100) -> str:
    config = f'block_size="16",cache_dtype="{dtype}",num_gpu_blocks="{n_blocks}"'
    return f"vllm:cache_config_info{{{config}}} 1.0\nvllm:kv_cache_usage_perc 0.0\n"


@pytest.mark.parametrize(
    ("method", "dtype", "is_method"),
    [("fp16", "fp8", "kv-fp8"), ("kv-int8", "fp8_e4m3", "kv-fp8"), ("kv-fp8", "bfloat16", "fp16")],
)
def test_a_cache_that_the_server_stores_as_another_method(method: str, dtype: str, is_method: str) -> None:
    """An 8-bit cache of either kind has the same capacity: only the type tells them apart."""
    with serving(good, metrics=vllm_metrics(dtype)) as server:
        one = OpenAI(Target(TINY, urls={"": server.url}), [get_method(method)])
        with pytest.raises(UsageError, match=f"as {dtype}: that is {is_method}, not {method}") as caught:
            one.usage(get_method(method), prompt_len=16, output_len=4)
        assert server.url in str(caught.value)


@pytest.mark.parametrize(("method", "dtype"), [("fp16", "auto"), ("kv-int8", "int8_per_token_head")])
def test_what_a_server_tells_of_its_cache_is_kept(method: str, dtype: str) -> None:
    with serving(good, metrics=vllm_metrics(dtype)) as server:
        one = OpenAI(Target(TINY, urls={"": server.url}), [get_method(method)])
        found = one.usage(get_method(method), prompt_len=16, output_len=4)
        assert found is not None
        assert (found.kv_len, found.capacity_tokens) == (20, 1600)
        told = {"cache_dtype": dtype, "block_size": "16", "num_gpu_blocks": "100"}
        assert one.settings(get_method(method))["cache"] == told


def test_the_cache_is_probed_within_the_context_that_the_server_tells() -> None:
    def reply(handler: Handler, body: dict[str, Any]) -> None:
        fits = len(body["prompt"]) + body["max_tokens"] <= 40
        (good if fits else status(400, '{"error": "context of 40 tokens exceeded"}'))(handler, body)

    models = '{"data": [{"id": "toy", "max_model_len": 40}]}'
    with serving(reply, v1__models=models, metrics=vllm_metrics("auto")) as server:
        found = engine(server.url).usage(FP16, prompt_len=1024, output_len=N_TOKENS)
    assert found is not None
    assert (found.kv_len, found.capacity_tokens) == (40, 1600)


def test_a_probe_longer_than_a_context_that_is_not_told() -> None:
    too_long = status(400, '{"error": {"message": "context of 8 tokens exceeded"}}')
    with (
        serving(too_long, metrics=vllm_metrics("auto")) as server,
        pytest.raises(UsageError, match=r"context of 8 tokens exceeded.*with a longer context"),
    ):
        engine(server.url).usage(FP16, prompt_len=16, output_len=N_TOKENS)


def test_a_prompt_longer_than_the_context() -> None:
    with serving(status(400, '{"error": {"message": "context of 8 tokens exceeded"}}')) as server:
        message = refusal(server, UsageError)
    assert "answers 400: context of 8 tokens exceeded" in message
    assert "shorter --prompt-len" in message


@pytest.mark.parametrize("code", [200, 404])
def test_html_instead_of_json(code: int) -> None:
    page = status(code, "<!DOCTYPE html><html>Welcome</html>", kind="text/html; charset=utf-8")
    with serving(page, from_start=True) as server:
        message = refusal(server)
    assert "HTML page" in message
    assert "--url" in message


def test_an_answer_that_is_not_streamed() -> None:
    with serving(status(200, '{"choices": [{"text": "x"}]}')) as server:
        assert "does not stream its answers" in refusal(server)


def test_redirects_are_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(good) as elsewhere:
        there = status(307, "", Location=f"{elsewhere.url}/v1/completions?token=secret")
        with serving(there) as server:
            message = refusal(server)
        assert not elsewhere.asked
    assert f"redirects to {elsewhere.url}/v1/completions:" in message


def test_text_alone_is_fitted_to_the_length_by_the_servers_count() -> None:
    """Seven tokens for two words, and a template of eleven."""

    def reply(handler: Handler, body: dict[str, Any]) -> None:
        if handler.path.endswith("/v1/completions"):
            handler.send(404, '{"detail": "Not Found"}')
            return
        tokens = 11 + len(body["messages"][0]["content"].split()) * 7 // 2
        handler.begin_stream()
        for _ in range(body["max_tokens"]):
            handler.event({"choices": [{"delta": {"content": "x"}}]})
            time.sleep(0.002)
        handler.event(
            {"choices": [], "usage": {"prompt_tokens": tokens, "completion_tokens": body["max_tokens"]}}
        )
        handler.event("[DONE]")

    with serving(reply, from_start=True) as server:
        one = engine(server.url)
        assert generate(one, prompt_len=500).prompt_tokens[0] == pytest.approx(500, rel=0.02)
        assert one.settings(FP16)["endpoint"] == "/v1/chat/completions"
        with pytest.raises(UsageError, match="adds 11 tokens to a prompt"):
            generate(one, prompt_len=10)


def test_a_server_that_takes_numbers_for_prompts_gets_words() -> None:
    def reply(handler: Handler, body: dict[str, Any]) -> None:
        ids = isinstance(body["prompt"], list)
        good(handler, body | {"prompt": "one"} if ids else body)

    with serving(reply, from_start=True) as server:
        assert generate(engine(server.url)).prompt_tokens == (16,)
        assert isinstance(server.asked[-1]["prompt"], str)


def test_a_server_that_cuts_prompts() -> None:
    def reply(handler: Handler, body: dict[str, Any]) -> None:
        good(handler, body | {"prompt": body["prompt"][:12]})

    with serving(reply) as server:
        assert "counts 12 tokens in prompts that should have 16" in refusal(server)


@contextmanager
def caching(metrics: Callable[[int], str], **pages: str) -> Iterator[tuple[OpenAI, Server]]:
    """Serve with metrics that are told the tokens in the cache."""
    held = [0]

    def reply(handler: Handler, body: dict[str, Any]) -> None:
        held[0] = prompt_tokens(body) + body["max_tokens"]
        time.sleep(0.2)
        good(handler, body)
        held[0] = 0

    with serving(reply, metrics=lambda: metrics(held[0]), **pages) as server:
        yield engine(server.url), server


def test_vllm_tells_capacity_and_use() -> None:
    def metrics(held: int) -> str:
        config = 'vllm:cache_config_info{block_size="16",cache_dtype="auto",num_gpu_blocks="100"} 1.0\n'
        return f'{config}vllm:kv_cache_usage_perc{{engine="0"}} {held / 1600}\n'

    with caching(metrics) as (one, _):
        found = one.usage(FP16, prompt_len=60, output_len=N_TOKENS)
    assert found is not None
    assert (found.kv_len, found.capacity_tokens) == (64, 1600)
    assert found.cache_tokens == pytest.approx(64)
    assert found.source == "vllm:cache_config_info, vllm:kv_cache_usage_perc"


def test_lmdeploys_share_tells_the_capacity() -> None:
    with caching(lambda held: f"lmdeploy:gpu_cache_usage_perc {held / 3200}\n") as (one, _):
        found = one.usage(FP16, prompt_len=60, output_len=N_TOKENS)
    assert found is not None
    assert found.capacity_tokens == pytest.approx(3200)


def test_tgi_tells_its_capacity() -> None:
    with serving(good, info='{"version": "3.3.4", "max_batch_total_tokens": 16000}') as server:
        found = engine(server.url).usage(FP16, prompt_len=60, output_len=N_TOKENS)
        assert engine(server.url).versions()["version"] == "3.3.4"
    assert found is not None
    assert (found.capacity_tokens, found.source) == (16000, "/info")


def test_no_metrics_no_usage() -> None:
    with serving(good) as server:
        assert engine(server.url).usage(FP16, prompt_len=60, output_len=N_TOKENS) is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://[::1]:8000/v1/", "http://[::1]:8000"),
        ("https://me:word@host/llm/v1?key=1", "https://host/llm"),
    ],
)
def test_addresses_are_shown_bare(url: str, shown: str) -> None:
    assert OpenAIServer(url, timeout_s=1).shown == shown


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "http://[::1", ""])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(UsageError, match=r"URL|--url"):
        engine(url)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timeout_s": "soon"}, "timeout_s is 'soon': give seconds"),
        ({"timeout_s": "-1"}, "give seconds"),
        ({"timeout": "3"}, "no option 'timeout': it has timeout_s"),
    ],
)
def test_bad_options(options: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        OpenAI(Target(TINY, urls={"": "http://127.0.0.1:1"}, options=options), [FP16])


def test_each_method_needs_a_server_of_its_own() -> None:
    urls = {FP16.spec: "http://127.0.0.1:1"}
    with pytest.raises(UsageError, match="No server is named for kv-int8: give --url kv-int8=URL"):
        OpenAI(Target(TINY, urls=urls), [FP16, INT8])
    with pytest.raises(UsageError, match=r"is named for fp16 and for kv-int8.*one kind of KV cache"):
        OpenAI(Target(TINY, urls=urls | {INT8.spec: "http://127.0.0.1:1/v1/"}), [FP16, INT8])


def test_without_httpx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(MissingExtraError, match=r"kvpred\[openai\]"):
        engine("http://127.0.0.1:1")
