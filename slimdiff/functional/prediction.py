"""The three things that a denoiser may predict, and how one follows from another."""

from __future__ import annotations

from torch import Tensor

PREDICTION_TYPES = ('epsilon', 'sample', 'v_prediction')


def check_prediction_type(name: str) -> str:
    """Return ``name``; ValueError unless it is diffusers' name of eps, x0 or v."""
    if name not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type '{name}' is unknown; choose one of {', '.join(PREDICTION_TYPES)}.")
    return name


def convert_prediction(prediction: Tensor, x_t: Tensor, a: Tensor, b: Tensor, source: str, target: str) -> Tensor:
    """Turn a prediction at x_t = a x0 + b eps of type ``source`` into type ``target``.

    With v = a eps - b x0 and a^2 + b^2 = 1 (Salimans & Ho 2022).

    Args:
        prediction, x_t: (N, C, H, W).
        a, b: sqrt(alphas_cumprod) and sqrt(1 - alphas_cumprod), broadcastable. From eps, a must not be 0; from x0,
            b must not be.
        source, target: 'epsilon', 'sample' (x0) or 'v_prediction'.

    Raises:
        ValueError: another type.
    """
    check_prediction_type(source)
    check_prediction_type(target)
    if source == target:
        return prediction
    if source == 'epsilon':
        eps, x0 = prediction, (x_t - b * prediction) / a
    elif source == 'sample':
        eps, x0 = (x_t - a * prediction) / b, prediction
    else:
        eps, x0 = b * x_t + a * prediction, a * x_t - b * prediction
    if target == 'epsilon':
        return eps
    return x0 if target == 'sample' else a * eps - b * x0
