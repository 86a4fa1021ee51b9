"""OpenVINO GenAI: paged attention and continuous batching on a CPU, quantised caches, eviction by blocks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kvpred.data.requests import ServedRequests
from kvpred.engines.base import Arrival, Engine, EngineError, Generation, Target, Usage
from kvpred.engines.openvino_recipes import BLOCK, properties_of, recipe_of
from kvpred.engines.recorder import Recorder
from kvpred.errors import DataError, MissingExtraError, UsageError
from kvpred.methods import Method
from kvpred.models.weights import gguf_of


class OpenVINO(Engine):
    """One method on a `ContinuousBatchingPipeline`, on the CPU.

    ``fp16`` is a cache in the arithmetic's 16-bit type (the engine's own default is 8 bits), ``kv-int8``
    and ``kv-int4`` are u8 and u4 (scales of keys per channel and block, of values per token); ``h2o``
    ranks tokens by their sums of attention, ``snapkv`` by the prompt's last queries; both evict whole blocks
    after prefill and while decoding, never the first block, and hold up to a block more than their budget.

    Options: ``key_precision``, ``value_precision`` (u8 or u4), ``value_group_size`` replace what a quantising
    method means by default; ``inference_precision`` (bf16, f16 or f32, as the processor can; f32 if the
    target's dtype is); ``threads`` (every core, if not given).

    Parameters
    ----------
    target : Target
        Its weights are a GGUF file, a folder with one, or the folder of an OpenVINO model.
    methods : sequence of Method
        Exactly one.

    Raises
    ------
    DataError
        If there are no such weights, or they are another model's.
    """

    name = "openvino"

    def __init__(self, target: Target, methods: Sequence[Method]) -> None:
        super().__init__(target, methods)
        if len(self.methods) != 1:
            raise UsageError(f"an openvino pipeline serves one method, not {len(self.methods)}.")
        self._recipe = recipe_of(self.methods[0])
        self._weights = _locate(target)
        try:
            import openvino
            import openvino_genai
        except ImportError:
            raise MissingExtraError("openvino_genai", "openvino") from None
        self._ov, self._genai = openvino, openvino_genai
        core = openvino.Core()
        native = core.get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
        self._properties = properties_of(
            self._recipe,
            target.options,
            native="f32" if target.dtype == "float32" else native,
            able=core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
        )
        self._scheduler = self._schedule()
        try:
            self._pipeline = openvino_genai.ContinuousBatchingPipeline(
                str(self._weights), self._scheduler, "CPU", self._properties
            )
        except RuntimeError as error:
            given = ", ".join(f"{name}={value}" for name, value in self._properties.items())
            raise EngineError(
                f"openvino cannot serve {self._weights} with {given}: {_reason(error)}"
            ) from error
        self._tokenizer = self._pipeline.get_tokenizer()
        self._plain = _plain_tokens(self._tokenizer.get_vocab())
        if self._plain[-1] >= target.model.vocab_size:
            raise self._other_model(f"a vocabulary of more than {target.model.vocab_size:,} tokens")
        self._requests = 0

    def generate(
        self, method: Method, *, bsz: int, prompt_len: int, output_len: int, seed: int
    ) -> Generation:
        """Serve one true batch; tokens arrive as the engine's steps end, which the engine times as well."""
        self._check(method, bsz=bsz, prompt_len=prompt_len, output_len=output_len)
        prompts = [self._random_prompt(prompt_len, seed=(seed, sequence)) for sequence in range(bsz)]
        config = self._config(output_len, ignore_eos=True)
        arrivals: list[list[float]] = [[] for _ in prompts]
        begin = time.perf_counter()
        handles = self._submit(prompts, config)
        for end in self._steps(handles):
            for sequence, handle in enumerate(handles):
                arrivals[sequence] += [end - begin] * len(_new_tokens(handle))
        if any(len(arrived) != output_len for arrived in arrivals):
            counts = ", ".join(str(len(arrived)) for arrived in arrivals)
            raise EngineError(f"openvino answered with {counts} tokens, not with {output_len} each.")
        own = [handle.get_perf_metrics() for handle in handles]
        return Generation(
            prompt_tokens=tuple(metrics.get_num_input_tokens() for metrics in own),
            arrivals_s=tuple(map(tuple, arrivals)),
            own_ttft_s=sum(metrics.get_ttft().mean for metrics in own) / bsz / 1e3,
            own_tpot_s=sum(metrics.get_tpot().mean for metrics in own) / bsz / 1e3
            if output_len > 1
            else None,
        )

    def serve(self, method: Method, arrivals: Sequence[Arrival]) -> ServedRequests:
        """Serve requests as they come; one joins before the step that follows its arrival.

        Prompts that wait pass in a step of their own, before decoding goes on.
        """
        prompts = [np.array(self._tokenizer.encode(one.prompt).input_ids.data).ravel() for one in arrivals]
        for prompt, one in zip(prompts, arrivals, strict=True):
            self._check(method, bsz=1, prompt_len=prompt.size, output_len=one.output_len)
        recorder = Recorder(arrivals, [prompt.size for prompt in prompts])
        handles: list[Any] = []
        recorder.start()
        try:
            while not recorder.done:
                for i in range(len(handles), recorder.come()):
                    config = self._config(arrivals[i].output_len, ignore_eos=True)
                    handles += self._submit([prompts[i]], config)
                if not self._pipeline.has_non_finished_requests():
                    recorder.wait()
                    continue
                with recorder.step() as tokens:
                    self._step()
                    for i in recorder.open:
                        tokens[i] = len(_new_tokens(handles[i]))
        finally:  # nothing stays queued for what is served next
            for handle in handles:
                handle.cancel()
        return recorder.served()

    def complete(self, method: Method, prompt: str, *, max_tokens: int) -> str:
        """Continue a text as it stands, without a chat template."""
        tokens = np.array(self._tokenizer.encode(prompt).input_ids.data)
        self._check(method, bsz=1, prompt_len=tokens.size, output_len=max_tokens)
        handles = self._submit([tokens], self._config(max_tokens))
        answer = [token for _ in self._steps(handles) for token in _new_tokens(handles[0])]
        return str(self._tokenizer.decode(answer))

    def usage(self, method: Method, *, prompt_len: int, output_len: int) -> Usage:
        """Count the blocks that one sequence holds in its last step, and their bytes.

        Raises
        ------
        DataError
            If a token's 16-bit cache has other bytes than the target's model: the weights are another one's.
        """
        self._check(method, bsz=1, prompt_len=prompt_len, output_len=output_len)
        prompt = self._random_prompt(prompt_len, seed=(0,))
        for _ in self._steps(self._submit([prompt], self._config(output_len, ignore_eos=True))):
            metrics = self._pipeline.get_metrics()
        blocks = self._scheduler.num_kv_blocks
        block_bytes = metrics.kv_cache_size_in_bytes / blocks
        plain_bytes = BLOCK * self.target.model.kv_bytes_per_token()
        if self._recipe.precision is None and block_bytes != plain_bytes:
            raise self._other_model(f"{block_bytes / BLOCK:,.0f} bytes of 16-bit cache per token")
        held = round(metrics.cache_usage / 100 * blocks)
        return Usage(
            kv_len=prompt_len + output_len - 1,
            cache_bytes=held * self._true_bytes(block_bytes),
            cache_tokens=held * BLOCK,
            source="get_metrics(): cache_usage, kv_cache_size_in_bytes (4-bit numbers counted as half bytes)",
        )

    def versions(self) -> dict[str, str]:
        """Return the versions of the runtime and of GenAI."""
        return {"openvino": self._ov.__version__, "openvino_genai": self._genai.__version__}

    def settings(self, method: Method) -> dict[str, Any]:
        """Return the plugin's properties, and the scheduler's and the eviction's values."""
        scheduler, recipe = self._scheduler, self._recipe
        settings: dict[str, Any] = {name.lower(): value for name, value in self._properties.items()}
        for name in ("num_kv_blocks", "max_num_batched_tokens", "max_num_seqs"):
            settings[name] = getattr(scheduler, name)
        settings |= {"dynamic_split_fuse": False, "enable_prefix_caching": False}
        if recipe.budget:
            settings |= {"aggregation_mode": "SUM", "snapkv_window_size": recipe.window}
            settings |= {"start_size": recipe.start, "recent_size": recipe.recent}
            settings |= {"max_cache_size": recipe.budget}
        return settings

    def _schedule(self) -> Any:
        """Return a configuration that prefills a whole batch in one step and holds all of it."""
        target, recipe = self.target, self._recipe
        config = self._genai.SchedulerConfig()
        config.dynamic_split_fuse = False
        config.enable_prefix_caching = False
        config.max_num_batched_tokens = max(target.max_tokens, target.max_seq_len)
        config.max_num_seqs = target.max_bsz
        # Each sequence leaves one block partly empty, and fills another before eviction frees one.
        config.num_kv_blocks = -(-config.max_num_batched_tokens // BLOCK) + 2 * target.max_bsz
        if recipe.budget:
            config.use_cache_eviction = True
            config.cache_eviction_config = self._genai.CacheEvictionConfig(
                recipe.start,
                recipe.recent,
                recipe.budget,
                self._genai.AggregationMode.SUM,
                snapkv_window_size=recipe.window,
            )
        return config

    def _config(self, max_tokens: int, *, ignore_eos: bool = False) -> Any:
        return self._genai.GenerationConfig(
            max_new_tokens=max_tokens,
            ignore_eos=ignore_eos,
            do_sample=False,
            eos_token_id=self._tokenizer.get_eos_token_id(),
        )

    def _random_prompt(self, length: int, *, seed: tuple[int, ...]) -> Any:
        return np.random.default_rng((self.target.seed, *seed)).choice(self._plain, size=length)

    def _submit(self, prompts: Sequence[Any], config: Any) -> list[Any]:
        tensors = [self._ov.Tensor(prompt.reshape(1, -1).astype(np.int64)) for prompt in prompts]
        first, self._requests = self._requests, self._requests + len(tensors)
        return [self._pipeline.add_request(first + i, tensor, config) for i, tensor in enumerate(tensors)]

    def _steps(self, handles: Sequence[Any]) -> Iterator[float]:
        """Step until all is served, and yield the time when each step ended."""
        try:
            while self._pipeline.has_non_finished_requests():
                self._step()
                yield time.perf_counter()
        finally:  # nothing stays queued for the next batch
            for handle in handles:
                handle.cancel()

    def _step(self) -> None:
        try:
            self._pipeline.step()
        except RuntimeError as error:
            raise EngineError(f"openvino failed in a step: {_reason(error)}") from error

    def _check(self, method: Method, *, bsz: int, prompt_len: int, output_len: int) -> None:
        target, tokens = self.target, prompt_len + output_len
        if method != self.methods[0]:
            raise UsageError(f"this openvino pipeline serves {self.methods[0].spec}, not {method.spec}.")
        if tokens > target.model.max_position:
            raise UsageError(
                f"a prompt of {prompt_len:,} tokens and an answer of {output_len:,} do not fit into "
                f"{target.model.name}'s context of {target.model.max_position:,}."
            )
        held = self._scheduler.max_num_batched_tokens
        if bsz > target.max_bsz or bsz * tokens > held:
            raise UsageError(
                f"{bsz} sequences of {tokens:,} tokens do not fit into an openvino pipeline that was started "
                f"for {target.max_bsz} sequences and {held:,} tokens."
            )

    def _true_bytes(self, counted: float) -> float:
        """Return a block's bytes from what the engine counts: its numbers, each as at least a byte.

        Values carry a scale and a zero of 4 bytes each per token and group, counted in numbers of their type.
        """
        keys, values = self._properties["KEY_CACHE_PRECISION"], self._properties["VALUE_CACHE_PRECISION"]
        if keys == values:
            return counted / 2 if keys == "u4" else counted
        model = self.target.model
        groups = model.head_dim / int(self._properties.get("VALUE_CACHE_GROUP_SIZE", model.head_dim))
        per_token = (
            model.n_layers * model.n_kv_heads * (model.head_dim + groups * (16 if values == "u4" else 8))
        )
        of_values = BLOCK * per_token
        return counted - (of_values if values == "u4" else counted - of_values) / 2

    def _other_model(self, what: str) -> DataError:
        name = self.target.model.name
        return DataError(f"has {what}, so it is not {name}: name the model that it is.", path=self._weights)


def _locate(target: Target) -> Path:
    """Return the GGUF file, or the folder of an OpenVINO model, that a target names."""
    if target.device != "cpu":
        raise UsageError(f"openvino serves on the CPU, not on {target.device}: give --device cpu.")
    path = target.weights
    if path is None:
        raise UsageError("openvino needs real weights: name a GGUF file, or the folder of an OpenVINO model.")
    if not path.exists():
        raise DataError("does not exist.", path=path)
    if path.suffix == ".gguf" or (path / "openvino_model.xml").exists():
        return path
    file = gguf_of(path)
    if file is None:
        raise DataError("is no GGUF file, and holds neither one nor an openvino_model.xml.", path=path)
    return file


def _new_tokens(handle: Any) -> list[int]:
    """Take the tokens that the last step brought a request."""
    outputs = handle.read().values() if handle.can_read() else ()
    return [token for output in outputs for token in output.generated_ids]


def _plain_tokens(vocabulary: Mapping[bytes, int]) -> Any:
    """Return the ids, in order, whose text is no control word such as ``<|im_end|>``."""
    plain = [i for text, i in vocabulary.items() if not (text.startswith(b"<") and text.endswith(b">"))]
    return np.sort(plain)


def _reason(error: Exception) -> str:
    """Return the last line of an error, which is where the engine says why."""
    return str(error).strip().splitlines()[-1]
