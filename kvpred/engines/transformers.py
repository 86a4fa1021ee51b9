"""transformers with kvpred's caches: on fused attention, or on its own eager one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice, takewhile
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

from kvpred.engines.base import Engine, EngineError, Generation, Target, Usage
from kvpred.engines.sampling import Answer, Prompt, sample_answers
from kvpred.errors import UsageError
from kvpred.methods import Method
from kvpred.models.weights import load_model, load_tokenizer, random_model

if TYPE_CHECKING:
    from torch import Tensor

    from kvpred.caches import MethodCache

OPTIONS = ("threads",)


class Transformers(Engine):
    """A greedy loop of forward passes over one model, with one of kvpred's caches for each batch.

    Attention is kvpred's: torch's fused kernel for every method's prompt, and for the decode steps of those
    whose scores need no work of their own (H2O's and TurboQuant's do). The paper calls this engine TRL+FA.

    Parameters
    ----------
    target : Target
        Without `weights` they are random: as much work and memory, but no text. Option: ``threads`` (of
        torch on the CPU).
    methods : sequence of Method

    Raises
    ------
    UsageError
        If the engine does not serve a method, a method does not suit the model, an option is unknown or out
        of range, or the weights are another model's.
    DataError
        If the weights cannot be read.
    MissingExtraError
        Without torch and transformers.
    EngineError
        If memory does not suffice.
    """

    name = "transformers"
    shared = True
    attention: ClassVar[str] = "kvpred"
    """transformers' name of the attention, the same for all methods of an engine."""

    def __init__(self, target: Target, methods: Sequence[Method]) -> None:
        super().__init__(target, methods)
        for method in self.methods:
            if method.name not in self.method_names():
                served = ", ".join(self.method_names())
                raise UsageError(f"{self.name} does not serve {method.name}; it serves {served}.")
        options = _options(target)
        import kvpred.caches  # noqa: F401 (names the extra that is missing, and registers the attention)

        with failures(f"{self.name} cannot load {target.model.name}"):
            self._model = _load(target, options)
        self._model.set_attn_implementation(self.attention)
        self._tokenizer: Any = load_tokenizer(target.weights) if target.weights else None
        for method in self.methods:
            self._cache(method)

    def generate(
        self, method: Method, *, bsz: int, prompt_len: int, output_len: int, seed: int
    ) -> Generation:
        """Serve one batch: a forward pass of all prompts, then one for each further token.

        A token arrives when it is on the host, as a serving loop needs it, and with it those of the other
        sequences. Parameters and errors as in `Engine.generate`.
        """
        self._check_lengths(prompt_len, output_len)
        prompts = self._random_prompts(bsz=bsz, length=prompt_len, seed=seed)
        with failures(f"{self.name} with {method.name} at {bsz} x {prompt_len:,} tokens"):
            self._reset_peak_memory()
            begin = perf_counter()
            steps = islice(self._steps(prompts, self._cache(method)), output_len)
            arrivals = tuple(perf_counter() - begin for _ in steps)
        return Generation((prompt_len,) * bsz, (arrivals,) * bsz, peak_memory_bytes=self._peak_memory_bytes())

    def usage(self, method: Method, *, prompt_len: int, output_len: int) -> Usage | None:
        """Serve one sequence, and count the bytes of the tensors that its cache then holds."""
        self._check_lengths(prompt_len, output_len)
        prompts = self._random_prompts(bsz=1, length=prompt_len, seed=self.target.seed)
        with failures(f"{self.name} with {method.name} at {prompt_len:,} tokens"):
            cache = self._cache(method)
            for _ in islice(self._steps(prompts, cache), output_len):
                pass
            first: Any = cache.layers[0]
            keys, _ = first.materialise()
        return Usage(
            kv_len=cache.get_seq_length(),
            cache_bytes=cache.nbytes,
            cache_tokens=keys.shape[2],
            source="tensors of the cache",
        )

    def complete(self, method: Method, prompt: str, *, max_tokens: int) -> str:
        """Return a greedy continuation of a text, up to the model's end of text.

        Raises
        ------
        EngineError
            If the weights are random: what they say proves nothing.
        UsageError
            If prompt and continuation do not fit into the model's context.
        """
        tokens = self._tokens_of(prompt)
        self._check_lengths(len(tokens), max_tokens)
        with failures(f"{self.name} with {method.name} at {len(tokens):,} tokens"):
            ends = self._ends()
            answer = list(
                takewhile(lambda token: token not in ends, self._answer(method, tokens, max_tokens))
            )
        text: str = self._tokenizer.decode(answer, skip_special_tokens=True)
        return text

    def _tokens_of(self, text: str) -> list[int]:
        if self._tokenizer is None:
            raise EngineError(
                f"{self.name} serves random weights of {self.target.model.name}, whose text proves nothing: "
                "give real ones with --weights."
            )
        tokens: list[int] = self._tokenizer(text)["input_ids"]
        return tokens

    def chat_tokens(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return a conversation's tokens as the model is to answer it, by its chat template.

        Parameters
        ----------
        messages : sequence of mapping
            ``role`` and ``content``.

        Raises
        ------
        EngineError
            If the weights are random, or their tokeniser has no chat template.
        """
        if self._tokenizer is None or not self._tokenizer.chat_template:
            raise EngineError(
                f"{self.name} cannot chat with {self.target.model.name}: it needs real weights with a chat "
                "template; give them with --weights."
            )
        tokens: list[int] = self._tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=True, return_dict=False
        )
        return tokens

    def sample(
        self,
        method: Method,
        prompts: Sequence[Prompt],
        seeds: Sequence[int],
        *,
        temperature: float,
        cap: int,
    ) -> list[Answer]:
        """Answer different prompts in one batch; see `kvpred.engines.sampling.sample_answers`.

        Raises
        ------
        UsageError
            If a prompt and its answer do not fit into the model's context.
        EngineError
            If it fails.
        """
        longest = max(len(prompt.tokens) for prompt in prompts)
        self._check_lengths(longest, cap)
        with failures(f"{self.name} with {method.name} at {len(prompts)} x {longest:,} tokens"):
            return sample_answers(
                self._model,
                method,
                prompts,
                seeds,
                temperature=temperature,
                cap=cap,
                ends=frozenset(end for end in self._ends() if end is not None),
            )

    def versions(self) -> dict[str, str]:
        """Return the versions of torch and transformers."""
        import torch
        import transformers

        return {"torch": torch.__version__, "transformers": transformers.__version__}

    def settings(self, method: Method) -> dict[str, Any]:
        """Return attention, dtype, threads, and where the weights come from."""
        import torch

        return {
            "attention": self._model.config._attn_implementation,
            "dtype": self.target.dtype,
            "threads": torch.get_num_threads(),
            "weights": self.target.weights.name if self.target.weights else "random",
        }

    # Help for subclasses:

    def _answer(self, method: Method, tokens: list[int], max_tokens: int) -> Iterable[int]:
        """Continue one sequence, past the end of text if asked to."""
        import torch

        steps = self._steps(torch.tensor([tokens]), self._cache(method))
        return (token for (token,) in islice(steps, max_tokens))

    def _check_lengths(self, prompt_len: int, output_len: int) -> None:
        model = self.target.model
        if prompt_len + output_len > model.max_position:
            raise UsageError(
                f"{prompt_len:,} prompt tokens and {output_len:,} new ones exceed the context of "
                f"{model.name}, {model.max_position:,} tokens."
            )

    def _random_prompts(self, *, bsz: int, length: int, seed: int) -> Tensor:
        """Return random token ids on the host, shape (bsz, length)."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        return torch.randint(self.target.model.vocab_size, (bsz, length), generator=generator)

    def _reset_peak_memory(self) -> None:
        import torch

        if self._model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._model.device)

    def _peak_memory_bytes(self) -> int | None:
        """Return the device's peak since it was reset; None on a CPU, where the process tells."""
        import torch

        if self._model.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._model.device)
        return None

    def _cache(self, method: Method) -> MethodCache:
        from kvpred.caches import MethodCache

        return MethodCache(method, self._model.config)

    def _steps(self, prompts: Tensor, cache: MethodCache) -> Iterator[list[int]]:
        """Yield each sequence's next token, on the host, step by step without end."""
        import torch

        tokens = prompts.to(self._model.device)
        while True:
            with torch.inference_mode():
                output = self._model(
                    input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1
                )
                tokens = output.logits[:, -1].argmax(dim=-1, keepdim=True)
            # A copy to the host waits for the device: nothing else needs to.
            yield tokens[:, 0].tolist()

    def _ends(self) -> set[int | None]:
        ends = self._model.generation_config.eos_token_id
        return {self._tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}


