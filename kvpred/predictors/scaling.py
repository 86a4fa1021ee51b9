"""Carry fitted step times to another model, device or tensor-parallel degree, by bytes and FLOPs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from kvpred.errors import NotCoveredError
from kvpred.hardware import DeviceSpec
from kvpred.methods import BASELINE, get_method
from kvpred.models import ModelSpec
from kvpred.predictors.calibration import StageFits
from kvpred.predictors.greybox import ATTENTION, Array, StageFit

# Start-up of one all-reduce: 10 µs on 2 and 61 µs on 4 and 8 A100 for small messages, the medians of Vidur's
# published profile of a DGX A100 (microsoft/vidur, data/profiling/network/a100_dgx/all_reduce.csv).
ALL_REDUCE_START_S = {2: 10e-6}
ALL_REDUCE_START_MANY_S = 61e-6

# Vidur's published linear-layer times of LLaMA-2-7B on A40, A100 and H100 (microsoft/vidur, mlp.csv), scaled
# from each device to each other by bytes / bandwidth + FLOPs / peak: 90 % of 1,554 log errors are below this.
# `benchmarks/transfer_error.py` computes it.
TRANSFER_LOG_ERROR = 0.14


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

    def all_reduce_s(self) -> tuple[float, float]:
        """Return the seconds of one step's all-reduces: fixed, and per token (ring algorithm, 16 bit)."""
        if self.tp == 1:
            return 0.0, 0.0
        link = self.device.link
        if link is None:
            raise NotCoveredError(
                f"tp={self.tp} needs a link between devices, and {self.device.name} states none"
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


def transfer(fits: StageFits, origin: Place, target: Place) -> StageFits:
    """Return the fits as they would be at another place.

    Host work scales with the layers, linear layers with FLOPs / peak, attention's prefill with its own FLOPs,
    the decode step's reads with bytes / bandwidth; tensor parallelism adds two all-reduces per layer.

    Parameters
    ----------
    fits : StageFits
        Fitted at `origin`.
    origin, target : Place

    Raises
    ------
    NotCoveredError
        If the target states no bandwidth, FLOP/s or link that the scaling needs.
    """
    layers = target.model.n_layers / origin.model.n_layers
    linear = target.token_s / origin.token_s
    fixed_s, token_s = target.all_reduce_s()
    host = split_fixed(fits, origin)
    if fits.form.stage == "prefill":
        ratios = np.array([layers, linear, target.pair_s / origin.pair_s])
    else:
        reads = target.weights_s / origin.weights_s
        shared = linear if fits.form.profile is None else reads
        cached = target.kv_token_s / origin.kv_token_s
        more = cached if fits.form.crowded else reads if fits.form.batched else linear
        ratios = np.array([layers, shared, cached, more])

    def scaled(fit: StageFit) -> StageFit:
        ratio = ratios[: len(fit.coef)]
        coef: Array = fit.coef * ratio
        weights_s = min(host.weights_s, float(fit.coef[0]))
        launches_s = float(fit.coef[0]) - weights_s
        coef[0] = launches_s * layers + weights_s * target.weights_s / origin.weights_s + fixed_s
        coef[1] += token_s
        return replace(fit, coef=coef, covariance=fit.covariance * np.outer(ratio, ratio))

    return replace(fits, fits={name: scaled(fit) for name, fit in fits.fits.items()})


def host_share(fits: StageFits, method: str, place: Place, *, times: Array) -> Array:
    """Return the host's share of times in seconds: what another model or device may change most."""
    fixed = float(fits.fits[method].coef[0]) - split_fixed(fits, place).weights_s
    return np.clip(max(fixed, 0.0) / times, 0.0, 1.0)
