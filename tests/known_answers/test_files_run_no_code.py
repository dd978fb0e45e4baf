"""Checkpoints, folders and JSON files from elsewhere run nothing, by whichever way they come in.

The files name ``evilmod``, a module of the current folder, functions of Python and ``torch.hub.load``, which runs the
folder's ``hubconf.py``. Whatever runs leaves a file behind.
"""

import ast
import contextlib
import importlib
import json
import sys

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, ModelMixin, SchedulerMixin
from first_stages import tiny_kl
from mmengine.config import Config

import slimdiff
import slimdiff.registry
from slimdiff.checkpoint import save_checkpoint
from slimdiff.cli import export, print_config, sample
from slimdiff.configuration import ConfigError, check_config, config_source, load_config
from slimdiff.export.folder import export_pipeline
from slimdiff.export.load import load_trained
from slimdiff.models.autoencoders import KLAutoencoder
from slimdiff.models.backbones import StepAwareUNet
from slimdiff.models.backbones.slimmable import SlimmableUNet
from slimdiff.models.distillation.loading import load_teacher
from slimdiff.models.serving import serving_config
from slimdiff.registry import MODELS, RESAMPLERS, RegistryError, build_checked
from slimdiff.sampling import build_scheduler
from slimdiff.sampling.actions import Run
from slimdiff.sampling.allocation import StepAllocation

UNET = dict(type='UNet', sample_size=8, norm_groups=4, stages=[dict(channels=8, blocks=1), dict(channels=8, blocks=1)])
MODEL = dict(type='DiffusionModel', unet=UNET)
REGISTRIES = {registry.name: registry for registry in vars(slimdiff.registry).values()
              if isinstance(registry, slimdiff.registry.Registry)}


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """The file that code leaves behind; at the end of the test it must not be there."""
    mark = tmp_path / 'mark'
    folder = tmp_path / 'cwd'
    folder.mkdir()
    leave = f'open({str(mark)!r}, "w").close()\n'
    text = f'{leave}def X(*args, **kwargs):\n    {leave}    return None\nentry = X\n'
    (folder / 'evilmod.py').write_text(text)
    (folder / 'hubconf.py').write_text(text)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    yield mark
    assert not mark.exists()
    assert sys.modules.pop('evilmod', None) is None


PAYLOADS = {
    'dotted': lambda mark: dict(type='evilmod.X'),
    'module': lambda mark: dict(type='evilmod'),
    'registry': lambda mark: dict(type='evilmod.registry.X'),
    'shell': lambda mark: dict(type='subprocess.run', args=f'touch {mark}', shell=True),
    'hub': lambda mark: dict(type='torch.hub.load', repo_or_dir='.', model='entry', source='local'),
    'no name': lambda mark: dict(type=['evilmod.X']),
}


def put(tree, path, value):
    """A deep copy of a config with one value replaced."""
    tree = json.loads(json.dumps(tree))
    node = tree
    *parents, last = path.split('.')
    for part in parents:
        node = node.setdefault(part, {})
    node[last] = value
    return tree


def checkpoint_of(path, model, state=None):
    save_checkpoint({'meta': {'format': 'slimdiff-checkpoint', 'format_version': 2, 'config': {'model': model}},
                     'state_dict': state or {'unet.x': torch.zeros(1)}, 'ema': {'state_dict': {}}}, path)
    return str(path)


def hostile_folder(folder, payload, key='downsampler', network=None):
    """A saved network whose config.json names something else as its resampler."""
    network = network or slimdiff.UNet(**{k: v for k, v in UNET.items() if k != 'type'})
    network.save_pretrained(folder)
    config = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps(put(config, key, payload)))
    return folder


