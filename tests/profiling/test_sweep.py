"""A sweep loses no point, measures none twice, goes on past what does not fit, refuses foreign folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import Tensor

import kvpred
from kvpred.caches import MethodCache
from kvpred.caches.fp16 import Fp16Layer
from kvpred.data.journal import FILE
from kvpred.data.profiles import Profile, time_column
from kvpred.data.store import read_profile, write_profile
from kvpred.errors import UsageError
from kvpred.methods import Method, get_method
from kvpred.models import get_model
from kvpred.profiling import sweep as sweep_module
from kvpred.profiling.expectation import needed_bytes
from kvpred.profiling.grid import Grid, Site, StageGrid
from kvpred.profiling.stack import Stack
from kvpred.profiling.sweep import MEMORY_SHARE, Progress, Sweep, SweepPlan, versions
from tests.tiny import GRID, N_SITES, TINY

MakePlan = Callable[..., SweepPlan]
Profiles = Callable[[Path], dict[str, Profile]]
ABSURD = 2**50


@pytest.fixture(autouse=True)
def _no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no part of what is tested here."""
    monkeypatch.setattr(sweep_module, "DRIFT", float("inf"))


class HungryLayer(Fp16Layer):
    """An uncompressed cache that wants more memory than any machine has once it holds two sequences."""

    def attend(self, query: Tensor, scaling: float) -> Tensor:
        if query.shape[0] > 1:
            torch.empty(ABSURD, dtype=torch.uint8)
        return super().attend(query, scaling)


class BrokenLayer(Fp16Layer):
    """An uncompressed cache with a defect."""

    def attend(self, query: Tensor, scaling: float) -> Tensor:
        return query @ query


def _with_layers(stack: Stack, name: str, layer: type[Fp16Layer]) -> Stack:
    """Return a stack in which one method's caches are of this class."""

    class Own(Stack):
        def empty_cache(self, method: Method) -> MethodCache:
            cache = super().empty_cache(method)
            if method.name == name:
                cache.layers = [layer(method) for _ in cache.layers]
            return cache

    return Own(stack.model, stack.spec, stack.n_layers, stack.generator)


def _keys(sweep: Sweep) -> list[tuple[str, str, int, int]]:
    points = [point for point in sweep.journal.points if "stage" in point]
    return [(point["method"], point["stage"], point["bsz"], point["length"]) for point in points]


def _unused() -> Stack:
    raise AssertionError("a stack was made although no point was left")


# What is measured, and when it is on disk:


def test_every_method_is_measured_at_every_site_once(
    make_plan: MakePlan, stack: Stack, tmp_path: Path
) -> None:
    plan = make_plan("fp16", "h2o")
    sweep = Sweep(plan, tmp_path)
    sweep.run(lambda: stack)
    wanted = [(m.spec, site.stage, site.bsz, site.length) for site in GRID.sites() for m in plan.methods]
    assert sorted(_keys(sweep)) == sorted(wanted)


def test_repeats_of_a_site_are_spread_over_the_sweep_and_pooled(
    make_plan: MakePlan, stack: Stack, tmp_path: Path
) -> None:
    sweep = Sweep(make_plan("fp16", grid=GRID.model_copy(update={"rounds": 2})), tmp_path)
    (folder,) = sweep.run(lambda: stack)
    assert _keys(sweep)[:N_SITES] == _keys(sweep)[N_SITES:]
    assert len(set(_keys(sweep))) == N_SITES
    profile = read_profile(folder)
    assert profile.manifest is not None
    assert (profile.manifest.repeats, profile.manifest.status) == (2 * GRID.repeats, "finished")
    visits = [p["timing"]["step"] for p in sweep.journal.points if p.get("bsz") == 2 and p["timing"]]
    slowest_ms = 1e3 * max(seconds for visit in visits for seconds in visit)
    row = profile.steps["batch_size"] == 2
    assert profile.steps["time_stats.step.max"][row] == pytest.approx(slowest_ms, rel=1e-4)


def test_a_sweep_ended_between_two_rounds_goes_on_with_the_second(
    make_plan: MakePlan, stack: Stack, tmp_path: Path
) -> None:
    plan = make_plan("fp16", grid=GRID.model_copy(update={"rounds": 2}))
    Sweep(plan, tmp_path).run(lambda: stack)
    journal = tmp_path / FILE
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[: 2 + N_SITES]))
    assert [point.done for point in Sweep(plan, tmp_path).listing()] == [False] * N_SITES
    Sweep(plan, tmp_path).run(lambda: stack)
    assert len(journal.read_text().splitlines()) == len(lines)


