"""Every backbone, whoever wrote it, does all that slimdiff does, through the commands, preconditioned and bare.

What it cannot do is one error, before anything runs, that names what to add.
"""

import importlib
import json
import re

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from foreign_backbones import BACKBONES, CLASSES, OwnModel, PlainModule
from mmengine.config import Config

from slimdiff.arguments import plain
from slimdiff.cli import export, get_flops, sample, search, test, train
from slimdiff.configuration import check_config, load_config
from slimdiff.evaluation.cost import count_cost
from slimdiff.evaluation.unet_cost import network_cost
from slimdiff.export.load import load_trained
from slimdiff.models.backbones import build_backbone, make_step_aware
from slimdiff.models.backbones.load import load_folder
from slimdiff.models.backbones.protocol import bare, example_inputs, input_shape, runs_of
from slimdiff.registry import MODELS
from slimdiff.sampling import image_generators
from slimdiff.sampling.actions import Reuse, Run
from slimdiff.sampling.allocation import StepAllocation

RUN = dict(
    default_scope='slimdiff', runner_type='SlimRunner', randomness=dict(seed=0), log_level='WARNING',
    train_dataloader=dict(batch_size=2, num_workers=0, sampler=dict(type='ResumableSampler', shuffle=True),
                          collate_fn=dict(type='default_collate')),
    train_cfg=dict(type='IterTrainLoop', max_iters=2),
    optim_wrapper=dict(type='SlimOptimWrapper', optimizer=dict(type='AdamW', lr=1e-2)),
    default_hooks=dict(ema=dict(type='EMAHook', decay=0.5), checkpoint=dict(type='CheckpointHook', interval=2)),
    test_cfg=dict(type='EvaluationLoop', num_images=4, batch_size=4, sampling=dict(num_steps=2), num_real=4),
    test_evaluator=[dict(type='BandwiseDenoisingError', num_images=4, timestep_edges=(0, 1000))],
    search=dict(space=dict(num_segments=3, reuse=['prediction']), num_steps=4,
                evaluators=[dict(type='DivergenceEvaluator', num_images=2, batch_size=2)],
                searcher=dict(type='RandomSearch', num_candidates=4, batch_size=4)))
ALLOCATION = StepAllocation.from_pieces([300, 600], [Run(1.0), Reuse('prediction'), Run(1.0)])


@pytest.fixture(scope='module', autouse=True)
def registered():
    MODELS.import_from_location()
    for cls in (OwnModel, PlainModule):
        MODELS.register_module(module=cls)
    yield
    for cls in (OwnModel, PlainModule):
        MODELS.module_dict.pop(cls.__name__)


def config_of(name, sigma_data, **changes):
    backbone = BACKBONES[name]
    dataset = dict(type='RandomSamples', shape=[3, 8, 8], length=8, num_classes=backbone['model'].get('num_classes'),
                   captions='conditioner' in backbone['model'])
    loader = dict(RUN['train_dataloader'], dataset=dataset)
    model = dict(type='DiffusionModel', unet=backbone['unet'], sigma_data=sigma_data, num_steps=3,
                 noise_scheduler=dict(type='DDPMScheduler', beta_schedule='linear'), **backbone['model'])
    measured = dict(loader, sampler=dict(type='DefaultSampler', shuffle=False))
    return Config(dict(RUN, model={**model, **changes}, train_dataloader=loader, val_dataloader=measured,
                       test_dataloader=measured, val_cfg=RUN['test_cfg'], val_evaluator=RUN['test_evaluator']))


class Trained:
    """A backbone after two iterations: its config file, checkpoint and exported folder."""

    def __init__(self, name, sigma_data, root):
        self.name, self.backbone, self.root = name, BACKBONES[name], root
        self.config, self.run, self.folder = root / 'config.py', root / 'run', root / 'folder'
        config_of(name, sigma_data).dump(self.config)
        assert train.main([str(self.config), '--work-dir', str(self.run)]) == 0
        self.checkpoint = self.run / 'iter_2.pth'
        assert export.main([str(self.config), str(self.checkpoint), str(self.folder)]) == 0

    def model(self, source=None):
        model = MODELS.build(load_config(str(self.config)).model)
        load_trained(model, source or self.checkpoint)
        return model.eval()

    def student(self, teacher, taps, **unet):
        """A distiller of this backbone (or of ``unet``), from ``teacher``."""
        model = plain(load_config(str(self.config)).model)
        return MODELS.build({**model, 'type': 'Distiller', 'unet': unet or model['unet'],
                             'teacher': dict(checkpoint=str(teacher)), 'losses': [dict(type='SpatialLoss', tap=taps)]})


