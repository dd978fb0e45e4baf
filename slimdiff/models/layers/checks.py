"""The one check that every layer needs: a channel count that splits evenly."""

from __future__ import annotations


def require_divisible(what: str, channels: int, parts: int, parts_name: str) -> None:
    """Raise ValueError unless ``channels`` splits into ``parts`` equal groups.

    The message names the nearest legal channel counts, so that a config can be mended at once.
    """
    if parts < 1:
        raise ValueError(f'{what}: {parts_name} must be at least 1, got {parts}.')
    if channels < 1:
        raise ValueError(f'{what}: channels must be at least 1, got {channels}.')
    if channels % parts:
        below, above = channels // parts * parts, (channels // parts + 1) * parts
        legal = f'{below} or {above}' if below else f'{above}'
        raise ValueError(f'{what}: {channels} channels do not divide into {parts} {parts_name}; '
                         f'use a multiple of {parts} (nearest: {legal}) or another number of {parts_name}.')