def test_methods_are_compared_site_by_site(make_plan: MakePlan) -> None:
    methods = [method.name for _, method in make_plan("fp16", "h2o").points()]
    assert methods == ["fp16", "h2o"] * N_SITES


def test_every_point_is_on_disk_before_the_next_one_starts(
    make_plan: MakePlan, stack: Stack, tmp_path: Path, profiles: Profiles
) -> None:
    plan = make_plan("fp16")
    rows = []

    def look(progress: Progress) -> None:
        assert len(_keys(Sweep(plan, tmp_path))) == progress.done
        rows.append(
            sum(len(profile.attention["is_prefill"]) for profile in profiles(tmp_path).values())
            if rows
            else 0
        )

    Sweep(plan, tmp_path).run(lambda: stack, progress=look)
    assert rows == list(range(N_SITES))


def test_progress_counts_all_points(make_plan: MakePlan, stack: Stack, tmp_path: Path) -> None:
    told: list[Progress] = []
    Sweep(make_plan("fp16"), tmp_path).run(lambda: stack, progress=told.append)
    assert [(progress.done, progress.total) for progress in told] == [(i, N_SITES) for i in range(N_SITES)]
    assert told[0].text == "fp16 prefill 1 x 64"
    assert all(progress.remaining_s > 0 for progress in told)


def test_each_point_tells_how_it_was_measured(make_plan: MakePlan, stack: Stack, tmp_path: Path) -> None:
    sweep = Sweep(make_plan("fp16"), tmp_path)
    sweep.run(lambda: stack)
    roofline, *points = sweep.journal.points
    assert set(roofline["roofline"]) == {"bytes_s", "flops_s"}
    for point in points:
        assert {"timing", "drift", "retried", "load", "took_s", "at"} <= set(point)
        assert point["took_s"] > 0 and point["drift"] > 0 and not point["retried"]


def test_a_point_is_measured_again_where_the_machine_got_slower(
    make_plan: MakePlan, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "DRIFT", 0.0)
    sweep = Sweep(make_plan("fp16"), tmp_path)
    sweep.run(lambda: stack)
    assert [point["retried"] for point in sweep.journal.points[1:]] == [True] * N_SITES


def test_profiles_say_where_and_how_they_came_about(
    make_plan: MakePlan, stack: Stack, tmp_path: Path, profiles: Profiles
) -> None:
    sweep = Sweep(make_plan("fp16", "kivi:bits=2", seed=3), tmp_path)
    folders = sweep.run(lambda: stack)
    found = profiles(tmp_path)
    assert [read_profile(folder).method for folder in folders] == list(found)
    for method, profile in found.items():
        manifest = profile.manifest
        assert manifest is not None
        assert (manifest.model, manifest.device, manifest.method_params) == ("tiny", "host-cpu", method)
        assert (manifest.engine, manifest.host) == ("transformers", "this very processor")
        assert (manifest.seed, manifest.repeats, manifest.n_layers) == (3, GRID.repeats, TINY.n_layers)
        assert (manifest.dtype, manifest.weights, manifest.cache_state) == ("bfloat16", "random", "cold")
        assert (manifest.threads, manifest.driver) == (torch.get_num_threads(), torch.version.cuda)
        assert manifest.versions == versions()
        assert manifest.roofline == sweep.journal.points[0]["roofline"]
        assert (manifest.status, manifest.not_fitting) == ("finished", 0)
        assert len(profile.steps["is_prefill"]) == len(profile.attention["is_prefill"]) == N_SITES


def test_versions_are_those_that_run() -> None:
    assert versions()["kvpred"] == kvpred.__version__
    assert (versions()["torch"], versions()["transformers"]) == (torch.__version__, transformers.__version__)


# Going on:


