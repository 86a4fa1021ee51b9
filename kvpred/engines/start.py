"""Start engines for a measurement, and prove what they serve before anything of them is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from kvpred._version import __version__
from kvpred.data.journal import Journal
from kvpred.engines.base import Engine, EngineError, Target, listed_versions
from kvpred.engines.proof import Probe, Proof, probe, prove
from kvpred.engines.watch import now
from kvpred.engines.worker import Worker
from kvpred.errors import UsageError
from kvpred.methods import BASELINE, get_method


@contextmanager
def started(
    engine: type[Engine], target: Target, specs: Sequence[str], tell: Callable[[str], None]
) -> Iterator[dict[str, Engine]]:
    """Start the engines of methods, by full method string; end them all at last.

    Parameters
    ----------
    engine : type of Engine
    target : Target
    specs : sequence of str
        Full method strings.
    tell : callable
        Told what is being started.
    """
    methods = [get_method(spec) for spec in specs]
    groups = [methods] if engine.shared else [[method] for method in methods]
    running: list[Engine] = []
    try:
        found: dict[str, Engine] = {}
        for group in groups:
            tell(f"starting {engine.name}: {', '.join(method.name for method in group)}")
            one = engine(target, group) if engine.remote else Worker(engine, target, group)
            running.append(one)
            found |= {method.spec: one for method in group}
        yield found
    finally:
        for one in running:
            one.close()


def begin(
    journal: Journal,
    engine: type[Engine],
    target: Target,
    engines: Mapping[str, Engine],
    tell: Callable[[str], None],
) -> None:
    """Check that the engine made the journal's runs so far, and prove the methods not yet proven.

    Parameters
    ----------
    journal : Journal
        Gets lines of versions, settings and proofs.
    engine : type of Engine
    target : Target
    engines : mapping of str to Engine
        By full method string, as `started` yields them.
    tell : callable
        Told what is being probed.

    Raises
    ------
    UsageError
        If the runs so far were made by other versions.
    EngineError
        If a method is not what it says.
    """
    first = next(iter(engines.values()))
    versions = {"kvpred": __version__, **first.versions()}
    known = next((line["versions"] for line in journal.points if "versions" in line), versions)
    if known != versions:
        raise UsageError(
            f"{journal.folder} holds runs of {listed_versions(known)}, this is {listed_versions(versions)}: "
            "choose another --output, or --no-resume to replace them."
        )
    # A server may have been started anew with other options since.
    proven = [] if engine.remote else [p["proof"]["method"] for p in journal.points if "proof" in p]
    unproven = [spec for spec in engines if spec not in proven]
    if not unproven:
        return
    probes: dict[str, Probe] = {}
    for spec in dict.fromkeys((*[s for s in engines if s == BASELINE], *unproven)):
        tell(f"probing {get_method(spec).name}")
        probes[spec] = probe(engines[spec], get_method(spec), max_seq_len=target.max_seq_len)
    proofs = [
        prove(get_method(spec), probes[spec], baseline=probes.get(BASELINE), model=target.model)
        for spec in unproven
    ]
    for proof in proofs:
        _refuse_unsound(engine.name, proof)
    settings = {spec: engines[spec].settings(get_method(spec)) for spec in unproven}
    journal.add({"versions": versions, "settings": settings, "at": now()})
    for proof in proofs:
        journal.add({"proof": asdict(proof)})


def _refuse_unsound(engine: str, proof: Proof) -> None:
    if proof.sound is False:
        raise EngineError(
            f"{engine} serves nonsense under {proof.method}: it {proof.text}. Its speed would mean nothing; "
            "nothing of it was measured. Leave the method out, or use a version that has it."
        )
    if proof.took_effect is False:
        raise EngineError(
            f"{proof.method} did not take effect in {engine}: it {proof.text}. Nothing of it was measured."
        )