def test_the_attacks_are_real(tmp_path, monkeypatch):
    """The oracle: mmengine's own registry runs them."""
    (tmp_path / 'evilmod_oracle.py').write_text(f'open({str(tmp_path / "mark")!r}, "w").close()\nX = 1\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    slimdiff.registry.MM_MODELS.get('evilmod_oracle.X')
    assert (tmp_path / 'mark').exists() and sys.modules.pop('evilmod_oracle')


@pytest.mark.parametrize('kind', REGISTRIES)
def test_no_registry_imports(kind, mark):
    for name in ('evilmod.X', 'evilmod', 'evilmod.registry.X', 'subprocess.Popen', 'torch.hub.load', 'builtins.eval',
                 'slimdiff.evilmod.X', 'mmengine.evilmod', '', '.', 'evilmod.', '.evilmod'):
        assert REGISTRIES[kind].get(name) is None, name
    assert not any('.' in name for name in REGISTRIES[kind].module_dict)


@pytest.mark.parametrize('place', [
    '', 'unet', 'unet.downsampler', 'unet.upsampler', 'noise_scheduler', 'sampler', 'loss_weight', 'autoencoder',
    'conditioner', 'data_preprocessor'])
def test_the_config_in_a_teacher_checkpoint(place, mark, tmp_path):
    for payload in PAYLOADS.values():
        bad = put({'m': MODEL}, f'm.{place}'.rstrip('.'), payload(mark))['m']
        with pytest.raises(RegistryError, match='There is no|has no scheduler'):
            load_teacher(checkpoint_of(tmp_path / 'teacher.pth', bad))


def test_the_config_in_what_a_slimmable_network_starts_from(mark, tmp_path):
    path = checkpoint_of(tmp_path / 'dense.pth', put(MODEL, 'unet.downsampler', dict(type='evilmod.X')))
    with pytest.raises(RegistryError, match="There is no resampler of type 'evilmod.X'"):
        MODELS.build(dict(type='SlimmableDiffusion', unet={**UNET, 'type': 'SlimmableUNet', 'widths': (0.5, 1.0)},
                          num_random=0, start_from=path))


@pytest.mark.parametrize('payload', ['dotted', 'module', 'hub', 'shell'])
@pytest.mark.parametrize('key', ['downsampler', 'upsampler'])
def test_the_config_json_of_a_network(key, payload, mark, tmp_path):
    folder = hostile_folder(tmp_path / 'folder', PAYLOADS[payload](mark), key)
    for read in (slimdiff.UNet.from_pretrained, load_teacher, lambda f: load_trained(MODELS.build(MODEL), f),
                 lambda f: slimdiff.UNet.from_config(slimdiff.UNet.load_config(f))):
        with pytest.raises(ValueError, match='There is no resampler'):
            read(str(folder))


@pytest.mark.parametrize('payload', ['dotted', 'hub'])
def test_a_pipeline(payload, mark, tmp_path):
    model = MODELS.build(MODEL)
    export_pipeline(model, tmp_path / 'all')
    assert DiffusionPipeline.from_pretrained(tmp_path / 'all').unet.config.sample_size == 8
    hostile_folder(tmp_path / 'all' / 'unet', PAYLOADS[payload](mark), network=model.unet)
    with pytest.raises(RegistryError, match='There is no resampler'):
        DiffusionPipeline.from_pretrained(tmp_path / 'all')
    config = tmp_path / 'config.py'
    config.write_text(f'model = {MODEL!r}\n')
    arguments = [str(config), str(tmp_path / 'all')]
    assert sample.main([*arguments, '--num', '1', '--out', str(tmp_path / 'images')]) == 2
    assert export.main([*arguments, str(tmp_path / 'copy')]) == 2


@pytest.mark.parametrize('payload', [
    dict(_supernet=None, _networks={'1.0': {'class': 'evilmod.X', 'config': {}}}),
    dict(_supernet=None, _networks={'1.0': {'class': ['subprocess', 'Popen'], 'config': {}}}),
    dict(_supernet=None, _networks={'1.0': {'class': 'UNet', 'config': {'downsampler': {'type': 'evilmod.X'}}}}),
    dict(_supernet=None, _networks={'1.0': {'class': 'torch.hub.load', 'config': {}}}),
    dict(_networks=None, _supernet='evilmod.X'),
    dict(_networks=None, _supernet=['torch.hub', 'load']),
    dict(_networks=None, _supernet='SlimDiffusionPipeline'),
    dict(_networks=None, _supernet='PreconditionedBackbone', network_class='evilmod.X', preconditioning={}),
])
def test_a_step_aware_folder(payload, mark, tmp_path):
    network = SlimmableUNet(**{k: v for k, v in UNET.items() if k != 'type'}, widths=(0.5, 1.0))
    StepAwareUNet.from_supernet(network, StepAllocation.from_pieces([500], [Run(1.0), Run(0.5)])).save_pretrained(
        tmp_path / 'folder')
    assert StepAwareUNet.from_pretrained(tmp_path / 'folder').allocation.widths == (0.5, 1.0)
    file = tmp_path / 'folder' / 'config.json'
    file.write_text(json.dumps(json.loads(file.read_text()) | payload))
    with pytest.raises(ValueError, match='no network class|no resampler'):
        StepAwareUNet.from_pretrained(tmp_path / 'folder')
    if payload['_networks']:
        with pytest.raises(ValueError, match='no network class|no resampler'):
            load_trained(MODELS.build(MODEL), tmp_path / 'folder')


def test_first_stages_schedulers_and_allocations(mark, tmp_path):
    tiny_kl(tmp_path / 'vae')
    file = tmp_path / 'vae' / 'config.json'
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {'_class_name': 'evilmod.X'}))
    with pytest.raises(ValueError, match="holds a 'evilmod.X'"):
        KLAutoencoder(str(tmp_path / 'vae'))
    file.write_text(json.dumps(config | {'down_block_types': ['evilmod.X', 'evilmod.X']}))
    with pytest.raises(ValueError, match='does not exist|cannot be loaded'):
        KLAutoencoder(str(tmp_path / 'vae')).encode(torch.zeros(1, 3, 16, 16))

    slimdiff.UNet(**{k: v for k, v in UNET.items() if k != 'type'}).save_pretrained(tmp_path / 'teacher' / 'unet')
    DDIMScheduler().save_pretrained(tmp_path / 'teacher' / 'scheduler')
    file = tmp_path / 'teacher' / 'scheduler' / 'scheduler_config.json'
    file.write_text(json.dumps(json.loads(file.read_text()) | {'_class_name': 'evilmod.X', 'type': 'evilmod.X'}))
    with contextlib.suppress(ValueError):  # refused or ignored: the fixture looks for what it left behind
        load_teacher(str(tmp_path / 'teacher'))

    (tmp_path / 'allocation.json').write_text(json.dumps(dict(
        version=1, num_train_timesteps=1000, segments=[dict(start=0, stop=1000, type='evilmod.X')])))
    with pytest.raises(ValueError, match="unknown key 'type'"):
        StepAllocation.load(tmp_path / 'allocation.json')


