import json

import pytest
import tiny_distiller as tiny
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel, UNet2DModel
from safetensors.torch import load_file, save_file

from slimdiff.checkpoint import CheckpointError, save_checkpoint
from slimdiff.models.distillation.loading import load_teacher


def assert_same_weights(a, b):
    assert a.state_dict().keys() == b.state_dict().keys()
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values()):
        assert torch.equal(x, y), name


def save_pth(model, path, config, ema_offset=1.0):
    """A checkpoint as the trainer writes it; the averaged weights differ by a constant."""
    state = model.state_dict()
    averages = {k: v + ema_offset for k, v in state.items() if k.startswith('unet.')}
    save_checkpoint({'meta': {'format': 'slimdiff-checkpoint', 'format_version': 2, 'config': {'model': config}},
                     'state_dict': state, 'ema': {'decay': 0.9, 'state_dict': averages}}, path)


def test_pipeline_folder(tmp_path):
    model = tiny.teacher_model('v_prediction', noise=dict(beta_schedule='squaredcos_cap_v2'))
    loaded = load_teacher(tiny.save_pipeline(model, tmp_path / 'teacher'))
    assert_same_weights(loaded.unet, model.unet)
    assert loaded.prediction_type == 'v_prediction' and str(tmp_path) in loaded.source
    torch.testing.assert_close(loaded.noise_process.alphas_cumprod, model.noise_process.alphas_cumprod)


def test_unet_folder_of_ours_knows_its_schedule_by_its_preconditioning(tmp_path):
    model = tiny.teacher_model('v_prediction')
    model.unet.save_pretrained(tmp_path / 'only')
    loaded = load_teacher(str(tmp_path / 'only'))
    assert_same_weights(loaded.unet, model.unet)
    assert loaded.prediction_type == 'v_prediction'
    torch.testing.assert_close(loaded.noise_process.alphas_cumprod, model.noise_process.alphas_cumprod)


def test_unet_folder_that_says_nothing(tmp_path):
    tiny.teacher_model(sigma_data=None).unet.save_pretrained(tmp_path / 'bare')
    loaded = load_teacher(str(tmp_path / 'bare'))
    assert loaded.noise_process is None and loaded.prediction_type is None
    told = load_teacher(str(tmp_path / 'bare'), scheduler=dict(beta_schedule='linear', prediction_type='sample'))
    assert told.prediction_type == 'sample' and len(told.noise_process.alphas_cumprod) == 1000


@pytest.mark.parametrize('weights, offset', [('ema', 1.0), ('online', 0.0)])
def test_checkpoint(tmp_path, weights, offset):
    model = tiny.teacher_model()
    config = dict(type='DiffusionModel', unet=tiny.unet(16), noise_scheduler=tiny.NOISE)
    save_pth(model, tmp_path / 'iter_1.pth', config)
    loaded = load_teacher(str(tmp_path / 'iter_1.pth'), weights)
    torch.testing.assert_close(loaded.unet.stem.weight, model.unet.stem.weight + offset)
    torch.testing.assert_close(loaded.noise_process.alphas_cumprod, model.noise_process.alphas_cumprod)
    assert loaded.prediction_type == 'epsilon'


def test_checkpoint_of_a_distilled_model_needs_not_its_teacher(tmp_path):
    """A chain of distillations: the projections are dropped, and the first teacher may be gone."""
    first = tiny.save_pipeline(tiny.teacher_model(), tmp_path / 'first')
    student = tiny.distiller(first)
    assert student.projections
    save_pth(student, tmp_path / 'iter_1.pth', tiny.distiller_config(tmp_path / 'gone'), ema_offset=0.)
    assert_same_weights(load_teacher(str(tmp_path / 'iter_1.pth')).unet, student.unet)


