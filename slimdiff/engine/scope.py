"""Empty child registries of what slimdiff takes from mmengine as it is.

With ``default_scope='slimdiff'`` mmengine looks for a child of that scope in *every* registry it builds from, and
where there is none prints a warning of four lines each time. Their content is the parent's.
"""

from mmengine.registry import (
    DATA_SAMPLERS,
    FUNCTIONS,
    LOG_PROCESSORS,
    MODEL_WRAPPERS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    VISBACKENDS,
    VISUALIZERS,
    WEIGHT_INITIALIZERS,
    Registry,
)

CHILDREN = [
    Registry(parent.name, parent=parent, scope='slimdiff') for parent in (
        DATA_SAMPLERS, FUNCTIONS, LOG_PROCESSORS, MODEL_WRAPPERS, OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS,
        OPTIMIZERS, PARAM_SCHEDULERS, VISBACKENDS, VISUALIZERS, WEIGHT_INITIALIZERS)
    if 'slimdiff' not in parent.children
]
