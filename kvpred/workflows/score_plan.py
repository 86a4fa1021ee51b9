"""From names on a command line to the answers that are to be scored: samples, prompts, methods, checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from kvpred.data.longbench import DATASETS, Sample, get_dataset, read_longbench, read_templates, sample_files
from kvpred.data.sites import RunSite
from kvpred.engines.plan import MeasurePlan, what_runs
from kvpred.errors import UsageError
from kvpred.models import get_model
from kvpred.workflows.measuring import MeasureRequest, plan_measurement
from kvpred.workflows.prompting import OWN, BuiltPrompt, TokenCutter, build_prompt, check_chat

Samples = Mapping[str, Sequence[Sample]]


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """What is to be scored.

    Parameters
    ----------
    samples : Path
        A file in LongBench's format, or a folder of them.
    measure : MeasureRequest
        Engine, methods, model, weights, device and options; the sites of its methods are not used.
    datasets : sequence of str
        All of the samples', if empty.
    limit : int, optional
        Only the first so many samples of each dataset.
    max_tokens : int, optional
        Of prompt and answer together; the model's context, if not given.
    templates : Path, optional
        JSON of dataset to template, in place of kvpred's own.
    chat : str, optional
        Text around the prompt, with ``{prompt}``, for datasets that are asked in a chat.
    tokenizer : str
        Counts and cuts prompts; see `kvpred.workflows.prompting.get_cutter`.
    keep_answers : bool
        Whether the journal keeps what was answered.
    """

    samples: Path
    measure: MeasureRequest
    datasets: Sequence[str] = ()
    limit: int | None = None
    max_tokens: int | None = None
    templates: Path | None = None
    chat: str | None = None
    tokenizer: str = OWN
    keep_answers: bool = False


@dataclass(frozen=True, slots=True)
class ScorePlan:
    """What is scored, on what.

    Parameters
    ----------
    request : ScoreRequest
    measured : MeasurePlan
        Engine, target and host; its methods, fp16 first.
    samples : mapping of str to sequence of Sample
        All that there are, by dataset.
    chosen : tuple of Sample
        Those that are asked for, in their order: a sample of each dataset in turn.
    templates : mapping of str to str
    max_tokens : int
    """

    request: ScoreRequest
    measured: MeasurePlan
    samples: Samples
    chosen: tuple[Sample, ...]
    templates: Mapping[str, str]
    max_tokens: int

    @property
    def methods(self) -> list[str]:
        """Full method strings, fp16 first."""
        return list(self.measured.sites)

    def header(self) -> dict[str, Any]:
        """Return what must not change while scores are added: all that an answer depends on."""
        measured, request = self.measured, self.request
        return {
            **what_runs(measured.engine, measured.target, measured.device, measured.host),
            "samples_sha256": _hashes(request.samples),
            "templates": request.templates.name if request.templates else "kvpred's own",
            "templates_sha256": _sha256(json.dumps(self.templates, sort_keys=True).encode()),
            "chat": request.chat,
            "tokenizer": Path(request.tokenizer).name,
            "max_tokens": self.max_tokens,
            "keep_answers": request.keep_answers,
        }

    def visits(self) -> list[tuple[Sample, str]]:
        """Return all samples with all methods, by full string; each sample begins with another method."""
        found = []
        for place, sample in enumerate(self.chosen):
            turn = place % len(self.methods)
            found += [(sample, method) for method in (*self.methods[turn:], *self.methods[:turn])]
        return found

    def prompt(self, sample: Sample, cutter: TokenCutter) -> BuiltPrompt:
        """Return a sample's prompt, short enough for its answer to fit."""
        return build_prompt(
            sample,
            template=self.templates[sample.dataset],
            cutter=cutter,
            limit=self.max_tokens - get_dataset(sample.dataset).max_new_tokens,
            chat=self.request.chat,
        )


def plan_scores(request: ScoreRequest) -> ScorePlan:
    """Resolve and check a request.

    Raises
    ------
    UsageError
        If a name is unknown, a number out of range, or the chat has no place for the prompt.
    DataError
        If the samples or the templates are wrong.
    """
    samples = read_longbench(request.samples)
    chosen = _chosen(samples, request)
    templates = {name: dataset.prompt for name, dataset in DATASETS.items()}
    if request.templates is not None:
        templates |= read_templates(request.templates)
    if request.chat is not None:
        check_chat(request.chat)
    answer = max(get_dataset(one.dataset).max_new_tokens for one in chosen)
    max_tokens = _max_tokens(request, answer)
    site = RunSite(1, max_tokens - answer, answer)
    measured = plan_measurement(
        replace(request.measure, methods={method: [site] for method in request.measure.methods})
    )
    return ScorePlan(request, measured, samples, chosen, templates, max_tokens)


def _chosen(samples: Samples, request: ScoreRequest) -> tuple[Sample, ...]:
    for dataset in request.datasets:
        if get_dataset(dataset).name not in samples:
            raise UsageError(
                f"{request.samples} has no samples of {dataset}; it has those of {', '.join(samples)}."
            )
    if request.limit is not None and request.limit < 1:
        raise UsageError(f"limit={request.limit} must be at least 1.")
    asked = [own[: request.limit] for name, own in samples.items() if name in (request.datasets or samples)]
    return tuple(one for turn in zip_longest(*asked) for one in turn if one is not None)


def _max_tokens(request: ScoreRequest, answer: int) -> int:
    """Return the tokens of prompt and answer together, of which the longest answer takes `answer`."""
    model = get_model(request.measure.model)
    max_tokens = model.max_position if request.max_tokens is None else request.max_tokens
    if max_tokens > model.max_position:
        raise UsageError(
            f"--max-tokens {max_tokens:,} is more than the {model.max_position:,} tokens of {model.name}'s "
            "context."
        )
    if max_tokens <= answer + 1:
        raise UsageError(
            f"--max-tokens {max_tokens:,} leaves no room for a prompt beside an answer of up to {answer}."
        )
    return max_tokens


def _hashes(path: Path) -> dict[str, str]:
    return {file.name: _sha256(file.read_bytes()) for file in sample_files(path)}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
