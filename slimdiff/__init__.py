"""slimdiff: train, distil and sample slim diffusion models."""

from slimdiff.version import __version__

__all__ = ['UNet', '__version__']


def __getattr__(name: str):
    # `slimdiff.UNet` is the path that exported diffusers folders record (see models/unets/unet.py);
    # importing it lazily keeps `import slimdiff` free of torch for setup and for `slimdiff --help`.
    if name == 'UNet':
        from slimdiff.models.unets.unet import UNet
        return UNet
    if name == 'ModelMixin':
        # diffusers' pipelines look here for the base class that says how to load `slimdiff.UNet`.
        from diffusers import ModelMixin
        return ModelMixin
    raise AttributeError(f"module 'slimdiff' has no attribute '{name}'")
