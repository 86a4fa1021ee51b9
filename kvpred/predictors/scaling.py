"""Carry fitted step times to another model, device or tensor-parallel degree, by bytes and FLOPs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, cast

import numpy as np

from kvpred.errors import NotCoveredError
from kvpred.hardware import DeviceSpec
from kvpred.methods import BASELINE, get_method
from kvpred.models import ModelSpec
from kvpred.predictors.calibration import StageFits
from kvpred.predictors.greybox import ATTENTION, Array, StageFit, StageForm

if TYPE_CHECKING:
    from kvpred.predictors.profiled import ProfiledStep

# Start-up of one all-reduce: 10 µs on 2 and 61 µs on 4 and 8 A100 for small messages, the medians of Vidur's
# published profile of a DGX A100 (microsoft/vidur, data/profiling/network/a100_dgx/all_reduce.csv).
ALL_REDUCE_START_S = {2: 10e-6}
ALL_REDUCE_START_MANY_S = 61e-6

# Vidur's published linear-layer times of LLaMA-2-7B on A40, A100 and H100 (microsoft/vidur, mlp.csv), scaled
# from each device to each other by bytes / bandwidth + FLOPs / peak: 90 % of 1,554 log errors are below this.
# `benchmarks/transfer_error.py` computes it.
TRANSFER_LOG_ERROR = 0.14

# Speed of compressed against 16-bit caches in published measurements (25 sources for decode, 19 for prefill;
# each source weighs the same): 5th and 95th percentile. Read on 2026-11 from public issues, pull requests and
# docs of vLLM, SGLang, LMDeploy, TensorRT-LLM, llama.cpp, MLX, ExLlama and others.
FIELD_SPEEDUP = {"decode": (0.29, 1.54), "prefill": (0.72, 1.48)}


def at_level(log_error_90: float, level: float) -> float:
    """Rescale a 90 % error bound to another level as a normal distribution would."""
    quantile = NormalDist().inv_cdf
    return log_error_90 * quantile((1 + level) / 2) / quantile(0.95)


@dataclass(frozen=True, slots=True)
class Place:
    """What is served, where, on how many devices.

    Parameters
    ----------
    model : ModelSpec
    device : DeviceSpec
    tp : int
        Tensor-parallel degree.
    """

    model: ModelSpec
    device: DeviceSpec
    tp: int = 1

    @property
    def bandwidth(self) -> float:
        """Peak memory bandwidth in bytes/s; an error where the device does not state it."""
        if self.device.memory_bandwidth_bytes_s is None:
            raise NotCoveredError(
                f"the memory bandwidth of {self.device.name} is unknown: measure runs there and fit them "
                f"(`kvpred train`), or give a device file that states it"
            )
        return self.device.memory_bandwidth_bytes_s

    @property
    def peak_flops(self) -> float:
        """Peak 16-bit FLOP/s; an error where the device does not state it."""
        if self.device.peak_flops_16bit is None:
            raise NotCoveredError(
                f"the peak FLOP/s of {self.device.name} are unknown: measure runs there and fit them "
                f"(`kvpred train`), or give a device file that states them"
            )
        return self.device.peak_flops_16bit

    @property
    def kv_token_s(self) -> float:
        """Seconds to read one token's 16-bit keys and values at peak bandwidth."""
        return self.model.kv_bytes_per_token(tp=self.tp) / self.bandwidth

    @property
    def weights_s(self) -> float:
        """Seconds to read the 16-bit weights at peak bandwidth."""
        return self.model.weight_bytes(tp=self.tp) / self.bandwidth

    @property
    def token_s(self) -> float:
        """Seconds of one token's linear layers at peak FLOP/s."""
        return self.model.linear_flops_per_token(tp=self.tp) / self.peak_flops

    @property
    def pair_s(self) -> float:
        """Seconds of attention per squared prompt token at peak FLOP/s."""
        traffic = get_method(BASELINE).prefill_traffic(self.model, prompt_len=4096, tp=self.tp)
        return float(traffic.flops) / 4096**2 / self.peak_flops

    @property
    def peak_s(self) -> tuple[float, float]:
        """Seconds at peak FLOP/s of a token's linear layers, and of attention per squared prompt token.

        Zeros where the device does not state its peak: no step takes less.
        """
        if self.device.peak_flops_16bit is None:
            return 0.0, 0.0
        return self.token_s, self.pair_s

    def all_reduce_s(self) -> tuple[float, float]:
        """Return the seconds of one step's all-reduces: fixed, and per token (ring algorithm, 16 bit)."""
        if self.tp == 1:
            return 0.0, 0.0
        link = self.device.link
        if link is None:
            raise NotCoveredError(
                f"tp={self.tp} needs a link between devices, and {self.device.name} states none: give a "
                f"device file that does, or train on a profile of tp={self.tp} with measured all-reduces "
                "(network/DEVICE/all_reduce.csv under its root)"
            )
        calls = 2 * self.model.n_layers
        hops = 2 * (self.tp - 1)
        start = ALL_REDUCE_START_S.get(self.tp, ALL_REDUCE_START_MANY_S)
        token_bytes = 2 * self.model.hidden_size
        per_token = hops / self.tp * token_bytes / link.bandwidth_bytes_s
        return calls * (start + hops * link.latency_s), calls * per_token


