from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close
from transformers import PreTrainedModel

from kvpred.caches import CacheLayer, MethodCache, cache_for, make_layer
from kvpred.methods import get_method
from kvpred.models import get_model

SMALL = "group_size=8,residual_length=16"
SPECS = [f"kivi:bits={bits},{SMALL}" for bits in (2, 4, 8)] + [f"gear:bits=4,{SMALL}"]

Draw = Callable[..., tuple[Tensor, Tensor, Tensor]]
Models = Callable[..., PreTrainedModel]


def filled(spec: str, key: Tensor, value: Tensor, *, prompt_len: int | None = None) -> CacheLayer[Any]:
    """Take entries into a new layer: the prompt at once, the others one by one."""
    layer = make_layer(get_method(spec))
    prompt_len = key.shape[2] if prompt_len is None else prompt_len
    layer.update(key[:, :, :prompt_len], value[:, :, :prompt_len])
    for token in range(prompt_len, key.shape[2]):
        layer.append(key[:, :, token : token + 1], value[:, :, token : token + 1])
    return layer


def half_steps(groups: Tensor, bits: int, dim: int) -> Tensor:
    """Half a quantisation step of each group along `dim`, and what rounding scale and zero to fp16 adds."""
    low, high = groups.amin(dim, keepdim=True), groups.amax(dim, keepdim=True)
    return (high - low) / (2**bits - 1) / 2 * 1.1 + 2**-11 * low.abs()