def test_networks_of_diffusers(tmp_path):
    plain = UNet2DModel(sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
                        down_block_types=('DownBlock2D', ) * 2, up_block_types=('UpBlock2D', ) * 2)
    plain.save_pretrained(tmp_path / 'plain')
    assert_same_weights(load_teacher(str(tmp_path / 'plain')).unet, plain)
    crossed = UNet2DConditionModel(sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
                                   cross_attention_dim=6, attention_head_dim=4,
                                   down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'),
                                   up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'))
    crossed.save_pretrained(tmp_path / 'pipe/unet')
    DDIMScheduler(beta_schedule='scaled_linear').save_pretrained(tmp_path / 'pipe/scheduler')
    loaded = load_teacher(str(tmp_path / 'pipe'))
    assert_same_weights(loaded.unet, crossed)
    expected = DDIMScheduler(beta_schedule='scaled_linear').alphas_cumprod
    torch.testing.assert_close(loaded.noise_process.alphas_cumprod.float(), expected)


# ---- what cannot be loaded ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    return tmp_path, tiny.save_pipeline(tiny.teacher_model(), tmp_path / 'teacher')


def rewrite(path, change):
    file = path / 'teacher/unet/diffusion_pytorch_model.safetensors'
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={'format': 'pt'})


def test_missing_and_left_over_weights(folder):
    path, name = folder
    rewrite(path, lambda w: (w.pop('network.stem.weight'), w.update(extra=torch.zeros(1))))
    with pytest.raises(ValueError, match=r'do not fit its config: it lacks network\.stem\.weight; .* besides extra'):
        load_teacher(name)


def test_other_shapes(folder):
    path, name = folder
    rewrite(path, lambda w: w.update({'network.stem.weight': torch.zeros(4, 3, 3, 3)}))
    with pytest.raises(ValueError, match=r'network\.stem\.weight \(4, 3, 3, 3\) instead of \(16, 3, 3, 3\)'):
        load_teacher(name)


def test_a_damaged_file(folder):
    path, name = folder
    file = path / 'teacher/unet/diffusion_pytorch_model.safetensors'
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match='cannot be loaded'):
        load_teacher(name)


def test_no_weights(folder):
    path, name = folder
    (path / 'teacher/unet/diffusion_pytorch_model.safetensors').unlink()
    with pytest.raises(ValueError, match='cannot be loaded'):
        load_teacher(name)


def test_another_kind_of_model(folder):
    path, name = folder
    (path / 'teacher/unet/config.json').write_text(json.dumps({'_class_name': 'AutoencoderKL'}))
    with pytest.raises(ValueError, match="AutoencoderKL is not a network that denoises: .* no timestep"):
        load_teacher(name)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ValueError, match=r'or transformer/config\.json \(a pipeline\) nor config\.json'):
        load_teacher(str(tmp_path))


def test_an_unknown_prediction_type(folder):
    with pytest.raises(ValueError, match="prediction_type 'flow' is unknown"):
        load_teacher(folder[1], scheduler=dict(prediction_type='flow'))


@pytest.mark.parametrize('name', ['no/such/folder', 'teacher.pth', 'runs/teacher.pth', './here', '/nowhere/at/all'])
def test_paths_that_do_not_exist(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"The teacher's checkpoint '.*' does not exist\. Give a \.pth"):
        load_teacher(name)


def test_an_unknown_name_on_the_hub_without_network(monkeypatch):
    import huggingface_hub.constants
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(ValueError, match=r"neither a folder here.*'nobody/nothing' could not be downloaded from the "
                       r'Hugging Face Hub \(\w+\).*give the folder'):
        load_teacher('nobody/nothing')


def test_a_pth_with_missing_weights(tmp_path):
    model = tiny.teacher_model()
    config = dict(type='DiffusionModel', unet=tiny.unet(16), noise_scheduler=tiny.NOISE)
    save_pth(model, tmp_path / 'iter_1.pth', config)
    data = torch.load(tmp_path / 'iter_1.pth', weights_only=True)
    for state in (data['state_dict'], data['ema']['state_dict']):
        del state['unet.network.stem.weight']
    torch.save(data, tmp_path / 'iter_1.pth')
    with pytest.raises(CheckpointError, match=r'79 of 80 weights fit; missing: 1 \(unet\.network\.stem\.weight\)'):
        load_teacher(str(tmp_path / 'iter_1.pth'))
    (tmp_path / 'iter_2.pth').write_bytes(b'PK not a checkpoint')
    with pytest.raises(CheckpointError, match='damaged'):
        load_teacher(str(tmp_path / 'iter_2.pth'))


def test_a_misspelt_key_of_the_scheduler_is_named(tmp_path):
    folder = tiny.save_pipeline(tiny.teacher_model(), tmp_path)
    with pytest.raises(ValueError, match="DDPMScheduler takes no argument 'predction_type'.*'prediction_type'"):
        load_teacher(folder, scheduler=dict(predction_type='sample'))