class TransformersEager(Transformers):
    """The same loop on transformers' eager attention, which writes all probabilities out.

    It sees the caches decompressed. The paper calls this engine TRL.
    """

    name = "transformers-eager"
    attention = "eager"


@contextmanager
def failures(where: str) -> Iterator[None]:
    """Turn torch's errors into `EngineError`.

    Parameters
    ----------
    where : str
        What failed: the error's first words.
    """
    import torch

    try:
        yield
    except (MemoryError, RuntimeError) as error:
        full = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)
        reason = "out of memory; serve fewer or shorter sequences" if full else str(error).strip()
        raise EngineError(f"{where}: {reason}.") from error


def _options(target: Target) -> dict[str, int]:
    """Return the options as positive numbers."""
    options = {}
    for key, value in target.options.items():
        if key not in OPTIONS:
            raise UsageError(f"option {key!r} is not known; transformers knows {', '.join(OPTIONS)}.")
        if not value.isdecimal() or int(value) < 1:
            raise UsageError(f"option {key}={value!r} must be a positive whole number.")
        options[key] = int(value)
    return options


def _load(target: Target, options: dict[str, int]) -> Any:
    """Return the model, on its device."""
    import torch

    if "threads" in options:
        torch.set_num_threads(options["threads"])
    dtype = getattr(torch, target.dtype)
    if target.weights is None:
        return random_model(target.model, dtype=dtype, device=target.device, seed=target.seed)
    model = load_model(target.weights, dtype=dtype, device=target.device)
    n_params = sum(weights.numel() for weights in model.parameters())
    if n_params != target.model.n_params:
        raise UsageError(
            f"--weights {target.weights} has {n_params:,} parameters, {target.model.name} has "
            f"{target.model.n_params:,}: name the model that they belong to."
        )
    return model