@pytest.fixture(scope='module', params=[(name, sigma) for name in BACKBONES for sigma in (None, 0.5)],
                ids=lambda p: f'{p[0]}-{"bare" if p[1] is None else "preconditioned"}')
def trained(request, tmp_path_factory):
    return Trained(*request.param, tmp_path_factory.mktemp('foreign'))


def batch_of(trained, model):
    captions = {'caption': ['a cat', 'a dog']} if model.conditioner is not None else {'labels': torch.tensor([0, 2])}
    return dict(inputs=torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), **captions)


def test_its_config_is_checked_and_two_iterations_move_it(trained):
    check_config(load_config(str(trained.config)))
    torch.manual_seed(0)
    fresh = MODELS.build(load_config(str(trained.config)).model).unet.state_dict()
    moved = trained.model(trained.checkpoint).unet.state_dict()
    assert moved.keys() == fresh.keys() and any((moved[key] != fresh[key]).any() for key in fresh)


def test_it_is_a_student_and_a_teacher_at_the_output_and_at_a_tap(trained):
    tap = trained.backbone['tap']
    model = trained.student(trained.folder, ['output', tap])
    model.seed_step(0)
    losses = model(**batch_of(trained, model))
    losses['loss'].backward()
    assert {'denoising', 'spatial_output', f'spatial_{tap.replace(".", "_")}'} < set(losses)
    grads = [p.grad for p in bare(model.unet).parameters() if p.grad is not None]
    assert any(g.abs().sum() > 0 for g in grads)
    # A teacher of its own weights teaches nothing: the oracle.
    load_trained(model, trained.folder)
    model.eval().seed_step(0)
    with torch.no_grad():
        losses = model(**batch_of(trained, model))
    assert float(losses['spatial_output']) < 1e-10 and float(losses[f'spatial_{tap.replace(".", "_")}']) < 1e-10


def test_it_teaches_our_unet(trained):
    context = dict(context_channels=6) if 'conditioner' in trained.backbone['model'] else {}
    stages = [dict(channels=8, blocks=1), dict(channels=8, blocks=1, downsample=False)]
    if context:
        stages[1] |= dict(heads=2, cross_attention=True)
    model = trained.student(trained.checkpoint, {'up1': trained.backbone['tap']}, type='UNet', sample_size=8,
                            norm_groups=4, stages=stages, **context)
    model.seed_step(0)
    assert torch.isfinite(model(**batch_of(trained, model))['loss'])


def test_its_macs_are_those_of_its_own_forward(trained, capsys):
    model = trained.model()
    inputs, network = example_inputs(model.unet), bare(model.unet)
    positional = [inputs['sample'], inputs['timestep'], *list(inputs.values())[2:]]
    own_inputs = {  # by hand; one pixel of zeros costs as much as any other
        'SD3Transformer2DModel': lambda x, t, text: dict(
            hidden_states=x, timestep=t, encoder_hidden_states=text[:, 1:], pooled_projections=text[:, 0, :4]),
        'FluxTransformer2DModel': lambda x, t, text: dict(
            hidden_states=torch.zeros(1, 16, 12), timestep=t / 1000, encoder_hidden_states=text[:, 1:],
            pooled_projections=text[:, 0, :4], img_ids=torch.zeros(16, 3), txt_ids=torch.zeros(1, 3),
            guidance=torch.ones(1)),
        'Lumina2Transformer2DModel': lambda x, t, text: dict(
            hidden_states=x, timestep=1 - t / 1000, encoder_hidden_states=text,
            encoder_attention_mask=torch.ones(1, 1, dtype=torch.bool))}
    if trained.name in own_inputs:
        expected = count_cost(network, **own_inputs[trained.name](*inputs.values()))
    elif 'Transformer2D' in trained.name:
        expected = count_cost(network, positional[0], **{k: v for k, v in inputs.items() if k != 'sample'})
    elif trained.name == 'UNet2DModel':
        expected = count_cost(network, *positional[:2], class_labels=positional[2])
    else:
        expected = count_cost(network, *positional)
    cost = network_cost(model.unet)
    assert cost.conv_linear_macs == expected.conv_linear_macs > 0
    assert {m.name for m in cost.modules} == {name for name, _ in network.named_modules()}
    assert get_flops.main([str(trained.config)]) == 0 and 'MACs' in capsys.readouterr().out


