"""Weights of other implementations, by name and layout, as ours and diffusers'.

Here because they need our UNet (models) and a file's content (checkpoint), and no config file: the command
``slimdiff convert`` brings those together.
"""

from slimdiff.models.converters.compvis import CompVisCheckpoint, recognise
from slimdiff.models.converters.first_stage import convert_first_stage
from slimdiff.models.converters.fit import Fit, compare, empty_unet
from slimdiff.models.converters.unet import convert_unet, unet_sources

__all__ = ['CompVisCheckpoint', 'Fit', 'compare', 'convert_first_stage', 'convert_unet', 'empty_unet', 'recognise',
           'unet_sources']
