"""`slimdiff convert`, from a Lightning file to a teacher and to pictures."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMPipeline, DDPMScheduler, UNet2DModel, VQModel

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tests/models/converters'))

import compvis_files as files  # noqa: E402

import slimdiff  # noqa: E402
from slimdiff.checkpoint import save_checkpoint  # noqa: E402
from slimdiff.cli.convert import main  # noqa: E402
from slimdiff.models.distillation import Teacher  # noqa: E402


def write_config(folder, name, **unet):
    model = files.model_config(name, files.TINY[name])
    model['unet'] |= dict(sample_size=16) | unet
    path = folder / f'{name}.py'
    path.write_text(f'model = {model!r}\n')
    return path


def run(*words, status=0):
    assert main([str(word) for word in words]) == status


@torch.no_grad()
@pytest.mark.parametrize('name, zipped', [('ffhq', True), ('lsun_church', False), ('imagenet', True),
                                          ('txt2img', False)])
def test_from_file_to_teacher(name, zipped, tmp_path, capsys):
    more = {'scale_factor': torch.tensor(0.25)} if name == 'lsun_church' else {}
    _, averaged, stage = files.small_checkpoint(name, tmp_path / 'model.ckpt', zipped=zipped, **more)
    config, out = write_config(tmp_path, name), tmp_path / 'teacher'
    run(tmp_path / 'model.ckpt', '--config', config, '--out', out)
    said = capsys.readouterr().out
    assert 'pytorch_lightning_of_the_tests.ModelCheckpoint' in said and 'weights: ema' in said
    kind = 'vae' if name in ('lsun_church', 'txt2img') else 'vqvae'
    assert sorted(p.name for p in out.iterdir()) == ['conversion.json', 'scheduler', 'unet', kind]

    teacher = Teacher(str(out))
    x, t = torch.randn(2, teacher.config.in_channels, 16, 16), torch.tensor([5, 700])
    labels, context = None, None
    if name == 'imagenet':
        labels = torch.tensor([1, files.CLASSES])
        expected = averaged(x, t, files.condition(name)['embedding.weight'][labels][:, None])
    else:
        context = torch.randn(2, 3, 24) if name == 'txt2img' else None
        expected = averaged(x, t, context)
    torch.testing.assert_close(teacher(x, t, labels, context)[0], expected, rtol=1e-5, atol=1e-5)
    start, end = files.SCHEDULES[name]
    schedule = DDPMScheduler(beta_schedule='scaled_linear', beta_start=start, beta_end=end)
    torch.testing.assert_close(teacher.noise_process.alphas_cumprod.float(), schedule.alphas_cumprod)
    assert teacher.prediction_type == 'epsilon'

    network = (VQModel if kind == 'vqvae' else AutoencoderKL).from_pretrained(out / kind)
    z = torch.randn(1, network.config.latent_channels, 4, 4)
    image = stage.decode(z)
    assert (network.decode(z).sample - image).abs().max() < 1e-5 * max(1, image.std())
    scale = {'lsun_church': 0.25, 'txt2img': 0.18215}.get(name, 1.0)
    assert network.config.scaling_factor == scale
    record = json.loads((out / 'conversion.json').read_text())
    assert record['weights'] == 'ema' and record['latent_scale'] == scale and record['source'] == 'model.ckpt'


def test_sample_reads_it(tmp_path):
    """Pictures of the folder are those of the network in the file."""
    from slimdiff.cli.sample import main as sample
    trained, _, stage = files.small_checkpoint('ffhq', tmp_path / 'model.ckpt', average=False)
    config, out = write_config(tmp_path, 'ffhq'), tmp_path / 'teacher'
    config.write_text(config.read_text() + "model.update(autoencoder=dict(type='VQAutoencoder'))\n")
    run(tmp_path / 'model.ckpt', '--config', config, '--out', out, '--first-stage', 'none')
    assert sorted(p.name for p in out.iterdir()) == ['conversion.json', 'scheduler', 'unet']
    run(tmp_path / 'model.ckpt', '--config', config, '--out', out)
    assert sample([str(w) for w in (config, out, '--out', tmp_path / 'a.npz', '-n', 2, '--steps', 3, '--cfg-options',
                                    f'model.autoencoder.checkpoint={out}')]) == 0
    from slimdiff.sampling import build_scheduler, denoise, image_generators, initial_noise
    from slimdiff.sampling.images import to_uint8
    model = files.model_config('ffhq', files.TINY['ffhq'])
    sampler = build_scheduler(model['sampler'], base=build_scheduler(model['noise_scheduler']))
    generators = image_generators(0, [0, 1])
    with torch.no_grad():
        images = stage.decode(denoise(lambda x, t: trained(x, t.expand(len(x))), sampler,
                                      initial_noise((3, 16, 16), generators, torch.device('cpu')), 3, generators))
    expected = to_uint8(images.clamp(-1, 1)).permute(0, 2, 3, 1).numpy()
    ours = np.load(tmp_path / 'a.npz')['images']
    assert expected.std() > 20 and np.abs(ours.astype(int) - expected).max() <= 1
    # And from Python, with the first stage in the folder.
    pipeline = slimdiff.load(out, device='cpu')
    images = pipeline(num_images=2, num_inference_steps=3, seed=0, output_type='np').images
    assert np.abs(255 * images - expected).max() <= 1


def test_weights_are_chosen(tmp_path, capsys):
    trained, averaged, _ = files.small_checkpoint('ffhq', tmp_path / 'model.ckpt', first_stage=False)
    config, out = write_config(tmp_path, 'ffhq'), tmp_path / 'teacher'
    for words, network in (((), averaged), (('--weights', 'ema'), averaged), (('--weights', 'model'), trained)):
        run(tmp_path / 'model.ckpt', '--config', config, '--out', out, *words)
        unet = slimdiff.UNet.from_pretrained(out / 'unet')
        assert torch.equal(unet.stem.weight, network.input_blocks[0][0].weight)
    assert 'no first stage in the file' in capsys.readouterr().out
    files.small_checkpoint('ffhq', tmp_path / 'model.ckpt', average=False)
    run(tmp_path / 'model.ckpt', '--config', config, '--out', out, '--weights', 'ema', status=2)
    assert 'ask for --weights model' in capsys.readouterr().err
    assert torch.equal(slimdiff.UNet.from_pretrained(out / 'unet').stem.weight, trained.input_blocks[0][0].weight)


@torch.no_grad()
def test_a_first_stage_alone(tmp_path, capsys):
    stage = files.small_first_stage('vq')
    path = files.save_lightning(tmp_path / 'vq.ckpt', dict(stage.state_dict()) | {'loss.x': torch.zeros(1)})
    run(path, '--config', write_config(tmp_path, 'ffhq'), '--out', tmp_path / 'a', status=2)
    assert 'holds a first stage alone, no UNet: convert it with --first-stage only' in capsys.readouterr().err
    run(path, '--out', tmp_path / 'vq', '--first-stage', 'only')
    assert 'training loss' not in capsys.readouterr().err
    from slimdiff.models.autoencoders import VQAutoencoder
    ours, x = VQAutoencoder(checkpoint=str(tmp_path / 'vq'), latent_scale=None), torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(ours.encode(x), stage.encode(x), rtol=1e-5, atol=1e-5)
    # The same out of a whole model's file; and over an earlier conversion.
    files.small_checkpoint('ffhq', tmp_path / 'model.ckpt')
    run(tmp_path / 'model.ckpt', '--out', tmp_path / 'vq', '--first-stage', 'only')
    assert sorted(p.name for p in (tmp_path / 'vq').iterdir()) == [
        'config.json', 'conversion.json', 'diffusion_pytorch_model.safetensors']


def test_safetensors_with_the_same_names(tmp_path):
    from safetensors.torch import save_file
    network = files.build_reference('ffhq', spec=files.TINY['ffhq'])
    save_file({f'model.diffusion_model.{k}': v.half().contiguous() for k, v in network.state_dict().items()},
              tmp_path / 'x.safetensors')
    run(tmp_path / 'x.safetensors', '--config', write_config(tmp_path, 'ffhq'), '--out', tmp_path / 'out')
    unet = slimdiff.UNet.from_pretrained(tmp_path / 'out/unet')
    assert torch.equal(unet.stem.weight, network.input_blocks[0][0].weight.half().float())


def test_the_tool_is_the_command(run_tool):
    assert '--first-stage' in run_tool('model_converters/compvis_to_slimdiff.py', '--help').stdout


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Shrunk teachers in place of those that slimdiff ships."""
    from slimdiff.cli import convert
    from slimdiff.configuration import load
    paths = {f'configs/ldm/{name}.py': write_config(tmp_path, name) for name in files.NAMES}
    real = load.load_config
    monkeypatch.setattr(load, 'known_configs', lambda: [*paths, 'configs/sd/photo_patches_16px.py'])
    monkeypatch.setattr('slimdiff.configuration.load_config', lambda name, *args: real(paths.get(name, name), *args))
    return convert


