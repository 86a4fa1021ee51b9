"""Real HTTP servers to test clients against, each in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

START_S = 180
STOP_S = 10


@contextmanager
def llamacpp_server(
    gguf: Path, *, cache_type: str = "f16", n_parallel: int = 2, n_ctx: int = 4096
) -> Iterator[str]:
    """Serve a GGUF file on a free port of the loopback interface, until the block ends.

    Parameters
    ----------
    gguf : Path
        The file, or the folder that holds it alone.
    cache_type : str
        Of keys and values: ``f16``, ``q8_0`` or ``q4_0``.
    n_parallel : int
        Sequences served at the same time.
    n_ctx : int
        Tokens of the cache, shared evenly by the sequences.

    Yields
    ------
    str
        The server's address, such as ``http://127.0.0.1:40123``.
    """
    pytest.importorskip("xllamacpp")
    file = gguf if gguf.is_file() else next(gguf.glob("*.gguf"))
    command = [sys.executable, __file__, str(file), cache_type, str(n_parallel), str(n_ctx)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address, f"llama.cpp does not start: {' '.join(command)}"
            _wait(address, process)
            yield address
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def transformers_server(folder: Path) -> Iterator[str]:
    """Serve a model's folder with ``transformers serve`` and continuous batching, until the block ends.

    Parameters
    ----------
    folder : Path
        Of ``config.json``, safetensors and tokenizer; its path is the model's name at the server.

    Yields
    ------
    str
        The server's address, such as ``http://127.0.0.1:40123``.
    """
    for package in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(package)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Without a limit the cache takes most of the machine's memory.
    options = f"--device cpu --continuous-batching --cb-num-blocks 16 --host 127.0.0.1 --port {port}"
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder), *options.split()]
    with tempfile.TemporaryDirectory() as empty:
        environment = os.environ | {"HF_HUB_CACHE": empty, "HF_HUB_OFFLINE": "1"}
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                _wait(f"http://127.0.0.1:{port}", process)
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()
                try:
                    process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()


def _wait(address: str, process: subprocess.Popen[Any]) -> None:
    """Wait until the server says that it is ready."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _serve(gguf: str, cache_type: str, n_parallel: str, n_ctx: str) -> None:
    """Serve until standard input ends, which it does with the process that opened it."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = gguf
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = int(n_parallel)
    params.n_ctx = int(n_ctx)
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type[f"GGML_TYPE_{cache_type.upper()}"]
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    params.endpoint_metrics = True
    # Threads wait for each other in busy loops, which on a busy machine costs tenfold.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
