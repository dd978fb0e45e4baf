import functools
import inspect

import mmengine.optim  # noqa: F401  (fills its registries)
import pytest
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS, PARAM_SCHEDULERS, Registry
from torch import nn

import slimdiff.registry as registry
from slimdiff.arguments import accepted_arguments, check_arguments, declared_arguments, plain
from slimdiff.registry import MODELS, SCHEDULERS, RegistryError
from slimdiff.spelling import did_you_mean, nearest


class Base:

    def __init__(self, width, depth=2, mode='a'):
        self.width, self.depth, self.mode = width, depth, mode


class Follows(Base):

    def __init__(self, extra=1, **kwargs):
        super().__init__(mode='b', **kwargs)
        self.extra = extra


class Pops(Base):

    def __init__(self, **kwargs):
        self.note = kwargs.pop('note', None)
        super().__init__(**kwargs)


class Keeps(Base):

    def __init__(self, width, **kwargs):
        super().__init__(width)
        self.kwargs = kwargs


class Module(nn.Module):

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels


class Bare:
    pass


def decorated(init):

    @functools.wraps(init)
    def wrapper(self, *args, **kwargs):
        init(self, *args, **kwargs)

    return wrapper


class Decorated:

    @decorated
    def __init__(self, size):
        self.size = size


def function(batch, pad=0):
    return batch, pad


@pytest.mark.parametrize('cls, names, others', [
    (Base, {'width', 'depth', 'mode'}, False),
    (Follows, {'extra', 'width', 'depth'}, False),  # mode is given already
    (Pops, {'note', 'width', 'depth', 'mode'}, False),
    (Keeps, {'width'}, True),
    (Module, {'channels'}, False),
    (Bare, set(), False),
    (Decorated, {'size'}, False),
    (function, {'batch', 'pad'}, False),
])
def test_declared_arguments(cls, names, others):
    assert declared_arguments(cls) == (names, others)
    assert accepted_arguments(cls) == (None if others else names)


@pytest.mark.parametrize('cls', [Follows, Pops, Module, Decorated])
def test_declared_arguments_is_what_python_does(cls):
    """The oracle: a declared name is accepted by the call, another one raises TypeError."""
    required = {'width': 1, 'channels': 1, 'size': 1}
    given = {k: v for k, v in required.items() if k in accepted_arguments(cls)}
    for name in ('extra', 'width', 'depth', 'mode', 'note', 'channels', 'size', 'colour'):
        args = {**given, name: 1}
        if name in accepted_arguments(cls):
            cls(**args)
        else:
            with pytest.raises(TypeError):
                cls(**args)


def test_mmengine_and_torch_classes_with_kwargs():
    assert {'T_max', 'by_epoch', 'begin', 'end'} <= accepted_arguments(PARAM_SCHEDULERS.get('CosineAnnealingLR'))
    assert {'dtype', 'loss_scale', 'clip_grad'} <= accepted_arguments(OPTIM_WRAPPERS.get('AmpOptimWrapper'))
    # ZeroRedundancyOptimizer(params, optimizer_class, ..., **defaults) passes these to another class.
    assert accepted_arguments(OPTIMIZERS.get('ZeroRedundancyOptimizer')) is None
    assert {'lr', 'betas', 'fused'} <= accepted_arguments(OPTIMIZERS.get('AdamW'))


def test_check_arguments_names_the_nearest():
    with pytest.raises(RegistryError, match=r"Base takes no argument 'widht'\. Did you mean 'width'\? It takes: depth, "
                       'mode, width'):
        check_arguments(Base, ['depth', 'widht'])
    with pytest.raises(RegistryError, match='It takes none'):
        check_arguments(Bare, ['x'])
    check_arguments(Keeps, ['anything'])


def test_nearest():
    options = ['WaveletDown', 'WaveletUp', 'ConvDown']
    assert nearest('waveletdwn', options)[0] == 'WaveletDown'
    assert did_you_mean('ConvDwn', options) == " Did you mean 'ConvDown'?"
    assert did_you_mean('qqqqqqqqq', options) == ''


def test_build_unknown_type_and_argument():
    with pytest.raises(RegistryError, match="no scheduler of type 'DDPNScheduler'. Did you mean 'DDPMScheduler'"):
        SCHEDULERS.build(dict(type='DDPNScheduler'))
    with pytest.raises(RegistryError, match="takes no argument 'beta_strat'. Did you mean 'beta_start'"):
        SCHEDULERS.build(dict(type='DDPMScheduler', beta_strat=1))
    with pytest.raises(RegistryError, match="needs 'type', got the keys"):
        MODELS.build(dict(channels=3))


def test_build_passes_objects_and_builds():
    marker = nn.Identity()
    assert MODELS.build(marker) is marker
    assert SCHEDULERS.build(dict(type='DDPMScheduler', num_train_timesteps=7)).config.num_train_timesteps == 7


def test_plain_is_json_ready():
    from mmengine.config import ConfigDict
    value = plain(ConfigDict(a=[dict(b=1)], c=(1, dict(d=None))))
    assert value == {'a': [{'b': 1}], 'c': (1, {'d': None})}
    assert type(value['a'][0]) is dict and type(value) is dict


def test_every_registered_class_has_a_docstring_of_ours():
    for own in vars(registry).values():
        if isinstance(own, Registry) and own.scope == 'slimdiff':
            own.import_from_location()
            for name, cls in own.module_dict.items():
                if inspect.isclass(cls) and cls.__module__.startswith('slimdiff'):
                    assert cls.__doc__, f'{own.name} {name} has no docstring'
