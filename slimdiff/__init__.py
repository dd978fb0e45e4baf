"""slimdiff: train, distil, search and sample slim diffusion models.

From Python: :func:`load` a model and call it for images, :func:`count_macs` of any network, :func:`search` a width for
each denoising step, :func:`train` what a config describes. :func:`apply` an allocation of ``slimdiff calibrate`` to a
pipeline, and :func:`remove` it.
"""

import importlib

from slimdiff.export import diffusers_hook
from slimdiff.version import __version__

__all__ = ['AdaptedBackbone', 'DiT', 'PreconditionedBackbone', 'SlimDiffusionPipeline', 'SlimmableDiT',
           'SlimmableUNet', 'StepAllocation', 'StepAwareUNet', 'UNet', '__version__', 'apply', 'count_macs', 'load',
           'remove', 'search', 'train']

#: name -> the module that has it, imported when the name is first used: `import slimdiff` stays free of torch. The
#: paths of the networks (`slimdiff.UNet`, ...) are what exported folders of diffusers record.
_HOMES = {
    **dict.fromkeys(('count_macs', 'load', 'train'), 'slimdiff.api'),
    **dict.fromkeys(('AdaptedBackbone', 'DiT', 'PreconditionedBackbone', 'SlimmableDiT', 'SlimmableUNet',
                     'StepAwareUNet', 'UNet'), 'slimdiff.models.backbones'),
    **dict.fromkeys(('apply', 'remove'), 'slimdiff.calibration.engine'),
    'SlimDiffusionPipeline': 'slimdiff.export.pipeline',
    'StepAllocation': 'slimdiff.sampling.allocation',
    # diffusers' pipelines look here for the base class that says how to load `slimdiff.UNet`.
    'ModelMixin': 'diffusers',
}

diffusers_hook.register()


def __getattr__(name: str):
    if name == 'search':  # the package, which can be called
        return importlib.import_module('slimdiff.search')
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'slimdiff' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
