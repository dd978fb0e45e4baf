import json
import signal

import pytest
import torch

from slimdiff.cli import benchmark
from slimdiff.cli.benchmark import main
from slimdiff.evaluation import throughput
from slimdiff.evaluation.throughput import DTYPES

BIG = '''
model = dict(type='DiffusionModel', num_classes=5, unet=dict(
    type='UNet', sample_size=8, norm_groups=4, downsampler=dict(type='ConvDown'), upsampler=dict(type='NearestConvUp'),
    stages=[dict(channels=16, blocks=1), dict(channels=32, blocks=1, heads=2, downsample=False)]))
'''
SMALL = '''
_base_ = './big.py'
model = dict(unet=dict(stages=[dict(channels=8, blocks=1), dict(channels=16, blocks=1, heads=2, downsample=False)]))
'''
# A latent text model whose first stage, text encoder and teacher are nowhere.
LATENT = '''
model = dict(
    type='Distiller', num_steps=5,
    autoencoder=dict(type='KLAutoencoder', checkpoint='nowhere/kl', latent_scale=0.2),
    conditioner=dict(type='CLIPText', checkpoint='nowhere/clip', channels=24),
    teacher=dict(checkpoint='nowhere/teacher', config='nowhere.py'), losses=[dict(type='SpatialLoss', tap='output')],
    unet=dict(type='UNet', sample_size=8, in_channels=4, out_channels=4, norm_groups=4, context_channels=24,
              downsampler=dict(type='WaveletGatedDown'), upsampler=dict(type='WaveletGatedUp'),
              stages=[dict(channels=8, blocks=1, heads=2, cross_attention=True), dict(channels=16, blocks=1)]))
'''


@pytest.fixture
def configs(tmp_path):
    for name, text in dict(big=BIG, small=SMALL, latent=LATENT).items():
        (tmp_path / f'{name}.py').write_text(text)
    return {name: str(tmp_path / f'{name}.py') for name in ('big', 'small', 'latent')}


def test_two_configs_side_by_side(configs, tmp_path, capsys):
    out = tmp_path / 'sub/speed.json'
    assert main([configs['big'], configs['small'], '--rounds', '3', '--steps', '2', '--batch-size', '3', '--json',
                 str(out)]) == 0
    text = capsys.readouterr().out
    assert 'batch 3, float32' in text and 'rounds: 3, steps in a round: 2' in text
    assert f'against {configs["big"]}' in text
    data = json.loads(out.read_text())
    first, other = data['configs'][configs['big']], data['configs'][configs['small']]
    assert not data['interrupted'] and data['settings']['batch_size'] == 3 and data['settings']['compile'] is None
    for entry in (first, other):
        assert entry['num_steps'] == 6 and [len(turn) for turn in entry['turns_seconds']] == [2, 2, 2]
        assert entry['time_steps_per_second'] == pytest.approx(3 / entry['latency_seconds']['p50'], rel=1e-3)
        assert entry['weight_bytes'] >= 4 * entry['params'] and entry['peak_bytes'] > entry['weight_bytes']
    assert first['digest'] != other['digest']
    result = data['against_first'][configs['small']]
    rounds = sorted(sum(a) / sum(b) for a, b in zip(first['turns_seconds'], other['turns_seconds']))
    assert result['speed_up']['median'] == pytest.approx(rounds[1], rel=1e-3)
    ratio = first['macs_published'] / other['macs_published']
    assert result['macs_ratio']['published'] == pytest.approx(ratio) and 3 < ratio < 4
    assert result['efficiency']['published'] == pytest.approx(result['speed_up']['median'] / ratio)
    assert f'{result["efficiency"]["published"]:.2f}' in text


def test_a_latent_text_model_without_any_of_its_files(configs, capsys):
    assert main([configs['latent'], '--rounds', '1', '--warmup', '1', '--batch-size', '2', '--dtype',
                 'bf16-autocast']) == 0
    out = capsys.readouterr().out
    assert 'bfloat16 autocast over float32 weights' in out and 'against' not in out


