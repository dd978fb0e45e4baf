"""slimdiff: train, distil and sample slim diffusion models."""

from slimdiff.export import diffusers_hook
from slimdiff.version import __version__

__all__ = ['SlimDiffusionPipeline', 'SlimmableUNet', 'StepAwareUNet', 'UNet', '__version__']

diffusers_hook.register()


def __getattr__(name: str):
    # `slimdiff.UNet` is the path that exported diffusers folders record (see models/backbones/unet/unet.py);
    # importing it lazily keeps `import slimdiff` free of torch for setup and for `slimdiff --help`.
    if name == 'UNet':
        from slimdiff.models.backbones.unet.unet import UNet
        return UNet
    if name == 'SlimmableUNet':
        from slimdiff.models.backbones.slimmable.unet import SlimmableUNet
        return SlimmableUNet
    if name == 'StepAwareUNet':
        from slimdiff.models.backbones.step_aware import StepAwareUNet
        return StepAwareUNet
    if name == 'SlimDiffusionPipeline':
        from slimdiff.export.pipeline import SlimDiffusionPipeline
        return SlimDiffusionPipeline
    if name == 'ModelMixin':
        # diffusers' pipelines look here for the base class that says how to load `slimdiff.UNet`.
        from diffusers import ModelMixin
        return ModelMixin
    raise AttributeError(f"module 'slimdiff' has no attribute '{name}'")
