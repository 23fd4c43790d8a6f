"""The detectors that others publish, by their rules: what `k2 spikes benchmark` holds ours against.

Each takes a curve of losses and says at which steps it raises an alarm. Written anew from the published descriptions;
where a rule is meant for gradient norms as well, its half for the loss is taken. None tells a spike that passes from one
that stays: an alarm is an action (the update is skipped or clipped, the run is killed).
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Losses = NDArray[np.float64]
Alarms = NDArray[np.bool_]
Rule = Callable[[Losses], Alarms]

_ROWS = 8192  # windows at a time: a million steps times a thousand would not fit


def skip_step(loss: Losses) -> Alarms:
    """OLMo-core, `SkipStepOptimizer`: not below the mean + 6 deviations of the last 128 losses (from 64 on), spikes and NaN among them."""
    mean, deviation = _moments_before(loss, 128, least=63, ddof=1)
    with np.errstate(invalid="ignore"):
        alarms = ~(loss - mean <= 6 * deviation)  # whatever is compared with NaN is an alarm
    alarms[:63] = False
    return alarms


def spike_score(loss: Losses) -> Alarms:
    """OLMo 2 (arXiv 2501.00656): at least 7 deviations from the rolling mean of 1,000. Published as a measure, not as a trigger."""
    mean, deviation = _moments_before(loss, 1000, least=1000, ddof=0)
    with np.errstate(invalid="ignore"):
        return (np.abs(loss - mean) >= 7 * deviation) & (deviation > 0)


def kill_loss_spike(loss: Losses) -> Alarms:
    """llm-foundry, `KillLossSpike`: at least twice the mean of the last max(100, 5 % of the run) losses, five times in a row."""
    window = max(100, len(loss) // 20)
    high = np.zeros(len(loss), dtype=bool)
    if len(loss) > window:
        sums = np.concatenate(([0.0], np.cumsum(np.nan_to_num(loss, posinf=0.0, neginf=0.0))))
        high[window:] = loss[window:] >= 2 * (sums[window:-1] - sums[: -window - 1]) / window
    runs = np.zeros(len(loss), dtype=bool)
    if len(loss) >= 5:
        runs[4:] = sliding_window_view(high, 5).all(axis=1)
    return runs


def spiky_loss(loss: Losses) -> Alarms:
    """Megatron-LM, `--check-for-spiky-loss`: at least ten times the largest of the first 100 losses; what is not finite is fatal."""
    alarms = ~np.isfinite(loss)
    first = loss[:100][np.isfinite(loss[:100])]
    if len(first):
        with np.errstate(invalid="ignore"):
            alarms[100:] |= np.abs(loss[100:]) >= 10 * np.max(np.abs(first))
    return alarms


def three_ema(loss: Losses) -> Alarms:
    """School-of-AI/LLM and others: above three times the exponential mean (0.99) of the losses."""
    alarms, mean = np.zeros(len(loss), dtype=bool), np.nan
    for position, value in enumerate(loss.tolist()):
        alarms[position] = value > 3 * mean
        if np.isfinite(value):
            mean = value if np.isnan(mean) else 0.99 * mean + 0.01 * value
    return alarms


def zclip(loss: Losses) -> Alarms:
    """ZClip (bluorion-com): more than 2.5 exponential deviations (0.97) above the exponential mean, after 25 steps. A clipper of norms."""
    alarms = np.zeros(len(loss), dtype=bool)
    warm = loss[:25][np.isfinite(loss[:25])]
    mean, variance = float(np.mean(warm)), float(np.var(warm))
    for position, value in enumerate(loss.tolist()[25:], start=25):
        if not np.isfinite(value):
            continue
        deviation = variance**0.5
        z = (value - mean) / (deviation + 1e-6)
        alarms[position] = z > 2.5
        kept = mean + 2.5 * deviation * 2.5 / z if z > 2.5 else value
        mean = 0.97 * mean + 0.03 * kept
        variance = 0.97 * variance + 0.03 * (kept - mean) ** 2
    return alarms


def z_score(loss: Losses) -> Alarms:
    """llm.c, `outlier_detector.h`: more than 7 deviations (its GPT-3 scripts) above the mean of the last 128, the new loss among them."""
    alarms = np.zeros(len(loss), dtype=bool)
    for start in range(0, max(0, len(loss) - 127), _ROWS):
        windows = sliding_window_view(loss, 128)[start : start + _ROWS]
        newest = loss[start + 127 : start + 127 + len(windows)]
        with np.errstate(invalid="ignore"):
            alarms[start + 127 : start + 127 + len(windows)] = newest - windows.mean(axis=1) > 7 * windows.std(axis=1)
    return alarms


PUBLISHED: Mapping[str, Rule] = {
    "SkipStep 128 x 6": skip_step,
    "spike score 1000 x 7": spike_score,
    "KillLossSpike 2x": kill_loss_spike,
    "Megatron 10x": spiky_loss,
    "3x EMA": three_ema,
    "ZClip's rule": zclip,
    "llm.c z-score": z_score,
}


def _moments_before(loss: Losses, window: int, *, least: int, ddof: int) -> tuple[Losses, Losses]:
    """Mean and deviation of the up to `window` losses before each; NaN where there are fewer than `least`."""
    mean, deviation = np.full(len(loss), np.nan), np.full(len(loss), np.nan)
    for position in range(least, min(window, len(loss))):
        mean[position], deviation[position] = loss[:position].mean(), loss[:position].std(ddof=ddof)
    for start in range(0, max(0, len(loss) - window), _ROWS):
        windows = sliding_window_view(loss[:-1], window)[start : start + _ROWS]
        places = slice(window + start, window + start + len(windows))
        mean[places], deviation[places] = windows.mean(axis=1), windows.std(axis=1, ddof=ddof)
    return mean, deviation