def test_a_checkpoint_of_another_model(shipped, tmp_path, capsys):
    """It says which shipped config fits."""
    path, out = tmp_path / 'model.ckpt', tmp_path / 'out'
    files.small_checkpoint('imagenet', path, first_stage=False)
    run(path, '--config', tmp_path / 'ffhq.py', '--out', out, status=2)
    said = capsys.readouterr().err
    assert said.startswith('slimdiff convert: error: model.ckpt fits configs/ldm/imagenet.py. ')
    assert 'is not a checkpoint of' in said and '; unexpected: ' in said and len(said) < 600
    files.small_checkpoint('lsun_bedroom', path, first_stage=False)
    run(path, '--config', tmp_path / 'lsun_church.py', '--out', out, status=2)
    assert 'model.ckpt fits configs/ldm/celebahq.py or configs/ldm/ffhq.py or configs/ldm/lsun_bedroom.py.' in \
        capsys.readouterr().err
    run(path, '--out', out, status=2)
    said = capsys.readouterr().err
    assert '--config is needed' in said and 'model.ckpt fits configs/ldm/celebahq.py or' in said
    assert not out.exists()


def test_stable_diffusion_is_txt2img_with_another_context(shipped, tmp_path, capsys):
    network = files.build_reference('txt2img', spec={**files.TINY['txt2img'], 'context': 16})
    path = files.save_lightning(tmp_path / 'sd.ckpt',
                                {f'model.diffusion_model.{k}': v for k, v in network.state_dict().items()})
    words = (path, '--config', tmp_path / 'txt2img.py', '--out', tmp_path / 'out')
    run(*words, status=2)
    said = capsys.readouterr().err
    assert 'sd.ckpt fits configs/ldm/txt2img.py best, by 9' in said
    assert '--cfg-options model.unet.context_channels=16.' in said
    run(*words, '--cfg-options', 'model.unet.context_channels=16')
    assert slimdiff.UNet.from_pretrained(tmp_path / 'out/unet').config.context_channels == 16