def test_serving_config_of_a_foreign_class(mark):
    for bad in ('evilmod', 'evilmod.X', 'subprocess.Popen', ['evilmod']):
        assert serving_config(put(MODEL, 'type', bad))['unet'] == json.loads(json.dumps(UNET))


# ---- the kind of class -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('change', [
    dict(unet=dict(type='IdentityAutoencoder')), dict(unet=dict(type='DiffusionModel', unet=UNET)),
    dict(autoencoder=dict(type='RandomText', channels=4)), dict(conditioner=UNET)])
def test_a_registered_class_of_another_kind(change):
    with pytest.raises(RegistryError, match='is not a '):
        MODELS.build({**MODEL, **change})


def test_kinds():
    with pytest.raises(RegistryError, match="'OrderedDict' is not a ModelMixin"):
        build_checked(dict(type=__import__('collections').OrderedDict), MODELS, kind=ModelMixin)
    with pytest.raises(RegistryError, match="'len' is not a Module"):
        build_checked(dict(type=len), RESAMPLERS, kind=torch.nn.Module)
    assert isinstance(build_scheduler(dict(type='DDIMScheduler')), SchedulerMixin)


# ---- the user's own config ------------------------------------------------------------------------------------------


def test_the_users_own_config_may_name_a_path(tmp_path, monkeypatch):
    (tmp_path / 'own_parts.py').write_text('from slimdiff.models.resamplers import AvgPoolDown\n'
                                           'class OwnDown(AvgPoolDown):\n    pass\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    down = dict(type='own_parts.OwnDown')
    with pytest.raises(RegistryError, match='your own config file'):
        RESAMPLERS.build({**down, 'channels': 8})
    (tmp_path / 'c.py').write_text(f'model = {put(MODEL, "unet.downsampler", down)!r}\n')
    monkeypatch.setattr(slimdiff.registry, '_TRUSTED', set())
    cfg = load_config(tmp_path / 'c.py')
    check_config(cfg)
    assert type(MODELS.build(cfg.model).unet.down1.downsampler).__name__ == 'OwnDown'


@pytest.mark.parametrize('suffix', ['json', 'yaml'])
def test_a_config_in_json_or_yaml_is_data(suffix, mark, tmp_path):
    path = tmp_path / f'c.{suffix}'
    for bad in (dict(custom_imports=dict(imports=['evilmod'])), dict(_base_='evilmod.py'),
                dict(default_scope='evilmod'), dict(model=dict(type='evilmod.X')),
                dict(optim_wrapper=dict(constructor='evilmod.X')), dict(optim_wrapper=dict(constructor='evilmod')),
                dict(custom_hooks=[dict(type='mmengine.EMAHook', ema_type='evilmod')])):
        path.write_text(json.dumps(bad))  # JSON is YAML
        with pytest.raises(ConfigError, match='only a config in Python'):
            load_config(path)
    if suffix == 'yaml':
        path.write_text(f'model: !!python/object/apply:os.system ["touch {mark}"]\n')
        with pytest.raises(ConfigError, match='could not determine a constructor'):
            load_config(path)
    path.write_text(json.dumps(dict(model=MODEL)))
    assert load_config(path).model.unet.norm_groups == 4


# ---- configs that are written -------------------------------------------------------------------------------------


CODE = "__import__('pathlib').Path('mark').touch()"
HOSTILE = [
    f"a': {CODE}, 'b", f"a={CODE}, b", f'a": {CODE}, "b', f'\n{CODE}\n', f"\\': {CODE}, '", 'class', '', 'a b', '{{',
    'ﬁ', f"{{{{$NONE:\\\\'+{CODE}+'\"}}}}", f"{{{{'$NONE:{CODE}'}}}}", "{{ fileBasename }}", '{{ _base_.x }}', 3,
    (1, 'x')]


@pytest.mark.parametrize('as_value', [False, True])
@pytest.mark.parametrize('text', HOSTILE)
def test_written_configs_are_literals(text, as_value, tmp_path, monkeypatch):
    """The source holds literals and calls of dict alone, and mmengine reads the same values from it."""
    monkeypatch.chdir(tmp_path)
    inner = {'a': text, 'list': [text], 'tuple': (text, )} if as_value else {text: {text: 1, 'b': (2.5, None)}}
    config = {'model': inner, 'z': [inner, True]}
    source = config_source(config)
    for node in ast.walk(ast.parse(source)):
        assert not isinstance(node, (ast.Attribute, ast.Import, ast.BinOp, ast.Subscript))
        if isinstance(node, ast.Call):
            assert node.func.id == 'dict'
    (tmp_path / 'c.py').write_text(source, encoding='utf-8')
    scope = {}
    exec(source, scope)
    assert scope['model'] == inner and scope['z'] == [inner, True]
    if as_value or isinstance(text, str):  # mmengine's own limit
        assert Config.fromfile(tmp_path / 'c.py').to_dict() == config
    assert not (tmp_path / 'mark').exists()


@pytest.mark.parametrize('key', [f'a={CODE}\nb', 'class', 'dict', 'a b', 3, 'a.b'])
def test_a_key_that_cannot_be_written(key, tmp_path, capsys):
    with pytest.raises(ConfigError, match='cannot be written to a config file'):
        config_source({key: 1})
    save_checkpoint({'meta': {'format': 'slimdiff-checkpoint', 'format_version': 2, 'config': {key: 1}},
                     'state_dict': {}}, tmp_path / 'x.pth')
    assert print_config.main([str(tmp_path / 'x.pth'), '--out', str(tmp_path / 'c.py')]) == 2
    assert not (tmp_path / 'c.py').exists()


def test_values_in_written_configs():
    scope = {}
    exec(config_source(dict(a=float('inf'), b=-float('inf'), c=1e-30, d=(1, ), e=[], f={}, g=b'x', h=-0.0,
                            größe={'größe': 1})), scope)
    assert scope['größe'] == {'größe': 1}
    assert (scope['a'], scope['b'], scope['c'], scope['d']) == (float('inf'), -float('inf'), 1e-30, (1, ))
    assert (scope['e'], scope['f'], scope['g'], str(scope['h'])) == ([], {}, b'x', '-0.0')


def test_print_config_of_a_hostile_checkpoint(mark, tmp_path, capsys):
    """A written config would be the user's own: it holds nothing that is imported."""
    out = tmp_path / 'c.py'
    key = f"a': {CODE.replace('mark', str(mark))}, 'b"
    assert print_config.main([checkpoint_of(tmp_path / 'x.pth', {**MODEL, 'extra': {key: 1}}), '--out', str(out)]) == 0
    assert Config.fromfile(out).model.extra == {key: 1}
    for bad in (put(MODEL, 'unet.type', 'evilmod.X'), put(MODEL, 'noise_scheduler.type', 'subprocess.Popen'),
                {**MODEL, '_scope_': 'evilmod'}):
        path = checkpoint_of(tmp_path / 'x.pth', bad)
        assert print_config.main([path, '--out', str(tmp_path / 'bad.py')]) == 2
        assert 'Nothing was written' in capsys.readouterr().err and not (tmp_path / 'bad.py').exists()
        assert print_config.main([path]) == 0
        assert 'Check it before you use it' in capsys.readouterr().err


def test_importing_a_module_still_registers(tmp_path, monkeypatch):
    """``custom_imports`` of a config, and an import in Python, make a name known to checkpoints and folders, too."""
    (tmp_path / 'own_registered.py').write_text(
        'from slimdiff.models.resamplers import AvgPoolDown\nfrom slimdiff.registry import RESAMPLERS\n'
        '@RESAMPLERS.register_module()\nclass OwnRegisteredDown(AvgPoolDown):\n    pass\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = hostile_folder(tmp_path / 'folder', dict(type='OwnRegisteredDown'))
    with pytest.raises(RegistryError):
        slimdiff.UNet.from_pretrained(folder)
    try:
        importlib.import_module('own_registered')
        assert type(slimdiff.UNet.from_pretrained(folder).down1.downsampler).__name__ == 'OwnRegisteredDown'
    finally:
        RESAMPLERS.module_dict.pop('OwnRegisteredDown', None)
