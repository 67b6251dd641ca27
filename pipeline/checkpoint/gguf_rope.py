"""The scaling of rotary embeddings, which GGUF files state otherwise than config.json.

From Llama 3.1 on, a GGUF file has a factor for each frequency (`rope_freqs.weight`), by which llama.cpp
divides it. config.json has the curve from which the factors were computed: 1 for wavelengths below
original / high_freq_factor, `factor` for those above original / low_freq_factor, and 1 / s between them.
There s is linear in 1 / wavelength, and goes from 1 to 1 / factor.

Shape legend: F frequencies, half of the rotated features of a head.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from pipeline.errors import UnsupportedCheckpoint

ROPE_FREQS = "rope_freqs.weight"
TOLERANCE = 1e-5  # relative; converters compute the factors in float32
LOW, HIGH = 1.0, 4.0  # low_freq_factor and high_freq_factor of every Llama
TRIES = 64
Curve = tuple[float, int, float]  # factor, original_max_position_embeddings, high_freq_factor
Floats = NDArray[np.float64]


def llama3_scaling(factors_F: Floats, *, theta: float) -> dict[str, JsonValue]:
    """Returns the fields of config.json's `rope_parameters` that give these factors; none if all are 1.
    `theta`: the base of the frequencies. Raises UnsupportedCheckpoint if no curve gives them to float32's
    precision."""
    if np.allclose(factors_F, 1, rtol=TOLERANCE):
        return {}
    wavelengths_F = 2 * math.pi * theta ** (np.arange(len(factors_F)) / len(factors_F))
    for curve in _curves(factors_F, wavelengths_F):
        if np.allclose(_factors(wavelengths_F, curve), factors_F, rtol=TOLERANCE):
            factor, original, high = curve
            return {
                "rope_type": "llama3",
                "rope_theta": theta,
                "factor": factor,
                "low_freq_factor": LOW,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    raise UnsupportedCheckpoint(
        f"{ROPE_FREQS} divides the {len(factors_F)} rotary frequencies by {factors_F.min():g} to "
        f"{factors_F.max():g}, and no rope scaling of type llama3 does the same; convert the checkpoint that "
        f"the GGUF file was made from"
    )


def _factors(wavelengths_F: Floats, curve: Curve) -> Floats:
    factor, original, high = curve
    share_F = np.clip((original / wavelengths_F - LOW) / (high - LOW), 0, 1)
    return 1 / ((1 - share_F) / factor + share_F)


def _curves(factors_F: Floats, wavelengths_F: Floats) -> Iterator[Curve]:
    """Yields curves that may have given the factors, the usual ones first."""
    factor = float(f"{factors_F.max():.6g}")
    share_F = (1 / factors_F - 1 / factor) / (1 - 1 / factor)
    for power in range(4, 24):
        yield factor, 2**power, HIGH
    between_F = (share_F > TOLERANCE) & (share_F < 1 - TOLERANCE)
    if between_F.sum() >= 2:
        slope, start = np.polyfit(1 / wavelengths_F[between_F], share_F[between_F], 1)
        if start < 0 < slope:
            for digits in (0, 1, 2, 3, 6):
                yield factor, round(slope / -start), round(float(1 - 1 / start), digits)
        return
    # Few frequencies tell little: any curve that gives the same factors computes the same model.
    longest = float(wavelengths_F[share_F >= 1 - TOLERANCE].max(initial=1))
    shortest = float(wavelengths_F[share_F <= TOLERANCE].min(initial=8 * wavelengths_F.max()))
    for original in [*(2**power for power in range(24)), *np.linspace(longest, shortest, TRIES).tolist()]:
        if not longest < int(original) <= shortest:
            continue
        high = (1 + original / longest) / 2
        for at in np.flatnonzero(between_F):
            high = 1 + (int(original) / wavelengths_F[at] - 1) / share_F[at]
        yield factor, int(original), float(high)