def test_weights_of_checkpoints_and_the_same_config_twice(configs, tmp_path, capsys):
    from slimdiff.configuration import load_config
    from slimdiff.registry import MODELS
    model = MODELS.build(load_config(configs['small']).model)
    model.unet.save_pretrained(tmp_path / 'weights')
    assert main([configs['small'], configs['small'], '--rounds', '1', '--batch-size', '1', '--dtype', 'bf16',
                 '--checkpoint', str(tmp_path / 'weights'), str(tmp_path / 'weights')]) == 0
    assert f'{configs["small"]} (2)' in capsys.readouterr().out
    assert main([configs['small'], '--checkpoint', str(tmp_path / 'nothing')]) == 2
    assert 'nothing' in capsys.readouterr().err


@pytest.mark.parametrize('options, message', [
    (['--rounds', '0'], '--rounds must be at least 1, got 0'),
    (['--checkpoint', 'a', 'b'], 'one file for each config: got 2 for 1'),
    (['--dtype', 'fp8'], 'fp8')])
def test_bad_options(configs, options, message, capsys):
    with pytest.raises(SystemExit):
        main([configs['big'], *options])
    assert message in capsys.readouterr().err


def test_bad_devices(configs, capsys):
    assert main([configs['big'], '--device', 'tpu']) == 2
    assert "got 'tpu'; give cpu, cuda or cuda:N" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert main([configs['big'], '--device', 'cuda:3']) == 2
        assert 'PyTorch sees 0 GPUs' in capsys.readouterr().err


def test_what_cannot_be_compiled_says_what_it_takes():
    def step():
        raise RuntimeError('InvalidCxxCompiler: No working C++ compiler found\nlong story')

    entry = benchmark.Entry('x.py', '', None, None, 0, unet=None, context_length=1, step=step)
    with pytest.raises(ValueError, match=r'x.py could not be compiled \(RuntimeError: .* found\).* without --compile'):
        benchmark.warm_up(entry, benchmark.parse(['x.py', '--compile']), torch.device('cpu'))
    with pytest.raises(RuntimeError, match='long story'):
        benchmark.warm_up(entry, benchmark.parse(['x.py']), torch.device('cpu'))


@pytest.mark.slow
def test_compiled(configs, capsys):
    assert main([configs['big'], '--rounds', '2', '--compile']) == 0
    assert 'compiled (default)' in capsys.readouterr().out


def test_milliseconds():
    assert [benchmark.milliseconds(s) for s in (0.0001234, 0.0123456, 24.5, 1.0)] == [
        '0.1234', '12.35', '24,500', '1,000']


def test_options_and_meanings_agree():
    assert list(benchmark.DTYPES) == list(DTYPES)


@pytest.mark.parametrize('steps', [7, 2])
def test_ctrl_c_prints_what_was_measured(configs, tmp_path, monkeypatch, capsys, steps):
    """A real signal, in the middle of the round after the last whole one."""
    out, count, real = tmp_path / 'speed.json', iter(range(1, 100)), throughput.seconds_of

    def seconds_of(step, device):
        if next(count) == steps:
            signal.raise_signal(signal.SIGINT)
        return real(step, device)

    monkeypatch.setattr(throughput, 'seconds_of', seconds_of)
    assert main([configs['big'], configs['small'], '--rounds', '50', '--batch-size', '1', '--json', str(out)]) == 130
    text, err = capsys.readouterr()
    if steps == 2:  # not one whole round
        assert 'Interrupted.' in err and 'steps/s' not in text and not out.exists()
        return
    # Turns: big small, small big, big small; the seventh is of the fourth round.
    assert 'Interrupted after 3 of 50 rounds' in err and 'rounds: 3, steps' in text and 'speed-up' in text
    data = json.loads(out.read_text())
    assert data['interrupted'] and [e['num_steps'] for e in data['configs'].values()] == [3, 3]