def test_an_interrupted_sweep_goes_on_where_it_ended(
    make_plan: MakePlan, stack: Stack, tmp_path: Path, profiles: Profiles
) -> None:
    plan = make_plan("fp16")

    def interrupt(progress: Progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Sweep(plan, tmp_path).run(lambda: stack, progress=interrupt)
    before = (tmp_path / FILE).read_bytes()
    (partial,) = profiles(tmp_path).values()
    assert partial.manifest is not None and partial.manifest.status == "partial"

    told: list[Progress] = []
    sweep = Sweep(plan, tmp_path)
    sweep.run(lambda: stack, progress=told.append)
    assert [progress.done for progress in told] == list(range(2, N_SITES))
    assert (tmp_path / FILE).read_bytes().startswith(before)
    (finished,) = profiles(tmp_path).values()
    assert finished.manifest is not None and finished.manifest.status == "finished"


def test_a_finished_sweep_measures_nothing_and_needs_no_stack(
    make_plan: MakePlan, stack: Stack, tmp_path: Path, profiles: Profiles
) -> None:
    plan = make_plan("fp16", "h2o")
    Sweep(plan, tmp_path).run(lambda: stack)
    journal, tables = (tmp_path / FILE).read_bytes(), profiles(tmp_path)["fp16"].attention
    Sweep(plan, tmp_path).run(_unused)
    assert (tmp_path / FILE).read_bytes() == journal
    assert profiles(tmp_path)["fp16"].attention[time_column("attn_decode")].tolist() == pytest.approx(
        tables[time_column("attn_decode")].tolist(), nan_ok=True
    )


def test_profiles_that_were_lost_are_made_again_of_the_journal(
    make_plan: MakePlan, stack: Stack, tmp_path: Path, profiles: Profiles
) -> None:
    plan = make_plan("fp16")
    (folder,) = Sweep(plan, tmp_path).run(lambda: stack)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    assert Sweep(plan, tmp_path).run(_unused) == [folder]
    assert list(profiles(tmp_path)) == ["fp16"]


def test_what_killed_processes_left_behind_is_cleaned(
    make_plan: MakePlan, stack: Stack, tmp_path: Path, profiles: Profiles
) -> None:
    """Killed between the two renames that replace a profile, and while it wrote a table and the journal."""
    plan = make_plan("fp16")
    (folder,) = Sweep(plan, tmp_path).run(lambda: stack)
    folder.rename(folder.with_name(".fp16.0123abcd.tmp"))
    half = folder.with_name(".fp16.4567cdef.tmp")
    half.mkdir()
    (half / ".mlp.csv.89abcdef.tmp").write_text("n_head,n_kv")
    (tmp_path / f".{FILE}.01234567.tmp").write_text("{")
    Sweep(plan, tmp_path).run(_unused)
    assert list(profiles(tmp_path)) == ["fp16"]
    assert [path for path in tmp_path.rglob("*") if path.name.startswith(".")] == []


def test_a_new_method_joins_without_measuring_the_others_again(
    make_plan: MakePlan, stack: Stack, tmp_path: Path, profiles: Profiles
) -> None:
    Sweep(make_plan("fp16"), tmp_path).run(lambda: stack)
    before = (tmp_path / FILE).read_bytes()
    joined = Sweep(make_plan("fp16", "streamingllm"), tmp_path)
    joined.run(lambda: stack)
    assert (tmp_path / FILE).read_bytes().startswith(before)
    assert [method for method, *_ in _keys(joined)] == ["fp16"] * N_SITES + [
        get_method("streamingllm").spec
    ] * N_SITES
    assert {p.manifest.status for p in profiles(tmp_path).values() if p.manifest} == {"finished"}


# What does not fit:


def test_points_beyond_the_memory_are_not_tried(
    make_plan: MakePlan, stack: Stack, tmp_path: Path, profiles: Profiles
) -> None:
    largest = needed_bytes(get_method("fp16"), TINY, Site("prefill", 1, 64), n_layers=TINY.n_layers)
    plan = make_plan("fp16", memory_bytes=int(largest / MEMORY_SHARE) - 1)
    Sweep(plan, tmp_path).run(lambda: stack)
    profile = profiles(tmp_path)["fp16"]
    assert profile.manifest is not None
    assert (profile.manifest.not_fitting, profile.manifest.status) == (1, "finished")
    assert sorted(profile.attention["prefill_chunk_size"]) == [0, 0, 16]


def test_a_sweep_of_which_nothing_fits_ends_without_a_profile(
    make_plan: MakePlan, stack: Stack, tmp_path: Path
) -> None:
    sweep = Sweep(make_plan("fp16", memory_bytes=1), tmp_path)
    assert sweep.run(lambda: stack) == []
    assert len(_keys(sweep)) == N_SITES
    assert Sweep(sweep.plan, tmp_path).run(_unused) == []


def test_memory_that_gives_out_in_the_middle_costs_that_point_alone(
    make_plan: MakePlan, stack: Stack, tmp_path: Path, profiles: Profiles
) -> None:
    plan = make_plan("fp16", "streamingllm")
    sweep = Sweep(plan, tmp_path)
    sweep.run(lambda: _with_layers(stack, "streamingllm", HungryLayer))
    missing = [point for point in sweep.journal.points if point.get("timing", ...) is None]
    assert [(point["method"], point["stage"], point["bsz"]) for point in missing] == [
        (get_method("streamingllm").spec, "decode", 2)
    ]
    not_fitting = {p.method: p.manifest.not_fitting for p in profiles(tmp_path).values() if p.manifest}
    assert not_fitting == {"fp16": 0, get_method("streamingllm").spec: 1}
    assert Sweep(plan, tmp_path).run(_unused)


def test_any_other_failure_ends_the_sweep_and_keeps_what_was_measured(
    make_plan: MakePlan, stack: Stack, tmp_path: Path
) -> None:
    plan = make_plan("fp16", "streamingllm")
    with pytest.raises(RuntimeError, match="size"):
        Sweep(plan, tmp_path).run(lambda: _with_layers(stack, "streamingllm", BrokenLayer))
    done = _keys(Sweep(plan, tmp_path))
    assert [stage for _, stage, *_ in done] == ["prefill", "prefill", "decode"]
    assert [module for module in stack.model.modules() if module._forward_hooks] == []


# What a sweep refuses:


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"grid": GRID.model_copy(update={"repeats": 3})}, "grid.repeats was 2, now 3"),
        ({"grid": GRID.model_copy(update={"prefill": None})}, "grid.prefill was {"),
        ({"n_layers": 2}, "n_layers was 3, now 2"),
        ({"dtype": "float32"}, 'dtype was "bfloat16", now "float32"'),
        ({"weights": "mine.gguf"}, 'weights was "random", now "mine.gguf"'),
    ],
)
def test_a_sweep_that_measures_otherwise_is_refused_with_the_difference(
    make_plan: MakePlan, stack: Stack, tmp_path: Path, changes: dict[str, object], difference: str
) -> None:
    Sweep(make_plan("fp16", grid=GRID), tmp_path).journal.add(
        {"roofline": {"bytes_s": 1e10, "flops_s": 1e11}}
    )
    with pytest.raises(UsageError) as caught:
        Sweep(make_plan("fp16", **changes), tmp_path)
    assert f"holds another sweep ({difference}" in str(caught.value)


