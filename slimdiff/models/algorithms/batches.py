"""Checks of a batch and a data set: does the model have a use for them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn

from slimdiff.models.autoencoders.fit import check_latents
from slimdiff.models.backbones.protocol import expected_context, input_shape


class CheckedBatches(BaseDataPreprocessor):
    """mmengine's preprocessor, which moves a batch to the device; before that the labels are looked at.

    Args:
        num_classes: None for an unconditional model.

    Raises:
        ValueError: labels that the model has no class for.
    """

    def __init__(self, num_classes: int | None = None) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, data: Any, training: bool = False) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get('labels'), Tensor):
            check_labels(data['labels'], self.num_classes)
        return super().forward(data, training)


def check_labels(labels: Tensor | None, num_classes: int | None, null: bool = False) -> None:
    """Raise ValueError for labels that a model has no class for, or that are missing.

    Args:
        num_classes: None for an unconditional model, which looks at no label.
        null: also allow the null class, the label ``num_classes``.
    """
    if num_classes is None:
        return
    if labels is None:
        raise ValueError(f'This model has num_classes={num_classes}, but the batch has no labels: use a dataset with '
                         'labels (class_from_folder=True of an ImageFolder), or model.num_classes=None.')
    # On a GPU the comparison would wait for the device at every iteration; CheckedBatches has looked before that.
    if labels.device.type == 'cpu':
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= num_classes + null:
            reserved = '' if high < num_classes or null else f' {num_classes} is the null class, which no image has.'
            raise ValueError(f'Labels must lie in 0..{num_classes - 1} (num_classes={num_classes}), got '
                             f'{low if low == high else f"{low}..{high}"}.{reserved}')


def check_classes(names: Sequence[str], source: str, known: Sequence[str], origin: str) -> None:
    """Raise ValueError if a label is one class in ``names``, those of ``source``, and another in ``known``.

    One may have more classes than the other.
    """
    for label, (theirs, ours) in enumerate(zip(names, known)):
        if theirs != ours:
            raise ValueError(f"Label {label} means '{theirs}' in {source}, but '{ours}' in {origin}. Give the data set "
                             'the same classes in the same order (of folders, the names as `classes`): '
                             f'{", ".join(map(str, known[:8]))}{", ..." if len(known) > 8 else ""}.')


def check_text(caption: Sequence[str] | None, context: Tensor | None) -> None:
    """Raise ValueError if there is nothing for a conditioner to read."""
    if caption is None and context is None:
        raise ValueError("This model has a conditioner, but the batch has no 'caption': use a dataset with captions, "
                         "or give 'context'.")


def check_context(context: Tensor | None, unet: nn.Module) -> None:
    """Raise ValueError unless context comes exactly where the network has cross-attention, and fits."""
    channels = expected_context(unet)
    if (context is None) != (channels is None) or (context is not None and context.shape[-1] != channels):
        given = 'none' if context is None else f'{tuple(context.shape)}'
        raise ValueError(f"context: the UNet has context_channels={channels}, the batch's context is {given}; a batch "
                         "of a network with cross-attention needs 'context' (N, S, context_channels).")


def check_images(inputs: Tensor | None, latents: Tensor | None) -> None:
    """Raise ValueError unless a batch has either images or latents."""
    if (inputs is None) == (latents is None):
        raise ValueError("A batch has either 'inputs' (images) or 'latents' (encoded ones); this one has "
                         f"{'neither' if inputs is None else 'both'}.")


def check_latent_shape(shape: Sequence[int], unet: nn.Module, autoencoder: nn.Module) -> None:
    """Raise ValueError unless latents (C, h, w) are what the network takes."""
    wanted = input_shape(unet)
    if tuple(shape) != wanted:
        raise ValueError(f'latents: the data has {" x ".join(map(str, shape))} (channels, height, width), but the '
                         f'UNet takes {" x ".join(map(str, wanted))} (model.unet.in_channels, sample_size). Encode '
                         f'the images at {wanted[1] * autoencoder.downsampling} pixels with the config\'s autoencoder, '
                         'or set the UNet to the data.')


def check_keys(batch: Mapping[str, Any], num_classes: int | None, reads_text: bool) -> None:
    """Raise ValueError unless a batch brings what a model learns from.

    Args:
        num_classes: None for an unconditional model, which needs no labels.
        reads_text: the model has a conditioner.
    """
    check_images(batch.get('inputs'), batch.get('latents'))
    check_labels(None if batch.get('labels') is None else torch.as_tensor(batch['labels']), num_classes)
    if reads_text:
        check_text(batch.get('caption'), batch.get('context'))


def check_image_shape(images: Tensor | None, wanted: Sequence[int]) -> None:
    """Raise ValueError for images (N, C, H, W) of another shape than the one (C, H, W) that a model samples."""
    if images is not None and tuple(images.shape[1:]) != tuple(wanted):
        shapes = [' x '.join(map(str, shape)) for shape in (images.shape[1:], wanted)]
        raise ValueError(f'The images are {shapes[0]} (channels, height, width), but the network takes {shapes[1]} '
                         "(unet.in_channels, unet.sample_size): change the data set's image_size, or the network.")


def check_data(metainfo: Mapping[str, Any], unet: nn.Module, autoencoder: nn.Module, decodes: bool = False) -> None:
    """Raise ValueError unless a model can be trained on a data set.

    Args:
        metainfo: the data set's; ``metainfo['latents']`` describes encoded latents.
        decodes: the run will also generate images, for which the first stage has to be there.
    """
    latents = metainfo.get('latents')
    if latents is not None:
        check_latents(autoencoder, latents)
        check_latent_shape(latents['shape'], unet, autoencoder)
    if (latents is None or decodes) and hasattr(autoencoder, 'require'):
        autoencoder.require()
