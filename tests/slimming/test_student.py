"""The config of a student: reading it gives what was written, and the teacher's settings are in it."""

import pytest
from diffusers import DDIMScheduler, UNet2DModel
from mmengine.config import Config
from PIL import Image

from slimdiff.configuration import check_config
from slimdiff.evaluation.unet_cost import network_cost
from slimdiff.models.backbones.load import build_backbone
from slimdiff.sampling.actions import Run
from slimdiff.slimming.student import (
    data_config,
    default_recipe,
    design_student,
    model_config,
    render,
    source_of,
    student_config,
    with_classes_of,
)
from slimdiff.slimming.teacher import forbids_derivatives, read_teacher

NETWORK = dict(type='UNet', sample_size=32, in_channels=1, out_channels=1, norm_groups=2, time_channels=32,
               stages=[dict(channels=8, blocks=1, up_blocks=2),
                       dict(channels=16, blocks=1, up_blocks=2, downsample=False)],
               downsampler=dict(type='ConvDown'), upsampler=dict(type='NearestConvUp'))


@pytest.fixture(scope='module')
def teacher():
    return read_teacher('ldm/fashion_mnist')


def test_settings_come_from_the_teacher(teacher):
    assert teacher.checkpoint == 'configs/ldm/fashion_mnist_weights'
    assert not teacher.latent and not teacher.text
    settings = teacher.settings
    assert default_recipe(teacher) == 'gated'
    assert (settings['num_classes'], settings['sigma_data'], settings['num_steps']) == (10, 0.66, 25)
    assert settings['noise_scheduler']['beta_end'] == 0.02
    assert settings['sampler'] == dict(type='DPMSolverMultistepScheduler')


@pytest.mark.parametrize('recipe, step_aware, kind', [
    ('spectral', False, 'Distiller'), ('gated', False, 'DiffusionModel'), ('spectral', True, 'SlimmableDistiller'),
    ('plain', True, 'SlimmableDiffusion')])