def test_a_dry_run_asks_the_network_for_its_shape(trained, capsys):
    assert ('sample_size' in trained.backbone['unet']) == (trained.name not in ('OwnModel', 'PlainModule'))
    assert train.main([str(trained.config), '--dry-run']) == 0
    assert re.search(r'network +[\d.]+ .*MACs', capsys.readouterr().out)


@pytest.mark.parametrize('scheduler', ['DDPMScheduler', 'DPMSolverMultistepScheduler', 'UniPCMultistepScheduler'])
def test_it_samples_under_several_schedulers(trained, scheduler):
    images = trained.model().sample([0, 1], num_steps=3, scheduler=dict(type=scheduler))
    assert images.shape == (2, 3, 8, 8) and torch.isfinite(images).all() and images.std() > 0


def test_the_exported_folder_gives_the_same_images(trained, capsys):
    expected = trained.model().sample(range(3), seed=5, guidance_scale=1.5)
    torch.testing.assert_close(trained.model(trained.folder).sample(range(3), seed=5, guidance_scale=1.5), expected,
                               rtol=0, atol=1e-5)
    common = ['-n', '3', '--seed', '5', '--guidance', '1.5', '--out']
    assert sample.main([str(trained.config), str(trained.folder), *common, str(trained.root / 'x.npz')]) == 0
    found = np.load(trained.root / 'x.npz')['images'].transpose(0, 3, 1, 2) / 127.5 - 1
    torch.testing.assert_close(torch.from_numpy(found).float(), expected, rtol=0, atol=1 / 127)
    pipeline = DiffusionPipeline.from_pretrained(trained.folder)
    pipeline.set_progress_bar_config(disable=True)
    conditions = {}
    if 'conditioner' in trained.backbone['model']:
        conditioner = MODELS.build(trained.backbone['model']['conditioner'])
        conditions = dict(prompt_embeds=conditioner(['a cat', 'a dog', 'a cat']),
                          negative_prompt_embeds=conditioner([''] * 3))
    else:
        conditions = dict(labels=[0, 1, 2])
    images = pipeline(**conditions, generator=image_generators(5, range(3)), guidance_scale=1.5,
                      output_type='pt').images
    torch.testing.assert_close(images * 2 - 1, expected, rtol=0, atol=1e-5)


def test_the_exported_folder_is_measured_as_the_checkpoint(trained, tmp_path):
    figures = []
    for source in (trained.checkpoint, trained.folder):
        out = tmp_path / 'figures.json'
        assert test.main([str(trained.config), str(source), '--json', str(out), '--work-dir', str(tmp_path)]) == 0
        figures.append(json.loads(out.read_text()))
    assert figures[0] and figures[0] == pytest.approx(figures[1], rel=1e-5)


def test_it_reuses_its_predictions_and_the_folder_reopens_so(trained, tmp_path):
    ALLOCATION.save(tmp_path / 'allocation.json')
    plain, aware = trained.model(), trained.model()
    make_step_aware(aware, ALLOCATION)
    expected = aware.sample(range(2), num_steps=5, seed=3)
    assert (expected - plain.sample(range(2), num_steps=5, seed=3)).abs().max() > 1e-4
    assert export.main([str(trained.config), str(trained.checkpoint), str(tmp_path / 'out'), '--allocation',
                        str(tmp_path / 'allocation.json')]) == 0
    torch.testing.assert_close(trained.model(tmp_path / 'out').sample(range(2), num_steps=5, seed=3), expected, rtol=0,
                               atol=1e-5)


def test_it_is_searched(trained, tmp_path, capsys):
    assert search.main([str(trained.config), str(trained.checkpoint), '--work-dir', str(tmp_path), '--samples', '0',
                        '--budget', '0.8']) == 0
    found = StepAllocation.load(tmp_path / 'allocation.json')
    assert set(found.runs) <= set(runs_of(trained.model().unet))
    make_step_aware(trained.model(), found).sample([0], num_steps=4)