@torch.no_grad()
def test_stable_diffusion_2(shipped, tmp_path, capsys):
    """Told by its linear projections; the error names all that its own layout needs, and the result computes alike."""
    spec = {**files.TINY['txt2img'], 'base': 64, 'heads': None, 'head_width': 64, 'context': 16, 'linear': True}
    network = files.build_reference('txt2img', spec=spec)
    path = files.save_lightning(tmp_path / 'sd2.ckpt',
                                {f'model.diffusion_model.{k}': v for k, v in network.state_dict().items()})
    config = tmp_path / 'txt2img.py'  # of the right channels, with the heads of Stable Diffusion 1
    config.write_text(f"model = {files.model_config('txt2img', {**spec, 'heads': 8, 'context': 24})!r}\n")
    words = (path, '--config', config, '--out', tmp_path / 'out')
    heads = ['model.unet.stages.1.heads=2', 'model.unet.mid_heads=2']
    run(*words, status=2)
    assert 'It is of Stable Diffusion 2: also --prediction-type v_prediction' in capsys.readouterr().err
    options = ['--cfg-options', 'model.unet.context_channels=16']
    run(*words, *options, status=2)
    assert f'whose heads have 64 channels: --cfg-options {" ".join(heads)}.' in capsys.readouterr().err
    run(*words, *options, *heads, status=2)
    assert 'does not tell what it predicts: --prediction-type' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
    run(*words, *options, *heads, '--prediction-type', 'v_prediction')
    assert 'model.noise_scheduler.prediction_type=v_prediction' in capsys.readouterr().out
    teacher = Teacher(str(tmp_path / 'out'))
    assert teacher.prediction_type == 'v_prediction'
    x, t, context = torch.randn(2, 4, 16, 16), torch.tensor([5, 700]), torch.randn(2, 3, 16)
    expected = network(x, t, context)
    torch.testing.assert_close(teacher(x, t, None, context)[0], expected, rtol=1e-5, atol=1e-5)
    for module in teacher.unet.modules():  # the oracle: 8 heads, as before, give something else
        if hasattr(module, 'heads'):
            module.heads = 8
    assert (teacher(x, t, None, context)[0] - expected).norm() / expected.norm() > 1e-3


