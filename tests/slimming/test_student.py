"""The config of a student: reading it gives what was written, and the teacher's settings are in it."""

import pytest
from mmengine.config import Config

from slimdiff.configuration import check_config
from slimdiff.slimming.student import data_config, model_config, render, source_of, student_config, widths_of
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
    assert (settings['num_classes'], settings['sigma_data'], settings['num_steps']) == (10, 0.66, 25)
    assert settings['noise_scheduler']['beta_end'] == 0.02
    assert settings['sampler'] == dict(type='DPMSolverMultistepScheduler')


@pytest.mark.parametrize('recipe, step_aware, kind', [
    ('spectral', False, 'Distiller'), ('plain', False, 'DiffusionModel'), ('pruned', True, 'SlimmableDistiller'),
    ('plain', True, 'SlimmableDiffusion')])
def test_the_file_says_what_was_meant(teacher, recipe, step_aware, kind, tmp_path):
    model = model_config(teacher, NETWORK, recipe, step_aware)
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
    assert cfg.model.get('start_from_teacher') == (True if recipe != 'plain' else None)
    if step_aware:
        assert cfg.model.unet.type == 'SlimmableUNet' and tuple(cfg.model.unet.widths) == (0.5, 1.0)


def test_widths_of_a_step_aware_student():
    """Two norm groups: halves. Four heads of a transformer: quarters."""
    assert widths_of(NETWORK) == (0.5, 1.0)
    assert widths_of(dict(type='DiT', num_attention_heads=4, attention_head_dim=8)) == (0.25, 0.5, 0.75, 1.0)
    with pytest.raises(ValueError, match='too small to run at several widths'):
        widths_of(dict(type='DiT', num_attention_heads=1, attention_head_dim=8))


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
    with pytest.raises(ValueError, match="nor a registered data set. Did you mean 'FashionMNIST'"):
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