def test_what_it_cannot_do_is_said_before_anything_runs(trained):
    model, backbone = trained.model(), trained.backbone
    features = StepAllocation.from_pieces([500], [Reuse('features'), Run(1.0)])
    if 'widths' in backbone or 'Transformer2D' in trained.name:  # blocks are features that can be reused
        make_step_aware(trained.model(), features).sample([0], num_steps=3)
    else:
        with pytest.raises(ValueError, match=rf'{trained.name} lacks with_features, shallow\. Add them, or reuse the'):
            make_step_aware(model, features)
    if 'widths' in backbone:
        assert {run.width for run in runs_of(model.unet)} == set(backbone['widths'])
    else:
        config = load_config(str(trained.config)).model
        config.type = 'SlimmableDiffusion'
        with pytest.raises(ValueError, match=rf'{trained.name} lacks widths, at, extract\. Add them'):
            MODELS.build(config)
    with pytest.raises(ValueError, match=r"no tap 'nowhere'"):
        trained.student(trained.folder, 'nowhere')


@pytest.mark.parametrize('name, needs', [
    ('Flux2Transformer2DModel', 'img_ids, txt_ids'), ('HunyuanImageTransformer2DModel', 'encoder_attention_mask'),
    ('CogView4Transformer2DModel', 'original_size, target_size, crop_coords')])
def test_networks_that_want_more_than_there_is_are_refused_by_name(name, needs):
    with pytest.raises(ValueError, match=f'{name}.forward also needs {needs}, which slimdiff does not give'):
        build_backbone(dict(type=name))


# ---- widths of a network that offers them --------------------------------------------------------------------------


@pytest.mark.parametrize('sigma_data', [None, 0.5])
def test_runs_of_a_users_network(sigma_data, tmp_path):
    """Trained by the sandwich rule, distilled at the output, cut out, allocated and reopened."""
    config = config_of('OwnModel', sigma_data, type='SlimmableDiffusion', num_random=0)
    config.search.space = dict(num_segments=2)
    config.search.evaluators = [dict(type='LossGapEvaluator', num_images=4, num_bins=2)]
    config.dump(tmp_path / 'config.py')
    arguments = [str(tmp_path / 'config.py'), str(tmp_path / 'run/iter_2.pth')]
    assert train.main([arguments[0], '--work-dir', str(tmp_path / 'run')]) == 0
    assert search.main([*arguments, '--work-dir', str(tmp_path / 'search'), '--samples', '0']) == 0
    allocation = StepAllocation.from_pieces([500], [Run(1.0), Run(0.5)])
    allocation.save(tmp_path / 'allocation.json')
    assert export.main([*arguments, str(tmp_path / 'out'), '--allocation', str(tmp_path / 'allocation.json')]) == 0
    model, reopened = (MODELS.build(config.model).eval() for _ in range(2))
    load_trained(model, arguments[1])
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([10, 900])
    with torch.no_grad(), model.unet.at(0.5):
        narrow = model.predict(x, t, torch.tensor([0, 1]))
    with torch.no_grad():
        cut = model.unet.extract(0.5)(x, t, torch.tensor([0, 1])).sample
        assert (narrow - model.predict(x, t, torch.tensor([0, 1]))).abs().max() > 1e-4
    torch.testing.assert_close(cut, narrow, rtol=1e-5, atol=1e-5)
    load_trained(reopened, tmp_path / 'out')
    make_step_aware(model, allocation)
    torch.testing.assert_close(reopened.sample([0, 1], num_steps=4), model.sample([0, 1], num_steps=4), rtol=0,
                               atol=1e-5)
    # With a teacher: at the output; a tap wants what it does not have.
    MODELS.build(config_of('OwnModel', sigma_data).model).unet.save_pretrained(tmp_path / 'teacher/unet')
    model = {**plain(config.model), 'type': 'SlimmableDistiller', 'teacher': dict(checkpoint=str(tmp_path / 'teacher')),
             'losses': [dict(type='SpatialLoss', tap='output')]}
    distiller = MODELS.build(model)
    distiller.seed_step(0)
    distiller(torch.randn(2, 3, 8, 8), torch.tensor([0, 1]))['loss'].backward()
    model['losses'][0]['tap'] = 'deep'
    with pytest.raises(ValueError, match=r"OwnModel lacks network_at, stage_channels\. Add them, or distil at"):
        MODELS.build(model)


# ---- what does not fit ---------------------------------------------------------------------------------------------