def test_something_that_fits_nothing(shipped, tmp_path, capsys):
    path = files.save_lightning(tmp_path / 'x.ckpt', {'model.diffusion_model.a.weight': torch.zeros(3)})
    run(path, '--config', tmp_path / 'ffhq.py', '--out', tmp_path / 'out', status=2)
    assert 'x.ckpt fits none of the shipped teachers' in capsys.readouterr().err


def test_another_noise_schedule(tmp_path, capsys):
    files.small_checkpoint('ffhq', tmp_path / 'model.ckpt', first_stage=False)
    config = write_config(tmp_path, 'ffhq')
    run(tmp_path / 'model.ckpt', '--config', config, '--out', tmp_path / 'out', '--cfg-options',
        'model.noise_scheduler.beta_end=0.012', status=2)
    assert 'another noise schedule' in (said := capsys.readouterr().err) and 'from 0.0015 to 0.0195' in said
    assert not (tmp_path / 'out').exists()


def test_other_things(tmp_path, capsys):
    config, out = write_config(tmp_path, 'ffhq'), tmp_path / 'out'

    def refused(path):
        run(path, '--config', config, '--out', out, status=2)
        said = capsys.readouterr().err
        assert 'Traceback' not in said and not out.exists()
        return said

    unet = UNet2DModel(sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
                       down_block_types=('DownBlock2D', ) * 2, up_block_types=('UpBlock2D', ) * 2)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / 'pipe')
    for folder in (tmp_path / 'pipe', tmp_path / 'pipe/unet'):
        assert 'is a folder of diffusers: no conversion is needed' in refused(folder)
    weights = tmp_path / 'pipe/unet/diffusion_pytorch_model.safetensors'
    assert "weights with diffusers' names: no conversion is needed" in refused(weights)
    (tmp_path / 'downloads').mkdir()
    (tmp_path / 'downloads/model.ckpt').touch()
    assert 'It holds model.ckpt: give one of them' in refused(tmp_path / 'downloads')
    assert 'is empty' in refused(tmp_path / 'downloads/model.ckpt')
    assert 'no such checkpoint' in refused(tmp_path / 'none.ckpt')
    save_checkpoint({'meta': {'format': 'slimdiff-checkpoint', 'format_version': 2}, 'state_dict': {}},
                    tmp_path / 'ours.pth')
    assert 'a checkpoint of slimdiff itself: no conversion is needed' in refused(tmp_path / 'ours.pth')
    torch.save({'fc.weight': torch.zeros(2), 'fc.bias': torch.zeros(2)}, tmp_path / 'resnet.pth')
    assert 'is no checkpoint of latent-diffusion' in (said := refused(tmp_path / 'resnet.pth')) and 'fc.* (2)' in said
    torch.save({'input_blocks.0.0.weight': torch.zeros(2)}, tmp_path / 'adm.pt')
    assert "OpenAI's guided-diffusion" in refused(tmp_path / 'adm.pt')
    torch.save([1, 2], tmp_path / 'list.pt')
    assert 'holds no weights' in refused(tmp_path / 'list.pt')
    torch.save({'state_dict': {'a': torch.zeros(1), 'b': 'text'}}, tmp_path / 'text.pt')
    assert 'these weights are not tensors: b' in refused(tmp_path / 'text.pt')


