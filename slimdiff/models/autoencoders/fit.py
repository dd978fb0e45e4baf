"""Whether encoded latents are those of a model's first stage."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from torch import nn

from slimdiff.models.autoencoders.loading import FirstStageMissing

#: how far, relatively, a scale may be from 1/std of the latents to pass for it (it is copied with few digits)
SCALE_TOLERANCE = 0.01
COMMAND = 'slimdiff encode_latents'


def check_latents(autoencoder: nn.Module, info: Mapping[str, Any]) -> None:
    """Raise ValueError unless latents fit the first stage that a model has by its config.

    Where the checkpoint of the first stage isn't on this machine, its weights can't be compared: a warning says so.

    Args:
        info: what the data set's ``metainfo['latents']`` says of them (:mod:`slimdiff.datasets.latent_files`).
    """
    theirs, mine, where = info['autoencoder'], type(autoencoder).__name__, info.get('data_root', 'this data set')
    for method in ('scale', 'fingerprint'):
        if not hasattr(autoencoder, method):
            raise ValueError(f"model.autoencoder: {mine} has no {method}(...), which training from latents needs; see "
                             'IdentityAutoencoder.')
    if theirs['type'] != mine:
        raise ValueError(f"The latents in {where} are of a {theirs['type']} ({theirs['source']}), but "
                         f'model.autoencoder of the config is a {mine}. Give the config that autoencoder, or encode '
                         f'the images again: {COMMAND}.')
    try:
        fingerprint = autoencoder.fingerprint()
    except FirstStageMissing as error:
        if 'latents_mean' in theirs or 'latents_std' in theirs:
            raise  # only its files say by what latents are shifted and divided
        print_log(f'{error} So whether the latents in {where} are of this very first stage is not known; it was '
                  f"{theirs['source']} (fingerprint {theirs['fingerprint']}).", logger='current', level=logging.WARNING)
    else:
        if fingerprint != theirs['fingerprint']:
            raise ValueError(
                f"The latents in {where} are of another first stage than model.autoencoder of the config: "
                f"{theirs['source']} (fingerprint {theirs['fingerprint']}), and not "
                f"{getattr(autoencoder, 'checkpoint', None) or 'random weights'} ({fingerprint}). Set "
                f'model.autoencoder.checkpoint to the former, or encode the images again: {COMMAND}.')
    _check_scale(float(autoencoder.latent_scale), theirs, info['statistics'], where)


def _check_scale(scale: float, theirs: Mapping[str, Any], statistics: Mapping[str, Any], where: str) -> None:
    """The scale must be the one that the latents were encoded for, or one over their standard deviation."""
    known, implied = theirs['latent_scale'], statistics['implied_scale']
    if abs(scale - known) <= 1e-6 * known or abs(scale - implied) <= SCALE_TOLERANCE * implied:
        return
    raise ValueError(
        f'model.autoencoder.latent_scale is {scale:g}, but the latents in {where} were encoded for {known:g}; their '
        f'standard deviation, {statistics["std"]:.4g}, would imply {implied:.4g}. Set it to one of these. If '
        f'{scale:g} is right for your model, run {COMMAND} again with it: it only notes the scale, nothing is encoded '
        'again.')