def test_a_network_that_does_not_say_its_input_or_its_classes():
    class Silent(torch.nn.Module):
        def forward(self, x, t):
            return x

    classless = dict(BACKBONES['UNet2DModel']['unet'], num_class_embeds=CLASSES)
    for network, num_classes, message in (
            (Silent(), None, 'Silent does not say what input it takes: its config needs in_channels and sample_size'),
            (Silent(), CLASSES, r'Silent\.forward takes no class: give it an argument class_labels'),
            (classless, CLASSES, r'UNet2DModel has rows for 3 labels\. Set num_class_embeds=4'),
            (dict(type='AutoencoderKL'), None, 'not a network that denoises: the second argument'),
            (dict(type='UNet2DModell'), None, "no network class 'UNet2DModell' .*Did you mean 'UNet2DModel'"),
            (dict(type='PlainModule', sizes=8), None, "PlainModule takes no argument 'sizes'")):
        with pytest.raises(ValueError, match=message):
            build_backbone(network, num_classes, class_dropout=0.1)


def test_what_export_advises_opens_the_folder(tmp_path, capsys):
    """Of a network alone: the class path that is printed is there."""
    config_of('OwnModel', None).dump(tmp_path / 'config.py')
    assert train.main([str(tmp_path / 'config.py'), '--work-dir', str(tmp_path / 'run')]) == 0
    assert export.main([str(tmp_path / 'config.py'), str(tmp_path / 'run/iter_2.pth'), str(tmp_path / 'out'),
                        '--unet-only']) == 0
    advice = re.search(r"To load it: (\w+)\.(\w+)\.from_pretrained\('(.*?)'\)", capsys.readouterr().out)
    library, name, folder = advice.groups()
    network = getattr(importlib.import_module(library), name).from_pretrained(folder)
    assert isinstance(bare(network), OwnModel)


def test_a_folder_of_another_class_is_named(tmp_path):
    own = MODELS.build(config_of('OwnModel', None).model)
    own.unet.save_pretrained(tmp_path / 'own')
    with pytest.raises(ValueError, match=r"of the class OwnModel, but the config has unet=dict\(type='PlainModule'"):
        load_trained(MODELS.build(config_of('PlainModule', None).model), tmp_path / 'own')
    MODELS.module_dict.pop('OwnModel')
    try:
        with pytest.raises(ValueError, match=r"no network class 'OwnModel'.*register it.*import its module first"):
            load_trained(MODELS.build(config_of('PlainModule', None).model), tmp_path / 'own')
    finally:
        MODELS.register_module(module=OwnModel)


class Blocks(torch.nn.Module):
    """Its own idea of ``depths``, arguments that are no attributes, and an ``in_channels`` that is not its input's."""

    def __init__(self, sample_size=8, channels=3, heads=1, depths=(2, 2), remembers=False):
        super().__init__()
        self.sample_size, self.heads, self.in_channels = sample_size, heads, 16
        self.depths = depths
        if remembers:
            self.channels, self.remembers = channels, remembers
        self.net = torch.nn.Conv2d(channels, channels, 1)

    def forward(self, x, t):
        return self.heads * self.net(x)


@pytest.fixture
def blocks(monkeypatch):
    monkeypatch.setitem(MODELS.module_dict, 'Blocks', Blocks)


def test_depths_of_its_own_are_left_to_a_network(blocks):
    network = build_backbone(dict(type='Blocks', depths=(2, 6)))
    assert network.config.depths == (2, 6) and runs_of(network) == (Run(1.0), )


def test_a_network_that_came_as_an_object_is_saved_only_with_all_its_arguments(blocks, tmp_path):
    with pytest.raises(ValueError, match=r"Blocks would come back with the defaults of channels, remembers.*"
                                         r"dict\(type='Blocks', \.\.\.\)"):
        build_backbone(Blocks(heads=4)).save_pretrained(tmp_path)
    whole = build_backbone(Blocks(heads=4, remembers=True))
    whole.save_pretrained(tmp_path)
    x = torch.ones(1, 3, 8, 8)
    torch.testing.assert_close(load_folder(tmp_path)(x, 0).sample, whole(x, 0).sample)


def test_an_argument_counts_more_than_an_attribute_of_its_name(blocks):
    class Running(Blocks):
        def __init__(self, sample_size=8, in_channels=3):
            super().__init__(sample_size, in_channels)

    assert input_shape(build_backbone(dict(type=Running, in_channels=1))) == (1, 8, 8)
    assert input_shape(build_backbone(dict(type=Running))) == (3, 8, 8)