def test_profiles_of_no_sweep_are_left_alone(
    make_plan: MakePlan, stack: Stack, tmp_path: Path, profiles: Profiles
) -> None:
    Sweep(make_plan("fp16"), tmp_path / "sweep").run(lambda: stack)
    (profile,) = profiles(tmp_path / "sweep").values()
    write_profile(tmp_path / "foreign", profile)
    with pytest.raises(UsageError, match="holds profiles of no sweep"):
        Sweep(make_plan("fp16"), tmp_path / "foreign")


def test_a_model_with_a_sliding_window_is_refused() -> None:
    plan = SweepPlan(
        model=get_model("mistral-7b-v0.1"), methods=[get_method("fp16")], grid=GRID,
        device="cpu", device_name="host-cpu", host="cpu", memory_bytes=2**40,
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"window of 4,096 tokens"):
        plan.check()


# Time and plans:


def test_no_point_starts_after_the_budget(
    make_plan: MakePlan, stack: Stack, tmp_path: Path, profiles: Profiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that only points move, ten seconds each: of a budget of 15 the first two use up more."""
    now = [0.0]

    def pass_time(progress: Progress) -> None:
        assert progress.remaining_s <= 15
        now[0] += 10

    monkeypatch.setattr(sweep_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    plan = make_plan("fp16")
    sweep = Sweep(plan, tmp_path)
    sweep.run(lambda: stack, budget_s=15, progress=pass_time)
    assert _keys(sweep) == [("fp16", "prefill", 1, 64), ("fp16", "decode", 2, 32)]
    manifest = profiles(tmp_path)["fp16"].manifest
    assert manifest is not None and manifest.status == "partial"


def test_a_budget_that_no_point_fits_measures_nothing(
    make_plan: MakePlan, stack: Stack, tmp_path: Path
) -> None:
    assert Sweep(make_plan("fp16"), tmp_path).run(lambda: stack, budget_s=0) == []


def test_listing_writes_nothing(make_plan: MakePlan, tmp_path: Path) -> None:
    listed = Sweep(make_plan("fp16", "h2o"), tmp_path).listing()
    assert list(tmp_path.iterdir()) == []
    assert len(listed) == 2 * N_SITES
    assert all(point.fits and not point.done and point.expected_s > 0 for point in listed)


def test_a_listing_says_what_is_done_and_what_does_not_fit(
    make_plan: MakePlan, stack: Stack, tmp_path: Path
) -> None:
    grid = Grid(decode=StageGrid(bsz=[1, 512], length=[512]), rounds=1, repeats=2, steps=2)
    plan = make_plan("fp16", grid=grid, memory_bytes=2**28)
    Sweep(plan, tmp_path).run(lambda: stack)
    listed = {
        point.bsz: point
        for point in Sweep(make_plan("fp16", "h2o", grid=grid, memory_bytes=2**28), tmp_path).listing()
        if point.method == "fp16"
    }
    assert (listed[1].fits, listed[512].fits) == (True, False)
    assert listed[1].memory_bytes < 2**28 < listed[512].memory_bytes
    assert listed[1].done and listed[512].done
