"""llama.cpp in this process: its HTTP server, from xllamacpp's wheel, over the loopback interface."""

from __future__ import annotations

import http.client
import importlib
import importlib.metadata
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np

from kvpred.engines.base import Engine, EngineError, Generation, Target, Usage
from kvpred.errors import DataError, MissingExtraError, UsageError
from kvpred.methods import BASELINE, Method

_CACHE_TYPES = {BASELINE: "f16", "kv-int8": "q8_0", "kv-int4": "q4_0"}
_KNOWN_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
_FLASH_ATTENTION = {"on": "ENABLED", "off": "DISABLED"}
_OPTIONS = ("cache_type_k", "cache_type_v", "flash_attention", "threads")

_GREEDY = {"temperature": 0.0, "cache_prompt": False}
_CELLS = 256
"""llama.cpp rounds a sequence's cells up to a multiple of this."""
_UBATCH = 512
"""Tokens that pass the layers at a time: llama.cpp's default of n_ubatch."""
_ERRORS_ONLY = 1
"""llama.cpp's verbosity."""
_LOG_LAG_S = 0.2
"""Its log is written by a thread that lags behind."""


class LlamaCpp(Engine):
    """llama.cpp, one server with one type of cache.

    How it schedules, and what is done about it:

    - Each step, the server puts a token of each running sequence, then waiting prompts, whole or in part,
      into one batch of at most ``n_batch`` tokens, which passes the layers in pieces of ``n_ubatch`` = 512.
      ``n_batch`` is `Target.max_tokens`, so that all prompts are prefilled in one batch, at whose end every
      sequence gets its first token. They come in one request: of several, the first to arrive would be
      prefilled alone.
    - Every sequence has cells of its own (``kv_unified`` off): in a unified cache each would attend to the
      others' cells too, masked. `Target.max_bsz` x `Target.max_seq_len` cells are allocated, and written, at
      the start, so that resident memory does not depend on the batch.
    - Sequences pass the layers together only in neighbouring slots, and the server takes the idle slots that
      were used longest ago: a one-token request to each unused slot restores their order after a batch.
    - No prompt is reused: no prefix, no similar slot, no prompt cache in memory, no checkpoints.

    Answers are forced to one plain token, because the server holds back text that is not yet whole UTF-8: so
    every token arrives in a chunk of its own.

    Options: ``cache_type_k`` and ``cache_type_v`` change what a compressed method keeps keys and values in,
    such as ``q8_0``, and leave fp16 alone; ``flash_attention`` is ``on`` for all methods alike, or ``off``,
    which a quantised V does not allow; ``threads`` is llama.cpp's own choice if not given. Threads spin
    while they wait for each other, so that on a busy host fewer are faster.
    """

    name: ClassVar[str] = "llamacpp"

    def __init__(self, target: Target, methods: Sequence[Method]) -> None:
        super().__init__(target, methods)
        self._server: Any = None
        self._types = _cache_types(self.methods, target.options)
        self._flash = _flash_attention(target.options)
        self._threads = _threads(target.options)
        file = _gguf(target)
        self._folder = tempfile.TemporaryDirectory(prefix="kvpred-llamacpp-")
        try:
            self._start(file)
            self._slots, self._seq_len, self._n_vocab, self._ftype = self._describe()
            (self._plain, *_) = self._ask("/tokenize", {"content": "the"})["tokens"]
        except BaseException:
            self.close()
            raise
        self._in_use = 0

    def generate(
        self, method: Method, *, bsz: int, prompt_len: int, output_len: int, seed: int
    ) -> Generation:
        """Serve one batch in one request.

        The engine's own times: TTFT is ``prompt_ms``, from the first step that takes tokens of the prompt;
        TPOT is ``predicted_ms`` over the tokens after the first. They leave out only the way to the client,
        unless the batch exceeds `Target.max_tokens`: then later prompts wait, which ``prompt_ms`` does not
        count, while the first ones decode, which `Generation.tpot_s` does not count.
        """
        if bsz > self._slots:
            raise UsageError(f"{bsz} sequences, but llama.cpp was started for {self._slots}.")
        self._check_length(prompt_len, output_len)
        self._line_up()
        self._in_use = bsz
        arrivals, ends = self._stream(
            {
                "prompt": self._random_prompts(bsz, prompt_len, seed),
                "n_predict": output_len,
                "ignore_eos": True,
                "logit_bias": [[self._plain, 1000.0]],
            },
            bsz,
        )
        _check_batch(ends, output_len)
        timings = [end["timings"] for end in ends]
        tpots = [own["predicted_ms"] / (own["predicted_n"] - 1) for own in timings if own["predicted_n"] > 1]
        return Generation(
            prompt_tokens=tuple(own["prompt_n"] for own in timings),
            arrivals_s=arrivals,
            own_ttft_s=float(np.mean([own["prompt_ms"] for own in timings])) / 1e3,
            own_tpot_s=float(np.mean(tpots)) / 1e3 if tpots else None,
        )

    def complete(self, method: Method, prompt: str, *, max_tokens: int) -> str:
        """Continue a text, without a chat template."""
        return str(self._complete({"prompt": prompt, "n_predict": max_tokens})["content"])

    def usage(self, method: Method, *, prompt_len: int, output_len: int) -> Usage:
        """Serve one sequence, have the server save its slot to a file, and read how many bytes it wrote."""
        self._check_length(prompt_len, output_len)
        (prompt,) = self._random_prompts(1, prompt_len, self.target.seed)
        self._complete({"prompt": prompt, "n_predict": output_len, "ignore_eos": True})
        name = "slot.bin"
        saved = self._ask(f"/slots/{self._slots - 1}?action=save", {"filename": name})
        Path(self._folder.name, name).unlink()
        return Usage(
            kv_len=saved["n_saved"],
            cache_bytes=float(saved["n_written"]),
            source="bytes of the sequence's slot as llama.cpp saves it, token ids and positions included",
        )

    def versions(self) -> dict[str, str]:
        """Return the versions of xllamacpp, and of llama.cpp: the build is the last part of the former."""
        version = importlib.metadata.version("xllamacpp")
        return {"xllamacpp": version, "llama.cpp": f"b{version.rpartition('.')[2]}"}

    def settings(self, method: Method) -> dict[str, Any]:
        """Return the cache's types and shape, how it is batched, threads, and the weights' type."""
        return {
            "cache_type_k": self._types[0],
            "cache_type_v": self._types[1],
            "flash_attention": self._flash,
            "threads": self._threads or "llama.cpp's default",
            "weights": self._ftype,
            "n_parallel": self._slots,
            "n_ctx_slot": self._seq_len,
            "n_batch": self._n_batch,
            "n_ubatch": _UBATCH,
            "kv_unified": False,
            "prompt_reuse": False,
            "cpu_features": _xllamacpp().get_system_info(),
        }

    def close(self) -> None:
        """End the server."""
        self._server = None
        self._folder.cleanup()

    @property
    def _n_batch(self) -> int:
        return max(self.target.max_tokens, _UBATCH)

    def _start(self, file: Path) -> None:
        """Start the server on a free port, its log in a file."""
        xllamacpp, params = _xllamacpp(), self._params(file)
        with tempfile.TemporaryFile() as log:
            try:
                with _stderr_into(log.fileno()):
                    self._server = xllamacpp.Server(params)
            except RuntimeError as error:
                log.seek(0)
                cause = _first_error(log.read().decode(errors="replace")) or str(error)
                raise EngineError(f"llama.cpp does not start with {file}: {cause}.") from None
        address = urlsplit(self._server.listening_address)
        self._address = (str(address.hostname), address.port)

    def _params(self, file: Path) -> Any:
        xllamacpp = _xllamacpp()
        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.hostnames = ["127.0.0.1"]
        params.verbosity = _ERRORS_ONLY
        params.n_gpu_layers = 0
        key, value = (xllamacpp.ggml_type[f"GGML_TYPE_{name.upper()}"] for name in self._types)
        params.cache_type_k, params.cache_type_v = key, value
        flash = f"LLAMA_FLASH_ATTN_TYPE_{_FLASH_ATTENTION[self._flash]}"
        params.flash_attn_type = xllamacpp.llama_flash_attn_type[flash]
        if self._threads:
            params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self._threads
        params.n_parallel = self.target.max_bsz
        params.n_ctx = self.target.max_bsz * -(-self.target.max_seq_len // _CELLS) * _CELLS
        params.n_batch, params.n_ubatch = self._n_batch, _UBATCH
        params.kv_unified = False
        params.fit_params = False  # would shrink the context to the free memory unasked
        params.cache_prompt = params.cache_idle_slots = params.ctx_shift = False
        params.cache_ram_mib = params.n_ctx_checkpoints = params.n_cache_reuse = 0
        params.slot_prompt_similarity = 0.0
        params.slot_save_path = f"{self._folder.name}{os.sep}"
        return params

    def _describe(self) -> tuple[int, int, int, str]:
        """Return how many slots there are, the tokens of one, the vocabulary's size and the weights' type."""
        props = self._ask("/props", None)
        meta = self._ask("/v1/models", None)["data"][0]["meta"]
        n_ctx = props["default_generation_settings"]["n_ctx"]
        return props["total_slots"], n_ctx, meta["n_vocab"], meta["ftype"]

    def _check_length(self, prompt_len: int, output_len: int) -> None:
        if prompt_len + output_len > self._seq_len:
            raise UsageError(
                f"{prompt_len:,} + {output_len:,} tokens do not fit into a sequence's {self._seq_len:,}: "
                "the model's context, or what llama.cpp was started for."
            )

    def _random_prompts(self, bsz: int, prompt_len: int, seed: int) -> list[list[int]]:
        prompts = np.random.default_rng(seed).integers(self._n_vocab, size=(bsz, prompt_len))
        return prompts.tolist()  # type: ignore[no-any-return]

    def _line_up(self) -> None:
        """Use every slot that the last batch did not, so that the next one begins with the first slot."""
        for slot in range(self._in_use, self._slots):
            self._complete({"prompt": [self._plain], "n_predict": 1}, slot=slot)

    def _complete(self, request: Mapping[str, Any], *, slot: int | None = None) -> Any:
        """Serve one sequence, in the last slot if none is given: that keeps the order of the slots."""
        where = self._slots - 1 if slot is None else slot
        return self._ask("/completion", {**_GREEDY, **request, "id_slot": where})

    def _ask(self, path: str, request: Mapping[str, Any] | None) -> Any:
        """Post a request, or get a page, and return the whole answer."""
        with self._request(path, None if request is None else json.dumps(request)) as response:
            return json.loads(response.read())

    def _stream(
        self, request: Mapping[str, Any], bsz: int
    ) -> tuple[tuple[tuple[float, ...], ...], list[Any]]:
        """Return the arrival of every token of every sequence, and the sequences' last events."""
        arrivals: list[list[float]] = [[] for _ in range(bsz)]
        ends: dict[int, Any] = {}
        body = json.dumps({**_GREEDY, **request, "stream": True})
        begin = time.perf_counter()
        with self._request("/completion", body) as response:
            for line in response:
                at = time.perf_counter() - begin
                event = json.loads(line.removeprefix(b"data: ")) if line.startswith(b"data: ") else None
                if event is None:  # a ping, or the news that a sequence began
                    continue
                if "error" in event:
                    raise EngineError(f"llama.cpp: {event['error'].get('message', event['error'])}.")
                index = event["index"]
                arrivals[index] += [at] * (event["tokens_predicted"] - len(arrivals[index]))
                if event["stop"]:
                    ends[index] = event
        if len(ends) < bsz:
            raise EngineError(f"llama.cpp ended {len(ends)} of {bsz} sequences.")
        return tuple(map(tuple, arrivals)), [ends[index] for index in range(bsz)]

    @contextmanager
    def _request(self, path: str, body: str | None) -> Iterator[http.client.HTTPResponse]:
        headers = {"Content-Type": "application/json", "Connection": "close"}
        with closing(http.client.HTTPConnection(*self._address)) as connection:
            try:
                connection.request("GET" if body is None else "POST", path, body, headers)
                response = connection.getresponse()
                if response.status != http.HTTPStatus.OK:
                    _refuse(path, response)
                yield response
            except (OSError, http.client.HTTPException) as error:
                raise EngineError(f"llama.cpp does not answer {path} ({error!r}).") from error


def _refuse(path: str, response: http.client.HTTPResponse) -> None:
    """Raise what the server says of a request that it refuses."""
    text = response.read().decode(errors="replace")
    try:
        error = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        raise EngineError(f"llama.cpp answers {path} with status {response.status}: {text[:200]}") from None
    kind = UsageError if error.get("type") == "exceed_context_size_error" else EngineError
    raise kind(f"llama.cpp: {error.get('message', error)}.")


def _check_batch(ends: Sequence[Any], output_len: int) -> None:
    """Make sure that a batch was what was asked for: whole answers, nothing reused, neighbouring slots."""
    for end in ends:
        if end["tokens_predicted"] != output_len:
            raise EngineError(f"llama.cpp answered {end['tokens_predicted']} of {output_len} tokens.")
        if end["timings"]["cache_n"]:
            raise EngineError(f"llama.cpp reused {end['timings']['cache_n']} tokens of an earlier prompt.")
    slots = sorted(end["id_slot"] for end in ends)
    if slots != list(range(slots[0], slots[0] + len(slots))):
        raise EngineError(f"llama.cpp scattered the batch over slots {slots}, which it serves one by one.")


def _cache_types(methods: Sequence[Method], options: Mapping[str, str]) -> tuple[str, str]:
    """Return the types of keys and values; options change those of compressed methods alone."""
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise UsageError(f"llamacpp has no option {unknown[0]!r}; it has {', '.join(_OPTIONS)}.")
    if len(methods) != 1:
        raise UsageError(f"llama.cpp serves one method at a time, not {len(methods)}.")
    name = methods[0].name
    if name not in _CACHE_TYPES:
        raise UsageError(f"llama.cpp does not serve {name}; it serves {', '.join(_CACHE_TYPES)}.")
    own = _CACHE_TYPES[name]
    if name == BASELINE:
        return own, own
    types = options.get("cache_type_k", own), options.get("cache_type_v", own)
    for asked in types:
        if asked not in _KNOWN_TYPES:
            raise UsageError(f"llama.cpp has no cache of type {asked!r}; it has {', '.join(_KNOWN_TYPES)}.")
    return types


def _flash_attention(options: Mapping[str, str]) -> str:
    asked = options.get("flash_attention", "on")
    if asked not in _FLASH_ATTENTION:
        raise UsageError(f"flash_attention is {' or '.join(_FLASH_ATTENTION)}, not {asked!r}.")
    return asked


def _threads(options: Mapping[str, str]) -> int | None:
    asked = options.get("threads")
    if asked is not None and not (asked.isdecimal() and int(asked)):
        raise UsageError(f"threads is a positive number, not {asked!r}.")
    return None if asked is None else int(asked)


def _gguf(target: Target) -> Path:
    """Return the file of the weights."""
    if target.device != "cpu":
        raise UsageError(f"llama.cpp's prebuilt wheel serves on the cpu, not on {target.device}.")
    path = target.weights
    if path is None:
        raise UsageError("llama.cpp needs the weights' GGUF file, or the folder that holds it: --weights.")
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError("does not exist.", path=path)
    files = sorted(path.glob("*.gguf"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise DataError(f"must hold one GGUF file, holds: {names}.", path=path)
    return files[0]


def _xllamacpp() -> Any:
    try:
        return importlib.import_module("xllamacpp")
    except ImportError:
        raise MissingExtraError("xllamacpp", "llamacpp") from None


@contextmanager
def _stderr_into(descriptor: int) -> Iterator[None]:
    """Send what native code writes to this process's standard error into a file."""
    kept = os.dup(2)
    os.dup2(descriptor, 2)
    try:
        yield
    except BaseException:
        time.sleep(_LOG_LAG_S)
        raise
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _first_error(log: str) -> str | None:
    """Return what the first error of a log says: later ones only say that something failed.

    Examples
    --------
    >>> _first_error("0.00.012 I loading\\n0.00.013 E gguf_init: bad version: 0\\n0.00.014 E exiting")
    'gguf_init: bad version: 0'
    """
    errors = (line.partition(" E ")[2].strip() for line in log.splitlines())
    return next((" ".join(error.split()) for error in errors if error), None)