@pytest.mark.parametrize("prompt_len", [300, 1])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_entries_come_back_within_half_a_step_of_their_group(
    bits: int, prompt_len: int, entries: Draw
) -> None:
    _, key, value = entries(2, 300)
    keys, values = filled(f"kivi:bits={bits}", key, value, prompt_len=prompt_len).materialise()
    per_channel = key[:, :, :256].unflatten(2, (-1, 32))
    key_error = (keys[:, :, :256].unflatten(2, (-1, 32)) - per_channel).abs()
    assert (key_error <= half_steps(per_channel, bits, dim=3)).all()
    per_token = value[:, :, :172].unflatten(3, (-1, 32))
    value_error = (values[:, :, :172].unflatten(3, (-1, 32)) - per_token).abs()
    assert (value_error <= half_steps(per_token, bits, dim=4)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("prompt_len", [300, 100])
def test_the_residual_is_exact(prompt_len: int, dtype: torch.dtype, entries: Draw) -> None:
    _, key, value = entries(2, 300, dtype=dtype)
    keys, values = filled("kivi", key, value, prompt_len=prompt_len).materialise()
    assert keys.dtype == values.dtype == dtype
    assert torch.equal(keys[:, :, 256:], key[:, :, 256:])
    assert torch.equal(values[:, :, 172:], value[:, :, 172:])


@pytest.mark.parametrize("prompt_len", [1, 15, 16, 17, 40])
def test_single_steps_leave_what_a_prompt_would(prompt_len: int, entries: Draw) -> None:
    _, key, value = entries(2, 70)
    stepwise = filled(f"kivi:{SMALL}", key, value, prompt_len=prompt_len)
    at_once = filled(f"kivi:{SMALL}", key, value)
    for kept, expected in zip(stepwise.materialise(), at_once.materialise(), strict=True):
        assert torch.equal(kept, expected)


@pytest.mark.parametrize("prompt_len", [1, 16, 37])
@pytest.mark.parametrize("spec", SPECS)
def test_at_every_length_tensors_take_exactly_the_bytes_of_the_memory_model(
    spec: str, prompt_len: int, entries: Draw
) -> None:
    model = replace(get_model("smollm2-135m"), n_layers=1)
    _, key, value = entries(2, 90, dtype=torch.bfloat16)
    layer = filled(spec, key[:, :, :prompt_len], value[:, :, :prompt_len])
    for kv_len in range(prompt_len, 90):
        assert layer.parts() == layer.method.cache_parts(model, bsz=2, kv_len=kv_len)
        layer.update(key[:, :, kv_len : kv_len + 1], value[:, :, kv_len : kv_len + 1])


@pytest.mark.parametrize("spec", ["kivi", "gear:rank=0", "kv-int8"])
def test_long_caches_come_back_as_short_ones(spec: str, entries: Draw) -> None:
    _, key, value = entries(4, 4096)
    long = filled(spec, key, value).materialise()
    for start in (0, 3072):
        here = slice(start, start + 512)
        short = filled(spec, key[:, :, here], value[:, :, here]).materialise()
        for whole, part in zip(long, short, strict=True):
            assert torch.equal(whole[:, :, start : start + 384], part[:, :, :384])


def test_keys_wait_for_the_residual_length_and_values_for_none(entries: Draw) -> None:
    _, key, value = entries(1, 33)
    layer = filled(f"kivi:{SMALL}", key[:, :, :31], value[:, :, :31])
    codes = [(len(layer.sequences["codes/keys"]), len(layer.sequences["codes/values"]))]
    for token in (31, 32):
        layer.update(key[:, :, token : token + 1], value[:, :, token : token + 1])
        codes.append((len(layer.sequences["codes/keys"]), len(layer.sequences["codes/values"])))
    assert codes == [(16, 15), (32, 16), (32, 17)]
    assert layer.period == 16


def test_attention_nears_full_attention_with_more_bits(entries: Draw) -> None:
    query, key, value = entries(2, 600)
    query = query[:, :, -1:]
    full = scaled_dot_product_attention(query, key, value, enable_gqa=True)
    errors = [
        float((filled(f"kivi:bits={bits}", key, value).attend(query, 0.125) - full).norm() / full.norm())
        for bits in (2, 4, 8)
    ]
    assert errors[0] > 4 * errors[1] > 16 * errors[2]
    assert errors[2] < 0.01


@pytest.mark.parametrize("spec", SPECS)
def test_what_padding_holds_changes_nothing(spec: str, entries: Draw) -> None:
    query, key, value = entries(2, 60)
    real = torch.arange(40) >= torch.tensor([[0], [21]])

    def outputs(filler: float) -> Tensor:
        layer = make_layer(get_method(spec))
        prompt = [torch.where(real[:, None, :, None], x[:, :, :40], filler) for x in (query, key, value)]
        layer.step(*prompt, 0.125, real)
        return layer.step(query[:, :, 40:], key[:, :, 40:], value[:, :, 40:], 0.125, None)

    assert torch.equal(outputs(0.0), outputs(1000.0))


@pytest.mark.parametrize("spec", SPECS)
def test_beams_take_codes_and_residual_along(spec: str, entries: Draw) -> None:
    _, key, value = entries(3, 60)
    beams = torch.tensor([2, 2, 0])
    layer = filled(spec, key[:, :, :43], value[:, :, :43])
    layer.reorder_cache(beams)
    for token in range(43, 60):
        layer.update(key[beams, :, token : token + 1], value[beams, :, token : token + 1])
    expected = filled(spec, key, value, prompt_len=43).materialise()
    for kept, entry in zip(layer.materialise(), expected, strict=True):
        assert_close(kept, entry[beams])


@pytest.mark.parametrize("spec", SPECS)
def test_our_attention_and_sdpa_over_the_same_cache_agree(spec: str, tiny_model: Models) -> None:
    tokens = torch.randint(1, 128, (2, 40), generator=torch.Generator().manual_seed(1))

    def logits(attention: str) -> Tensor:
        model = tiny_model()
        model.set_attn_implementation(attention)
        cache = MethodCache(spec, model.config)
        with torch.no_grad():
            return torch.cat(
                [model(p, past_key_values=cache).logits for p in tokens.split([21] + [1] * 19, 1)], 1
            )

    # Logits spread by 3; a code half way between two may fall to either side.
    assert_close(logits("kvpred"), logits("sdpa"), atol=0.05, rtol=0)


@pytest.mark.parametrize("spec", [f"kivi:bits=8,{SMALL}", f"gear:bits=8,{SMALL}"])
def test_8_bits_choose_the_plain_models_token_wherever_it_is_decided(spec: str, tiny_model: Models) -> None:
    tokens = torch.randint(1, 128, (2, 60), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(60) >= torch.tensor([[0], [7]])
    model = tiny_model()

    def logits(method: str) -> Tensor:
        cache = cache_for(model, method)
        cuts = [0, *range(30, 61)]
        with torch.no_grad():
            steps = [
                model(tokens[:, start:end], attention_mask=mask[:, :end], past_key_values=cache).logits[:, -1]
                for start, end in pairwise(cuts)
            ]
        return torch.stack(steps, dim=1)

    plain = logits("fp16")
    best, second = plain.topk(2).values.unbind(dim=2)
    decided = best - second > 0.6
    assert decided.float().mean() > 0.5
    assert torch.equal(logits(spec).argmax(dim=2)[decided], plain.argmax(dim=2)[decided])


@pytest.mark.parametrize("bits", [2, 4])
def test_entries_come_back_as_from_quanto(bits: int, entries: Draw) -> None:
    quanto = pytest.importorskip(
        "optimum.quanto", reason="needs optimum-quanto, the back end of transformers"
    )
    _, key, value = entries(2, 256)
    ours = filled(f"kivi:bits={bits},residual_length=32", key, value).materialise()
    for entry, kept, axis, tokens in zip((key, value), ours, (-1, 0), (256, 224), strict=True):
        scale, shift = quanto.MaxOptimizer()(entry, quanto.qtypes[f"qint{bits}"], axis, 32)
        codes = torch.ops.quanto.quantize_affine(entry, bits, axis, 32, scale, shift)
        theirs = quanto.tensor.ungroup(codes * scale - shift, axis, entry.shape)
        difference = (kept - theirs)[:, :, :tokens].abs()
        # Scales in fp16 instead of fp32; an entry half way between two codes may take the other one.
        assert (difference < 0.005).float().mean() > 0.99
        assert difference.max() < scale.max() * 1.01