@dataclass(frozen=True, slots=True)
class Host:
    """The part of the fixed cost that the host's launches take, in seconds, and what is left of it.

    A decode step's fixed cost is the reading of the weights, at the efficiency at which the KV cache is read,
    and the host. Prefill's is the host's alone, and so is that beside profiled operators.
    """

    efficiency: float
    weights_s: float


def split_fixed(fits: StageFits, place: Place) -> Host:
    """Split the fixed cost of fp16's decode step into reading weights and everything else.

    Vidur's profiles support reading both at one efficiency: its linear layers at one token reach 0.75 to 0.80
    of the bandwidth on A40, A100 and H100; the published A6000 runs read the KV cache at 0.83.
    """
    if fits.form.stage == "prefill" or fits.form.profile is not None:
        return Host(efficiency=1.0, weights_s=0.0)
    fit = fits.fits[BASELINE]
    per_token = max(float(fit.coef[ATTENTION]), place.kv_token_s)
    efficiency = place.kv_token_s / per_token
    return Host(efficiency, min(float(fit.coef[0]), place.weights_s / efficiency))


@dataclass(frozen=True, slots=True, eq=False)
class CarriedStep:
    """Profiled operators with the all-reduces of another place in place of their own.

    Measured all-reduces are carried as everything else is: by what the two data sheets say.

    Parameters
    ----------
    step : ProfiledStep
    here_s, there_s : array, shape (2,)
        Seconds of a step's all-reduces by the data sheets of its own place and of the other: fixed, and per
        token (`Place.all_reduce_s`).
    slower : float
        How many times longer shared operators take there, which the multiplier beside them holds.
    """

    step: ProfiledStep
    here_s: Array
    there_s: Array
    slower: float

    @property
    def cold(self) -> bool:
        """Whether operators were timed in place, each with cold caches, rather than one by one."""
        return self.step.cold

    def device_s(self, stage: str, *, bsz: Array, length: Array) -> Array:
        """Return seconds of the shared operators and of attention, shape (..., 2)."""
        device_s = self.step.device_s(stage, bsz=bsz, length=length)
        tokens = bsz * length if stage == "prefill" else bsz * np.ones_like(length)
        there_s, own_s = self.there_s[0] + self.there_s[1] * tokens, self.step.all_reduce_s(tokens)
        if self.here_s.any():
            there_s = there_s * own_s / (self.here_s[0] + self.here_s[1] * tokens)
        device_s[..., 0] += there_s / self.slower - own_s
        return device_s


def transfer(fits: StageFits, origin: Place, target: Place) -> StageFits:
    """Return the fits as they would be at another place.

    Host work scales with the layers, linear layers with FLOPs / peak, attention's prefill with its own FLOPs,
    the decode step's reads with bytes / bandwidth; tensor parallelism adds two all-reduces per layer. Those
    that were measured along are taken off first, and the target's count as much of their data sheet's time.

    Parameters
    ----------
    fits : StageFits
        Fitted at `origin`.
    origin, target : Place

    Raises
    ------
    NotCoveredError
        If a place states no bandwidth, FLOP/s or link that the scaling needs.
    """
    layers = target.model.n_layers / origin.model.n_layers
    linear = target.token_s / origin.token_s
    reads = target.weights_s / origin.weights_s
    here_s, there_s = np.array(origin.all_reduce_s()), np.array(target.all_reduce_s())
    host = split_fixed(fits, origin)
    profiled = fits.form.profile is not None
    if fits.form.stage == "prefill":
        ratios = np.array([layers, linear, target.pair_s / origin.pair_s])
    else:
        shared = reads if profiled else linear
        cached = target.kv_token_s / origin.kv_token_s
        more = cached if fits.form.crowded else reads if fits.form.batched else linear
        ratios = np.array([layers, shared, cached, more])

    def carried(form: StageForm) -> StageForm:
        if not profiled or origin.tp == target.tp == 1:
            return form
        step = cast("ProfiledStep", form.profile)
        return replace(form, profile=CarriedStep(step, here_s, there_s, slower=float(ratios[1])))

    def scaled(fit: StageFit) -> StageFit:
        ratio = ratios[: len(fit.coef)]
        weights_s = min(host.weights_s, float(fit.coef[0]))
        rest_s = fit.coef[:2] - [weights_s, 0.0]
        # Profiled steps hold their all-reduces themselves.
        own_s = np.zeros(2) if profiled else np.minimum(here_s, rest_s)
        share = np.divide(own_s, here_s, out=np.full(2, float(not profiled)), where=here_s > 0)
        coef: Array = fit.coef * ratio
        coef[:2] = (rest_s - own_s) * ratio[:2] + [weights_s * reads, 0.0] + share * there_s
        return replace(
            fit,
            form=carried(fit.form),
            coef=coef,
            covariance=fit.covariance * np.outer(ratio, ratio),
        )

    return replace(fits, form=carried(fits.form), fits={name: scaled(fit) for name, fit in fits.fits.items()})


def host_share(fits: StageFits, method: str, place: Place, *, times: Array) -> Array:
    """Return the host's share of times in seconds: what another model or device may change most."""
    fixed = float(fits.fits[method].coef[0]) - split_fixed(fits, place).weights_s
    return np.clip(max(fixed, 0.0) / times, 0.0, 1.0)
