"""transformers' continuous batching: an uncompressed cache in pages, all tokens of a step in one row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from statistics import fmean
from time import perf_counter
from typing import Any

from kvpred.data.requests import ServedRequests
from kvpred.engines.base import Arrival, EngineError, Generation, Target, Usage
from kvpred.engines.recorder import Recorder
from kvpred.engines.transformers import Transformers, failures
from kvpred.errors import UsageError
from kvpred.methods import Method

_POLL_S = 1.0


class TransformersPaged(Transformers):
    """One continuous-batching manager, whose pages hold a batch of the target's largest size.

    Its attention is torch's SDPA under a mask of all tokens of a step against all tokens in their pages, so
    that the work of a prefill grows with the square of the batch's tokens.

    Parameters and errors as `Transformers`.
    """

    name = "transformers-paged"
    attention = "sdpa"

    def __init__(self, target: Target, methods: Sequence[Method]) -> None:
        super().__init__(target, methods)
        with failures(f"{self.name} cannot keep {target.max_tokens:,} tokens"):
            self._manager: Any = self._start()

    def generate(
        self, method: Method, *, bsz: int, prompt_len: int, output_len: int, seed: int
    ) -> Generation:
        """Serve one batch, its prompts in one forward pass.

        A token arrives when the manager's queue hands it out; the manager's own time stamps give
        `own_ttft_s` and `own_tpot_s`. Parameters and errors as in `Engine.generate`.
        """
        self._check_lengths(prompt_len, output_len)
        self._check_batch(bsz, prompt_len + output_len)
        prompts = self._random_prompts(bsz=bsz, length=prompt_len, seed=seed).tolist()
        self._reset_peak_memory()
        arrivals: defaultdict[str, list[float]] = defaultdict(list)
        last: dict[str, Any] = {}
        for at, result in self._stream(prompts, output_len):
            arrivals[result.request_id].append(at)
            last[result.request_id] = result
        own = [(result.timestamps, result.created_time) for result in last.values()]
        steps = [after - before for stamps, _ in own for before, after in pairwise(stamps)]
        return Generation(
            tuple(len(result.prompt_ids) for result in last.values()),
            tuple(map(tuple, arrivals.values())),
            own_ttft_s=fmean(stamps[0] - created for stamps, created in own),
            own_tpot_s=fmean(steps) if steps else None,
            peak_memory_bytes=self._peak_memory_bytes(),
        )

    def serve(self, method: Method, arrivals: Sequence[Arrival]) -> ServedRequests:
        """Serve requests as they come; the manager joins them to its running batch.

        What of a step falls to whom is not told. Parameters and errors as in `Engine.serve`.
        """
        prompts = [self._tokens_of(one.prompt) for one in arrivals]
        for prompt, one in zip(prompts, arrivals, strict=True):
            self._check_lengths(len(prompt), one.output_len)
            self._check_batch(1, len(prompt) + one.output_len)
        recorder = Recorder(arrivals, [len(prompt) for prompt in prompts])
        places: dict[str, int] = {}
        recorder.start()
        with failures(f"{self.name} under traffic"):
            while not recorder.done:
                for i in range(len(places), recorder.come()):
                    name = self._manager.add_request(
                        prompts[i], max_new_tokens=arrivals[i].output_len, streaming=True
                    )
                    places[name] = i
                if not recorder.open:
                    recorder.wait()
                    continue
                result = self._manager.get_result(timeout=min(recorder.until_next_s(), _POLL_S))
                if result is None and self._manager.is_running():
                    continue
                if result is None or result.error is not None:
                    raise EngineError(f"{self.name}: {result.error if result else 'its thread ended'}.")
                if result.request_id in places:
                    recorder.token(places[result.request_id])
        return recorder.served(device_known=False)

    def usage(self, method: Method, *, prompt_len: int, output_len: int) -> Usage | None:
        """Serve one sequence, and count its pages after its first tokens; None if it was done before."""
        self._check_lengths(prompt_len, output_len)
        self._check_batch(1, prompt_len + output_len)
        prompts = self._random_prompts(bsz=1, length=prompt_len, seed=self.target.seed).tolist()
        counted = None
        for _ in self._stream(prompts, output_len):
            counted = counted or self._count_pages()
        return counted

    def close(self) -> None:
        """End the manager's thread."""
        manager, self._manager = getattr(self, "_manager", None), None
        if manager is not None:
            manager.stop(hard_stop=True)
            manager.destroy()

    def _start(self) -> Any:
        from transformers import ContinuousBatchingConfig, GenerationConfig

        pages = ContinuousBatchingConfig()
        # A sequence leaves less than a page empty.
        pages.num_blocks = self.target.max_tokens // pages.page_size + self.target.max_bsz
        pages.max_batch_tokens = self.target.max_tokens
        pages.max_requests_per_batch = self.target.max_bsz
        # Nothing is kept for prompts that come again, and no prompt waits for room that others may need.
        pages.allow_block_sharing = False
        pages.safety_margin = 0.0
        pages.auto_switch_to_flash = False
        manager = self._model.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=-1),
            continuous_batching_config=pages,
        )
        # Makes the pages here, where a lack of memory can be told; the thread would only stop.
        manager.warmup()
        manager.start()
        return manager

    def _check_batch(self, bsz: int, tokens: int) -> None:
        most = self.target
        if bsz > most.max_bsz or bsz * tokens > most.max_tokens:
            raise UsageError(
                f"{self.name} was started for {most.max_bsz} sequences and {most.max_tokens:,} tokens in "
                f"all, not for {bsz} of {tokens:,}."
            )

    def _answer(self, method: Method, tokens: list[int], max_tokens: int) -> Iterable[int]:
        # All of them: what nobody waits for would still run beside the next batch.
        return [result.generated_tokens[-1] for _, result in self._stream([tokens], max_tokens)]

    def _stream(self, prompts: list[list[int]], output_len: int) -> Iterator[tuple[float, Any]]:
        """Submit prompts at once; yield each sequence so far with every token, and when it arrived."""
        where = f"{self.name} at {len(prompts)} x {len(prompts[0]):,} tokens"
        # The loop would take the first prompt up while the others are still on their way.
        with failures(where), self._manager.pause():
            begin = perf_counter()
            names = self._manager.add_requests(
                prompts, max_new_tokens=output_len, streaming=True, record_timestamps=True
            )
        waiting = dict.fromkeys(names, output_len)
        while any(waiting.values()):
            result = self._manager.get_result(timeout=_POLL_S)
            if result is None and self._manager.is_running():
                continue
            if result is None or result.error is not None:
                raise EngineError(f"{where}: {result.error if result else 'its thread ended'}.")
            if result.request_id in waiting:
                waiting[result.request_id] -= 1
                yield perf_counter() - begin, result

    def _count_pages(self) -> Usage | None:
        with self._manager.pause():
            processor = self._manager.batch_processor
            states = list(processor.scheduler.active_requests.values())
            if not states:
                return None
            cache = processor.cache
            free_bytes = cache.compute_free_capacity(relative=False)
            used_bytes = cache.num_sectors * cache.bytes_per_sector - free_bytes
            token_bytes = cache.bytes_per_sector / cache.tokens_per_sector
            return Usage(
                kv_len=sum(state.position_offset for state in states),
                cache_bytes=used_bytes,
                cache_tokens=used_bytes / token_bytes,
                capacity_tokens=cache.num_sectors * cache.tokens_per_sector,
                source="pages of the manager's cache",
            )