def test_the_file_says_what_was_meant(teacher, recipe, step_aware, kind, tmp_path):
    network = NETWORK | (dict(type='SlimmableUNet', widths=[0.5, 1.0]) if step_aware else {})
    model = model_config(teacher, network, recipe)
    data = data_config('PhotoPatches', teacher, tmp_path)
    config = student_config(model, data, 300, 16, 3, False)
    path = tmp_path / 'student.py'
    path.write_text(source_of(config, 'two\nlines'))
    cfg = Config.fromfile(path)
    check_config(cfg, ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'))
    assert cfg.model.type == kind and cfg.model.num_classes == 10
    for key in ('train_dataloader', 'test_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg'):
        assert cfg[key] == Config(dict(value=config[key])).value, key
    assert data['test'] == dict(type='PhotoPatches', split='val', image_size=32)
    text = path.read_text().splitlines()
    assert text[:2] == ['# two', '# lines'] and len(text) <= 42 and max(map(len, text)) <= 120
    assert cfg.model.get('start_from') == (None if recipe == 'plain' else teacher.checkpoint)
    if step_aware:
        assert cfg.model.unet.type == 'SlimmableUNet' and tuple(cfg.model.unet.widths) == (0.5, 1.0)


@pytest.mark.parametrize('part, recipe', [(0.05, 'spectral'), (0.1, 'pruned')])
def test_a_step_aware_student_of_the_shipped_teacher(teacher, part, recipe):
    """It can be built, within 3 % of its MACs."""
    network, macs, full = design_student(teacher, recipe, part, True)
    assert network['type'] == 'SlimmableUNet' and min(network['widths']) <= 0.5
    assert abs(macs / full / part - 1) <= 0.03
    slim = build_backbone(network, 10, 0.1)
    assert [network_cost(slim.dense(Run(width))).macs_with_attention < macs for width in slim.widths[:-1]] == [
        True] * (len(slim.widths) - 1)


@pytest.mark.parametrize('rows, folders, expected', [(5, 5, (5, 0.0)), (5, 4, (4, 0.1)), (5, 3, None)])
def test_classes_of_a_unet_of_diffusers(rows, folders, expected, tmp_path):
    """Its last class is the null class if the data have one class less."""
    unet = UNet2DModel(sample_size=8, block_out_channels=(8, 8), layers_per_block=1, num_class_embeds=rows,
                       down_block_types=['DownBlock2D'] * 2, up_block_types=['UpBlock2D'] * 2, norm_num_groups=2)
    unet.save_pretrained(tmp_path / 'teacher' / 'unet')
    DDIMScheduler().save_pretrained(tmp_path / 'teacher' / 'scheduler')
    (tmp_path / 'images' / 'loose').mkdir(parents=True)
    for i in range(folders):
        (tmp_path / 'images' / f'class{i}').mkdir()
        Image.new('RGB', (8, 8)).save(tmp_path / 'images' / f'class{i}' / '0.png')
    teacher = read_teacher(str(tmp_path / 'teacher'))
    data = data_config(str(tmp_path / 'images'), teacher, tmp_path)
    if expected is None:
        with pytest.raises(ValueError, match='3 classes, but the teacher has 5'):
            with_classes_of(data, teacher)
        return
    assert default_recipe(teacher) == 'gated'
    started, plain = (model_config(teacher, NETWORK, recipe) for recipe in ('gated', 'plain'))
    assert started['start_from'] == teacher.checkpoint and 'start_from' not in plain
    assert started['sigma_data'] == plain['sigma_data'] == 0.5
    settings = with_classes_of(data, teacher).settings
    assert (settings['num_classes'], settings['class_dropout']) == expected
    Image.new('RGB', (8, 8)).save(tmp_path / 'images' / 'loose.png')
    with pytest.raises(ValueError, match=r'--data: .* lie directly in data_root.* The teacher has 5 classes'):
        with_classes_of(data, teacher)


def test_data_by_what_is_there(teacher, tmp_path):
    for split in ('train', 'val'):
        (tmp_path / split).mkdir()
    found = data_config(str(tmp_path), teacher, tmp_path)
    assert found['train'] == dict(type='ImageFolder', data_root=str(tmp_path / 'train'), image_size=32,
                                  class_from_folder=True)
    assert found['test']['data_root'] == str(tmp_path / 'val')
    (tmp_path / 'images.zip').touch()
    found = data_config(str(tmp_path / 'images.zip'), teacher, tmp_path)
    assert found['train'] == found['test'] and found['train']['type'] == 'ImageZip'
    found = data_config('configs/lite_ldm/photo_patches_quick.py', teacher, tmp_path)
    assert [found[split]['split'] for split in ('train', 'test')] == ['train', 'val']
    with pytest.raises(ValueError, match="nor a data set that needs no path. Did you mean 'FashionMNIST'"):
        data_config('FashonMNIST', teacher, tmp_path)


def test_a_long_value_is_broken_where_it_fits():
    value = dict(a=[1, 2], b=dict(c='x' * 70, d='y' * 70), e='{{ f }}')
    text = render(value)
    assert max(map(len, text.splitlines())) <= 100 and '{{' not in text
    assert eval(text) == value


@pytest.mark.parametrize('name, text, found', [
    ('README.md', '---\nlicense: cc-by-nc-nd-4.0\n---', 'cc-by-nc-nd-4.0'), ('README.md', 'license: apache-2.0', None),
    ('LICENSE.txt', 'Attribution-NoDerivatives 4.0', 'LICENSE.txt'), ('LICENSE', 'MIT License', None)])
def test_licenses_that_forbid_derived_works(name, text, found, tmp_path):
    (tmp_path / name).write_text(text)
    assert forbids_derivatives(tmp_path) == found


def test_teachers_that_are_refused():
    with pytest.raises(ValueError, match='slimdiff convert'):
        read_teacher('model.ckpt')
    with pytest.raises(ValueError, match="Did you mean 'ldm/fashion_mnist'"):
        read_teacher('ldm/fashion_mnst')
