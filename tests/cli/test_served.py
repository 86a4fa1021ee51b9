"""Requests over time on the command line: served for real, simulated, compared; and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openvino_genai", reason="pip install 'kvpred[openvino]' brings OpenVINO GenAI")
pytest.importorskip("vidur", reason="pip install 'kvpred[vidur]' brings the simulator")

from kvpred.data.requests import read_requests
from kvpred.data.sites import pool_sites
from kvpred.hardware.host import detect_cpu
from kvpred.models import get_model
from kvpred.predictors.bundle import save
from kvpred.predictors.predictor import fit_predictor
from kvpred.predictors.scaling import Place
from tests.host_bundle import made_up_runs

Cli = Callable[..., Any]
N = 6


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some short conversations."""
    path = tmp_path_factory.mktemp("said") / "conversations.json"
    said = [
        {
            "id": f"talk{number}",
            "conversations": [
                {"from": "human", "value": f"Tell me {number} facts about rivers and stones, please."},
                {"from": "gpt", "value": "A river runs over stones. " * (3 + number)},
            ],
        }
        for number in range(N)
    ]
    path.write_text(json.dumps(said))
    return path


def ask(cli: Cli, conversations: Path, output: Path, *more: object) -> Any:
    given = ("--engine", "openvino", "--method", "fp16", "--conversations", conversations, "--requests", N)
    sizes = ("--qps", "20,inf", "--bsz", 2, "--repeats", 2, "--output-cap", 8, "--output", output)
    return cli("measure", *given, *sizes, *more)


@pytest.mark.slow
def test_requests_are_served_simulated_and_compared(
    cli: Cli, conversations: Path, tmp_path: Path, smollm2: Path
) -> None:
    output = tmp_path / "served"
    planned = ask(cli, conversations, output, "--dry-run", "--format", "json")
    assert [(row["round"], row["load"]) for row in planned.objects] == [
        (0, "20-qps"), (0, "at-once"), (1, "20-qps"), (1, "at-once"),
    ]  # fmt: skip
    assert not output.exists()

    done = ask(cli, conversations, output, "--format", "json")
    assert done.code == 0, done.err
    assert [(row["run"], row["requests"]) for row in done.objects] == [("20-qps", N), ("at-once", N)]
    parts = read_requests(output / "requests.csv")
    assert [len(part) for part in parts.values()] == [N // 2] * 4
    assert all((part.output_tokens == 8).all() for part in parts.values())
    assert not any("river" in path.read_text() for path in output.iterdir())

    model = get_model("smollm2-135m")
    predictor = fit_predictor(
        pool_sites(made_up_runs(model.name, "openvino")),
        place=Place(model, detect_cpu()),
        engine="openvino",
        provenance="made-up times",
        assess=False,
    )
    save(predictor, tmp_path / "bundle")
    judged = cli("validate", "--served", output, "--predictor", tmp_path / "bundle", "--format", "json")
    assert judged.code == 0, judged.err
    (found,) = judged.objects
    assert [row["run"] for row in found["served"]] == ["20-qps", "at-once"]
    # Made-up times are no prediction of this host.
    assert all(row["e2e_mean_s_error"] != 0 for row in found["errors"])
    assert "simulating fp16 at 20-qps/1" in judged.err


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (("--qps", "fast"), 2, "--qps 'fast'"),
        (("--qps", "0"), 2, "--qps '0'"),
        (("--plan", "4"), 2, "leave --prompt-len, --grid and --plan out"),
        (("--budget", "soon"), 2, "--budget 'soon'"),
        (("--repeats", "9"), 2, "6 requests cannot be served in 9 parts"),
        (("--conversations", "nowhere.json"), 3, "nowhere.json"),
        (("--method", "gear"), 2, "openvino does not serve gear"),
    ],
)
def test_what_cannot_be_served_is_refused(
    cli: Cli, conversations: Path, tmp_path: Path, more: tuple[str, ...], code: int, message: str
) -> None:
    done = ask(cli, conversations, tmp_path / "served", *more, "--dry-run")
    assert done.code == code
    assert message in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "served").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--served", "nowhere"), 2, "--served needs the --predictor"),
        (("--served", "nowhere", "--predictor", "nowhere"), 3, "nowhere"),
    ],
)
def test_what_cannot_be_judged_is_refused(
    cli: Cli, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = cli("validate", *arguments)
    assert (done.code, message in done.err) == (code, True)
