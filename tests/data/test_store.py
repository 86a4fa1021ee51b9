from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kvpred.data.collectives import read_collectives
from kvpred.data.profiles import Columns, Manifest, Profile, format_profile_table
from kvpred.data.store import export_vidur, find_profiles, read_profile, write_network, write_profile
from kvpred.errors import DataError, UsageError


def test_written_profile_is_read_back_the_same(tmp_path: Path, small_profile: Profile) -> None:
    folder = write_profile(tmp_path, small_profile)
    assert folder == tmp_path / "compute" / "a6000" / "org" / "tiny" / "kivi:bits=4"
    read = read_profile(folder)
    assert (read.device, read.model, read.method) == ("a6000", "org/tiny", "kivi:bits=4")
    for name, table in small_profile.tables().items():
        for column, values in table.items():
            np.testing.assert_array_equal(read.tables()[name][column], values)


def test_rewriting_replaces_the_whole_profile(tmp_path: Path, small_profile: Profile) -> None:
    write_profile(tmp_path, small_profile)
    folder = write_profile(tmp_path, replace(small_profile, attention={}))
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "mlp.csv"]
    assert [path.name for path in folder.parent.iterdir()] == ["kivi:bits=4"]


def test_steps_travel_with_the_profile(tmp_path: Path, small_profile: Profile, small_steps: Columns) -> None:
    read = read_profile(write_profile(tmp_path, replace(small_profile, steps=small_steps)))
    assert set(read.steps) == set(small_steps)
    for column, values in small_steps.items():
        np.testing.assert_array_equal(read.steps[column], values)


def test_profile_whose_steps_nobody_timed_has_none(
    tmp_path: Path, small_profile: Profile, small_steps: Columns
) -> None:
    write_profile(tmp_path, replace(small_profile, steps=small_steps))
    assert read_profile(write_profile(tmp_path, small_profile)).steps == {}


def test_broken_steps_are_named_with_their_file(
    tmp_path: Path, small_profile: Profile, small_steps: Columns
) -> None:
    steps = write_profile(tmp_path, small_profile) / "steps.csv"
    steps.write_text(format_profile_table(small_steps).replace("n_layers", "layers"))
    with pytest.raises(DataError, match="missing column n_layers") as caught:
        read_profile(steps.parent)
    assert caught.value.path == steps


def test_vidurs_layout_takes_no_steps(tmp_path: Path, small_profile: Profile, small_steps: Columns) -> None:
    folder = export_vidur(tmp_path, replace(small_profile, steps=small_steps))
    assert sorted(path.name for path in folder.iterdir()) == ["attention.csv", "mlp.csv"]


def test_find_lists_every_profile_with_what_it_is_about(tmp_path: Path, small_profile: Profile) -> None:
    write_profile(tmp_path, small_profile)
    write_profile(tmp_path, replace(small_profile, method="fp16"))
    keys = find_profiles(tmp_path)
    assert [(key.device, key.model, key.method) for key in keys] == [
        ("a6000", "org/tiny", "fp16"),
        ("a6000", "org/tiny", "kivi:bits=4"),
    ]


def bare(tmp_path: Path, small_profile: Profile, *, place: str) -> Path:
    """Put the tables alone, without manifest, at a place."""
    written = write_profile(tmp_path / "store", small_profile)
    (written / "manifest.json").unlink()
    shutil.copytree(written, tmp_path / place)
    return tmp_path / place


def test_vidurs_plain_layout_names_device_and_model(tmp_path: Path, small_profile: Profile) -> None:
    folder = bare(tmp_path, small_profile, place="compute/a40/meta-llama/Llama-2-7b-hf")
    with pytest.raises(DataError, match=r"give --method$"):
        read_profile(folder)
    read = read_profile(folder, method="fp16")
    assert (read.device, read.model, read.method) == ("a40", "meta-llama/Llama-2-7b-hf", "fp16")


def test_known_methods_tell_model_and_method_from_org_and_model(
    tmp_path: Path, small_profile: Profile
) -> None:
    folder = bare(tmp_path, small_profile, place="compute/a40/llama-2-7b/kivi:bits=2")
    read = read_profile(folder, known_methods={"kivi"})
    assert (read.model, read.method) == ("llama-2-7b", "kivi:bits=2")


def test_folder_that_says_nothing_needs_every_option(tmp_path: Path, small_profile: Profile) -> None:
    folder = bare(tmp_path, small_profile, place="artifact/Llama-2-7b-kivi")
    with pytest.raises(DataError, match="give --device, --model, --method"):
        read_profile(folder)
    assert read_profile(folder, device="a6000", model="llama-2-7b", method="kivi").method == "kivi"