def test_the_printed_command_samples(tmp_path, capsys):
    """Also for a config without a first stage; and a scale that nobody says is not assumed silently."""
    import shlex

    from slimdiff.cli.sample import main as sample
    for name, warned in (('ffhq', False), ('lsun_church', True)):
        files.small_checkpoint(name, tmp_path / 'model.ckpt')
        config, out = write_config(tmp_path, name), tmp_path / name
        run(tmp_path / 'model.ckpt', '--config', config, '--out', out)
        said = capsys.readouterr().out
        warning = 'Warning: the file says no scale of its latents (scale_factor): 0.18215, '
        assert (warning in said) == warned
        words = shlex.split(said.partition('or slimdiff sample ')[2].splitlines()[0])
        assert 'model.autoencoder.type=' + ('KL' if warned else 'VQ') + 'Autoencoder' in words
        assert sample([*words[:2], '--out', str(tmp_path / 'a.png'), '-n', '1', '--steps', '1', *words[2:]]) == 0
        capsys.readouterr()
    run(tmp_path / 'model.ckpt', '--config', config, '--out', out, '--cfg-options',
        'model.autoencoder.latent_scale=0.25', 'model.autoencoder.type=KLAutoencoder')
    said = capsys.readouterr().out
    assert 'Warning' not in said and 'latents times 0.25' in said
    command = said.partition('slimdiff sample')[2]  # with the options that were given, each once
    assert command.count('autoencoder.type=') == 1 == command.count('model.autoencoder.latent_scale=0.25')


@pytest.mark.parametrize('zipped', [True, False])
def test_a_download_that_was_cut_off(zipped, tmp_path, capsys):
    path = tmp_path / 'model.ckpt'
    files.small_checkpoint('ffhq', path, first_stage=False, zipped=zipped)
    path.write_bytes(path.read_bytes()[:100_000])
    run(path, '--out', tmp_path / 'out', '--first-stage', 'only', status=2)
    said = capsys.readouterr().err.lower()
    assert 'download or copy' in said and 'again' in said and 'older checkpoint' not in said


def test_configs_that_no_compvis_file_fits(tmp_path, capsys):
    files.small_checkpoint('ffhq', tmp_path / 'model.ckpt', first_stage=False)
    config = write_config(tmp_path, 'ffhq')
    for option, message in (('model.sigma_data=0.5', "CompVis' UNets are bare"),
                            ('model.unet.downsampler.type=WaveletDown', "which CompVis' UNetModel has not")):
        run(tmp_path / 'model.ckpt', '--config', config, '--out', tmp_path / 'out', '--cfg-options', option, status=2)
        assert message in capsys.readouterr().err


def test_a_teacher_that_was_not_converted(tmp_path):
    from slimdiff.checkpoint import CheckpointError
    files.small_checkpoint('ffhq', tmp_path / 'model.ckpt', first_stage=False)
    torch.save({'state_dict': {}}, tmp_path / 'plain.ckpt')
    for name in ('model.ckpt', 'plain.ckpt'):
        with pytest.raises(CheckpointError, match='Stable Diffusion: slimdiff convert'):
            Teacher(str(tmp_path / name))


def test_a_folder_with_other_things_is_left_alone(tmp_path, capsys):
    files.small_checkpoint('ffhq', tmp_path / 'model.ckpt', first_stage=False)
    run(tmp_path / 'model.ckpt', '--config', write_config(tmp_path, 'ffhq'), '--out', tmp_path, status=2)
    assert 'holds ffhq.py, model.ckpt, which this command has not written' in capsys.readouterr().err


