"""slimdiff: train, distil and sample slim diffusion models."""

from slimdiff.export import diffusers_hook
from slimdiff.version import __version__

__all__ = ['AdaptedBackbone', 'PreconditionedBackbone', 'SlimDiffusionPipeline', 'SlimmableUNet', 'StepAwareUNet',
           'UNet', '__version__']

diffusers_hook.register()


def __getattr__(name: str):
    # `slimdiff.UNet` is the path that exported diffusers folders record (see models/backbones/unet/unet.py);
    # importing it lazily keeps `import slimdiff` free of torch for setup and for `slimdiff --help`.
    if name in ('AdaptedBackbone', 'PreconditionedBackbone', 'SlimmableUNet', 'StepAwareUNet', 'UNet'):
        from slimdiff.models import backbones
        return getattr(backbones, name)
    if name == 'SlimDiffusionPipeline':
        from slimdiff.export.pipeline import SlimDiffusionPipeline
        return SlimDiffusionPipeline
    if name == 'ModelMixin':
        # diffusers' pipelines look here for the base class that says how to load `slimdiff.UNet`.
        from diffusers import ModelMixin
        return ModelMixin
    raise AttributeError(f"module 'slimdiff' has no attribute '{name}'")