def test_option_that_contradicts_the_manifest_is_refused(tmp_path: Path, small_profile: Profile) -> None:
    folder = write_profile(tmp_path, small_profile)
    with pytest.raises(DataError, match="--device a100 contradicts the manifest, which says a6000"):
        read_profile(folder, device="a100")


def test_profile_without_attention_is_read(tmp_path: Path, small_profile: Profile) -> None:
    folder = write_profile(tmp_path, replace(small_profile, attention={}))
    assert read_profile(folder).attention == {}


def test_folder_without_tables_and_missing_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither attention\.csv nor mlp\.csv"):
        read_profile(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        read_profile(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no such folder"):
        find_profiles(tmp_path / "nowhere")


@pytest.mark.parametrize("model", ["../escape", "/root", "", "a//b", ".hidden", "a\nb"])
def test_names_never_lead_out_of_the_store(tmp_path: Path, small_profile: Profile, model: str) -> None:
    with pytest.raises(UsageError, match="cannot name a folder"):
        write_profile(tmp_path / "store", replace(small_profile, model=model))
    assert not list(tmp_path.iterdir())


def test_empty_profile_and_foreign_manifest_are_not_written(tmp_path: Path, small_profile: Profile) -> None:
    foreign = Manifest(model="other", device="a6000", method="kivi", method_params="kivi:bits=4")
    with pytest.raises(UsageError, match="no table"):
        write_profile(tmp_path, replace(small_profile, attention={}, mlp={}))
    with pytest.raises(UsageError, match="not about"):
        write_profile(tmp_path, replace(small_profile, manifest=foreign))


def test_vidurs_own_profiles_are_found_and_read(shared_data: Path) -> None:
    keys = find_profiles(shared_data / "vidur")
    assert [key.device for key in keys] == ["a100", "a40", "h100"]
    assert {key.model for key in keys} == {"meta-llama/Llama-2-7b-hf"}
    assert len(read_profile(keys[1].path, method="fp16").mlp["num_tokens"]) == 1044


def test_published_collectives_are_read(shared_data: Path) -> None:
    times = read_collectives(shared_data / "vidur" / "network" / "a100_dgx")
    assert {name: len(table.size_bytes) for name, table in times.items()} == {
        "all_reduce": 6958,
        "send_recv": 1988,
    }


ALL_REDUCE = "num_workers,devices_per_node,size,collective,time_stats.all_reduce.median\n"


def network(folder: Path, *, row: str = "2,2,8,all_reduce,0.1") -> Path:
    """Write a table of one all-reduce into a folder."""
    folder.mkdir(parents=True)
    (folder / "all_reduce.csv").write_text(f"{ALL_REDUCE}{row}\n")
    return folder


def test_a_profile_knows_the_collectives_of_its_device_under_its_root(
    tmp_path: Path, small_profile: Profile
) -> None:
    folder = write_profile(tmp_path, small_profile)
    assert read_profile(folder).collectives == {}
    network(tmp_path / "network" / "h100")
    assert read_profile(folder).collectives == {}
    network(tmp_path / "network" / "a6000")
    assert read_profile(folder).collectives["all_reduce"].median_ms.tolist() == [0.1]


def test_collectives_are_stored_as_they_are_for_a_device(tmp_path: Path) -> None:
    source = network(tmp_path / "a100_dgx")
    for device, name in ((None, "a100_dgx"), ("a100", "a100")):
        folder = write_network(tmp_path / "store", source, device=device)
        assert folder == tmp_path / "store" / "network" / name
        assert [path.name for path in folder.iterdir()] == ["all_reduce.csv"]
        assert (folder / "all_reduce.csv").read_bytes() == (source / "all_reduce.csv").read_bytes()


def test_wrong_collectives_are_not_stored(tmp_path: Path) -> None:
    source = network(tmp_path / "a100", row="2,2,8,all_reduce,0")
    with pytest.raises(DataError, match="expected a positive time"):
        write_network(tmp_path / "store", source)
    with pytest.raises(UsageError, match="cannot name a folder"):
        write_network(tmp_path / "store", source, device="../a100")
    assert not (tmp_path / "store").exists()


def test_a_manifest_claims_nothing_that_nobody_said(tmp_path: Path, small_profile: Profile) -> None:
    folder = write_profile(tmp_path, small_profile)
    written = json.loads((folder / "manifest.json").read_text())
    assert written == {
        "schema_version": 1, "model": "org/tiny", "device": "a6000",
        "method": "kivi", "method_params": "kivi:bits=4",
    }  # fmt: skip
    read = read_profile(folder)
    assert read.manifest is not None and read.manifest.cache_state is None
    write_profile(tmp_path, read)
    assert json.loads((folder / "manifest.json").read_text()) == written