# ---- the shipped teachers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', files.NAMES)
def test_shipped_configs_fit_the_published_networks(name):
    """The reference at full size, on the meta device: it fits its own config and no other but its twins."""
    import reference_compvis as reference

    from slimdiff.cli.convert import shipped_fits
    from slimdiff.configuration import load_config
    from slimdiff.models.converters import empty_unet, recognise
    with torch.device('meta'):
        network = reference.UNetModel(**reference.FULL[name])
    state = {f'model.diffusion_model.{k}': v for k, v in network.state_dict().items()}
    perfect = {config for config, fit in shipped_fits(recognise(state, 'x.ckpt')) if fit.perfect}
    twins = ('ffhq', 'celebahq', 'lsun_bedroom')
    assert perfect == {f'configs/ldm/{twin}.py' for twin in (twins if name in twins else [name])}
    # What shapes do not show: heads, and what is computed.
    ours = empty_unet(load_config(f'configs/ldm/{name}.py').model)
    told = empty_unet(files.model_config(name, reference.FULL[name]))
    keys = [key for key in told.config if key not in ('sample_size', '_use_default_values', 'stages')]
    assert {key: ours.config[key] for key in keys} == {key: told.config[key] for key in keys}
    heads = [[m.heads for m in net.modules() if hasattr(m, 'heads')] for net in (ours, told)]
    assert heads[0] == heads[1] and heads[0]
    betas = load_config(f'configs/ldm/{name}.py').model.noise_scheduler
    assert (betas.beta_start, betas.beta_end) == files.SCHEDULES[name]


@torch.no_grad()
@pytest.mark.parametrize('flow', [False, True])
def test_a_checkpoint_of_dit_or_sit(flow, tmp_path, capsys):
    """The averaged weights of a training checkpoint, with the learned variance left out."""
    from test_dit_converters import CLASSES, HEADS, original_state, reference
    state = original_state()
    torch.save({'model': {name: torch.zeros_like(value) for name, value in state.items()}, 'ema': state, 'opt': {}},
               tmp_path / 'dit.pt')
    noise = dict(type='FlowMatchEulerDiscreteScheduler') if flow else dict(type='DDPMScheduler')
    unet = dict(type='DiT', sample_size=8, in_channels=4, out_channels=4, num_attention_heads=HEADS,
                attention_head_dim=8, layers=(2, ), time_scale=0.001 if flow else 1.0)
    model = dict(type='DiffusionModel', unet=unet, noise_scheduler=noise, sigma_data=None, num_classes=CLASSES,
                 sampler=dict(type='DPMSolverMultistepScheduler'))
    config = tmp_path / 'dit.py'
    config.write_text(f'model = {model!r}\n')
    run(tmp_path / 'dit.pt', '--config', config, '--out', tmp_path / 'out')
    assert f'{tmp_path / "out"}/unet: ' in capsys.readouterr().out
    teacher = Teacher(str(tmp_path / 'out'))
    x, s, labels = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 0.8]), torch.tensor([1, CLASSES])
    expected = -reference(state, x, 1 - s, labels) if flow else reference(state, x, 1000 * s, labels)
    torch.testing.assert_close(teacher(x, 1000 * s, labels)[0], expected[:, :4], rtol=1e-4, atol=1e-4)
    # The other set, which is all zeros, and what the network predicts.
    words = ('--weights', 'model') if flow else ('--weights', 'model', '--prediction-type', 'v_prediction')
    run(tmp_path / 'dit.pt', '--config', config, '--out', tmp_path / 'zeros', *words)
    assert not Teacher(str(tmp_path / 'zeros'))(x, 1000 * s, labels)[0].any()
    assert json.loads((tmp_path / 'zeros/conversion.json').read_text())['weights'] == 'model'
    scheduler = json.loads((tmp_path / 'zeros/scheduler/scheduler_config.json').read_text())
    assert scheduler['prediction_type'] == ('flow_prediction' if flow else 'v_prediction')
    torch.save(state, tmp_path / 'plain.pt')
    run(tmp_path / 'plain.pt', '--config', config, '--out', tmp_path / 'other', '--weights', 'ema', status=2)
    assert 'plain.pt holds only the weights model' in capsys.readouterr().err
    config.write_text(f'model = {dict(model, unet=dict(unet, layers=(3, )))!r}\n')
    run(tmp_path / 'dit.pt', '--config', config, '--out', tmp_path / 'other', status=2)
    assert 'layers=' in capsys.readouterr().err
    run(tmp_path / 'dit.pt', '--out', tmp_path / 'other', status=2)
    assert 'does not tell which' in capsys.readouterr().err
