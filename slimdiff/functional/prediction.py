"""What a denoiser may predict, and how one prediction follows from another."""

from __future__ import annotations

from torch import Tensor

PREDICTION_TYPES = ('epsilon', 'sample', 'v_prediction', 'flow_prediction')


def check_prediction_type(name: str) -> str:
    """Return ``name``; ValueError unless it is diffusers' name of eps, x0, v or the velocity of a flow."""
    if name not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type '{name}' is unknown; choose one of {', '.join(PREDICTION_TYPES)}.")
    return name


def convert_prediction(prediction: Tensor, x_t: Tensor, a: Tensor, b: Tensor, source: str, target: str) -> Tensor:
    """Turn a prediction at x_t = a x0 + b eps of type ``source`` into type ``target``.

    With v = a eps - b x0 where a^2 + b^2 = 1 (Salimans & Ho 2022), and the flow's velocity u = eps - x0.

    Args:
        prediction, x_t: (N, C, H, W).
        a, b: alpha and sigma of the process, broadcastable. From eps, a must not be 0; from x0, b must not be.
        source, target: 'epsilon', 'sample' (x0), 'v_prediction' or 'flow_prediction'.

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
    elif source == 'flow_prediction':
        eps, x0 = (x_t + a * prediction) / (a + b), (x_t - b * prediction) / (a + b)
    else:
        eps, x0 = b * x_t + a * prediction, a * x_t - b * prediction
    if target == 'epsilon':
        return eps
    if target == 'flow_prediction':
        return eps - x0
    return x0 if target == 'sample' else a * eps - b * x0
