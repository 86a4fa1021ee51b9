"""Judge a predictor and the simulator together: by requests that a real engine served over time."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import kvpred
from kvpred.data.files import read_text
from kvpred.data.requests import ServedRequests, read_requests
from kvpred.data.tokenizers import ESTIMATED
from kvpred.data.traces import Trace
from kvpred.engines.traffic import MANIFEST, REQUESTS
from kvpred.errors import DataError, UsageError
from kvpred.evaluation.traffic import JudgedTraffic, joined, judge_traffic
from kvpred.hardware import get_engine_spec
from kvpred.methods import get_method
from kvpred.predictors import bundle
from kvpred.predictors.length import bundle as length_bundle
from kvpred.predictors.predictor import Predictor
from kvpred.simulation.replica import replica_for
from kvpred.simulation.simulate import simulate
from kvpred.workflows.lengths import Answered, read_answered

# What a folder of served requests says of the server, and of which kind it is.
_SAYS = {"engine": str, "model": str, "device": str, "max_bsz": int, "max_tokens": int, "output_cap": int}


def judge_served(
    folder: Path,
    predictor_folder: Path,
    *,
    scheduler: str | None = None,
    conversations: Sequence[Path] = (),
    tokenizer: str = ESTIMATED,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> JudgedTraffic:
    """Simulate what a folder of `kvpred measure --conversations` holds, and compare.

    Parameters
    ----------
    folder : Path
        With ``requests.csv`` and ``manifest.json``.
    predictor_folder : Path
        Bundle that was calibrated on the same engine, model and device; it must not have seen these runs,
        and cannot have: it learns from batches.
    scheduler : {"vllm", "sarathi"}, optional
        What the engine follows; as is known of it, if not given.
    conversations : sequence of Path
        Which the requests were drawn from: the packaged predictor of lengths, out of fold, foretells how many
        tokens all answers have.
    tokenizer : str
        That counted them.
    seed : int
        Of the bootstrap.
    progress : callable

    Raises
    ------
    DataError
        If the folder lacks a file, or a file a field.
    UsageError
        If the bundle is of another engine, model or device.
    MissingExtraError
        If Vidur is not installed.
    """
    measured = read_requests(folder / REQUESTS)
    manifest = _manifest(folder / MANIFEST)
    predictor = bundle.load(predictor_folder)
    _check_same(predictor, manifest)
    simulated: dict[tuple[str, str], ServedRequests] = {}
    for (run, spec), served in measured.items():
        progress(f"simulating {get_method(spec).name} at {run}")
        replica = replica_for(
            predictor,
            get_method(spec),
            predictor.place,
            predictor.engine,
            scheduler=scheduler or get_engine_spec(manifest["engine"]).scheduler,
            max_bsz=manifest["max_bsz"],
            max_batch_tokens=manifest["max_tokens"],
            chunk_tokens=manifest["max_tokens"],
        )
        simulated[run, spec] = simulate(trace_of(served, name=run), replica).served
    unknown = sorted({spec for _, spec in measured if get_method(spec).spec not in predictor.methods})
    notes = [f"the predictor was not calibrated on {spec}: its times rest on arithmetic" for spec in unknown]
    marked = [f"{line['method']} at {line['load']}" for line in manifest.get("runs", ()) if line.get("mark")]
    if marked:
        notes.append(f"the host was busy with other work during {', '.join(marked)}")
    true, said = _totals(
        next(iter(joined(measured).values())), conversations, tokenizer, manifest["output_cap"]
    )
    report = judge_traffic(measured, simulated, seed=seed)
    return JudgedTraffic(measured, simulated, report, true, said, tuple(notes))


def trace_of(served: ServedRequests, *, name: str) -> Trace:
    """Return the requests that were served, as a trace: their arrivals and lengths alone."""
    return Trace(served.arrived_at_s, served.prompt_tokens, served.output_tokens, name, served.ids)


def _totals(
    served: ServedRequests, conversations: Sequence[Path], tokenizer: str, cap: int
) -> tuple[float | None, float | None]:
    """Return the tokens of all answers, and their predicted mean where the answers were not learnt from."""
    if not conversations:
        return None, None
    answered = read_answered(Answered(conversations, tokenizer))
    turns = {f"{turn.piece}/{turn.index}": turn for turn in answered.turns}
    if unknown := [name for name in served.ids if name not in turns]:
        raise DataError(
            f"no answer {unknown[0]}: not what the requests were drawn from", path=conversations[0]
        )
    found = length_bundle.load(kvpred.PACKAGED_LENGTHS).held_out([turns[name] for name in served.ids])
    return float(served.output_tokens.sum()), float(found.mean_up_to(cap).sum())


def _manifest(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"not JSON: {error}", path=path) from None
    for name, kind in _SAYS.items():
        if not isinstance(found, dict) or type(found.get(name)) is not kind:
            raise DataError(f"does not say {name}: not a manifest of served requests", path=path)
    return found


def _check_same(predictor: Predictor, manifest: dict[str, Any]) -> None:
    own = {
        "engine": predictor.engine,
        "model": predictor.place.model.name,
        "device": predictor.place.device.name,
    }
    if other := [f"{name} {manifest[name]}" for name, value in own.items() if manifest[name] != value]:
        raise UsageError(
            f"the requests were served by {', '.join(other)}; the predictor is of "
            f"{own['engine']}, {own['model']} on {own['device']}: calibrate one there"
        )
