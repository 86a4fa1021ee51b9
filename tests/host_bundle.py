"""A predictor of a tiny model on this very host, fitted to made-up times."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

from kvpred.data.runs import Run
from kvpred.data.sites import pool_sites
from kvpred.hardware.host import detect_cpu
from kvpred.models import get_model
from kvpred.predictors.bundle import save
from kvpred.predictors.predictor import Predictor, fit_predictor
from kvpred.predictors.scaling import Place
from tests.tiny import write_model

METHODS = {"fp16": 1.0, "kv-int8": 1.1}
BATCHES, PROMPTS, OUTPUT_LEN = (1, 2, 4), (16, 32, 64, 128), 4


def made_up_runs(model: str, engine: str) -> list[Run]:
    """Return runs of a made-up server that follow a law without noise."""
    found = []
    for (method, factor), bsz, prompt_len in product(METHODS.items(), BATCHES, PROMPTS):
        tokens = bsz * prompt_len
        for stage, time_s in (
            ("prefill", 0.005 + 1e-5 * tokens),
            ("decode", 0.002 + 1e-4 * bsz + 1e-6 * tokens),
        ):
            done = tokens if stage == "prefill" else bsz
            found.append(
                Run(
                    model=model, engine=engine, device="host-cpu", method=method, bsz=bsz, stage=stage,
                    prompt_len=prompt_len, output_len=OUTPUT_LEN, throughput_tok_s=done / (factor * time_s),
                )
            )  # fmt: skip
    return found


def host_predictor(config: Path, *, engine: str = "transformers") -> Predictor:
    """Return a predictor of the model in a ``config.json`` on this host's processor."""
    model = get_model(str(config))
    return fit_predictor(
        pool_sites(made_up_runs(model.name, engine)),
        place=Place(model, detect_cpu()),
        engine=engine,
        provenance="made-up times",
        assess=False,
    )


def write_host_bundle(folder: Path, *, engine: str = "transformers") -> tuple[Path, Path]:
    """Write the tiny model's ``config.json`` and a bundle of it; return the bundle and the config."""
    config = write_model(folder)
    save(host_predictor(config, engine=engine), folder / "bundle")
    return folder / "bundle", config


def write_weights(config: Path) -> Path:
    """Write random weights of the tiny model and a tokenizer beside its config; return the folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = config.parent
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**json.loads(config.read_text()))).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: code for code, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=alphabet[0]).save_pretrained(folder)
    return folder
