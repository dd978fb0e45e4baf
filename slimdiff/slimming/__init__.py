"""Slim a model that exists: design a student for it, write its config, and compare the two.

Here are the recipes, for the command's ``--help``, which imports nothing else.
"""

from __future__ import annotations

from typing import Any

GATED = {'downsampler': {'type': 'WaveletGatedDown'}, 'upsampler': {'type': 'WaveletGatedUp'}}
PLAIN = {'downsampler': {'type': 'ConvDown'}, 'upsampler': {'type': 'NearestConvUp'}}

#: recipe -> resamplers of a student (those of the teacher where None), whether it is distilled, and whether it starts
#: from the teacher's channels
RECIPES: dict[str, tuple[dict[str, Any] | None, bool, bool]] = {
    'gated': (GATED, False, True), 'spectral': (GATED, True, True), 'pruned': (None, False, True),
    'plain': (PLAIN, False, False)}
