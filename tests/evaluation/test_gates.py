"""Recorded gates against gates that are known."""

import json
import re

import pytest
import torch

from slimdiff.evaluation.gates import (
    GateRecorder,
    GateStatistics,
    even_timesteps,
    find_gates,
    gates_on_noised_images,
    gates_while_sampling,
)
from slimdiff.models import DiffusionModel, UNet
from studies.gates_report import gates_figure, gates_section, gates_table, mean_over_runs, plot_gates

STAGES = [dict(channels=8, blocks=1), dict(channels=16, blocks=1)]
GATED = dict(downsampler=dict(type='WaveletGatedDown'), upsampler=dict(type='WaveletGatedUp'))
NAMES = ['down1.downsampler', 'down2.downsampler', 'up2.upsampler', 'up1.upsampler']


def model(**kwargs):
    torch.manual_seed(0)
    return DiffusionModel(unet=dict(type='UNet', sample_size=8, stages=STAGES, norm_groups=4, **GATED), num_steps=3,
                          **kwargs)


def test_statistics_by_hand():
    statistics = GateStatistics()
    gates = torch.rand(7, 4, 5, dtype=torch.float64)
    statistics.add('a', 10, gates[:3])
    statistics.add('a', 10, gates[3:])
    statistics.add('a', 900, gates)
    found = statistics.describe()
    assert found['timesteps'] == [900, 10] and found['samples'] == 7
    row = {key: torch.tensor(value[1], dtype=torch.float64) for key, value in found['gates']['a'].items()}
    torch.testing.assert_close(row['mean'], gates.mean((0, 2)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(row['std_samples'], gates.mean(2).std(0, correction=0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(row['std_channels'], gates.mean(0).std(1, correction=0), atol=1e-5, rtol=1e-4)


def test_gates_are_found_in_order():
    assert list(find_gates(model().unet)) == NAMES
    with pytest.raises(ValueError, match='has no gates: its resamplers are ConvDown, NearestConvUp'):
        find_gates(UNet(sample_size=8, stages=STAGES, norm_groups=4))


def test_the_recorder_sees_what_the_resampler_uses():
    """Samples of two timesteps in one batch; a gate whose last layer is zero is one half."""
    unet = model().unet
    torch.nn.init.zeros_(unet.up1.upsampler.gate.expand.weight)
    seen = []
    handle = unet.down1.downsampler.gate.register_forward_hook(lambda module, inputs, gates: seen.append(gates))
    x, t = torch.randn(5, 3, 8, 8), torch.tensor([3, 800, 3, 3, 800])
    with GateRecorder(unet) as recorder, torch.no_grad():
        unet(x, t)
        unet(x, timestep=torch.tensor(500))
    handle.remove()
    unet(x, t)  # not recorded any more
    found = recorder.statistics.describe()
    assert found['timesteps'] == [800, 500, 3] and found['samples'] == 5
    mean = torch.tensor(found['gates']['down1.downsampler']['mean'])
    for i, gates in ((0, seen[0][t == 800]), (1, seen[1]), (2, seen[0][t == 3])):
        torch.testing.assert_close(mean[i], gates.mean((0, 2)), atol=1e-4, rtol=1e-4)
    half = found['gates']['up1.upsampler']
    assert half['mean'] == [[0.5] * 4] * 3 and half['std_samples'] == [[0.0] * 4] * 3
    assert not any(gate._forward_hooks for gate in find_gates(unet).values()) and not unet._forward_pre_hooks


def test_noised_images_have_common_noise_whatever_the_batch():
    m, inputs = model(num_classes=2), []
    images, labels = torch.randn(5, 3, 8, 8), torch.tensor([0, 1, 0, 1, 0])
    m.unet.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    whole = gates_on_noised_images(m, images, labels, [900, 100]).describe()
    noise = [(x - m.noise_process.alphas_cumprod[t].sqrt() * images) / (1 - m.noise_process.alphas_cumprod[t]).sqrt()
             for x, t in zip(inputs, (900, 100))]
    torch.testing.assert_close(noise[0], noise[1], atol=1e-5, rtol=1e-5)
    done = []
    parts = gates_on_noised_images(m, images, labels, [900, 100], batch_size=2, on_batch=done.append).describe()
    assert sum(done) == 10
    for name in NAMES:
        torch.testing.assert_close(torch.tensor(whole['gates'][name]['mean']),
                                   torch.tensor(parts['gates'][name]['mean']), atol=2e-5, rtol=1e-4)


def test_sampling_records_every_step_once():
    m, done = model(num_classes=2, guidance_scale=3.0), []
    found = gates_while_sampling(m, 5, batch_size=3, num_steps=4, on_batch=done.append).describe()
    assert found['timesteps'] == [750, 500, 250, 0] and found['samples'] == 5  # not doubled by guidance
    assert sum(done) == 20 and list(found['gates']) == NAMES


def test_even_timesteps():
    assert even_timesteps(5) == [999, 749, 500, 250, 0] and even_timesteps(3, 11) == [10, 5, 0]
    with pytest.raises(ValueError, match='choose 2 to 1000'):
        even_timesteps(1)


def test_figure_and_table(tmp_path):
    m = model()
    runs = [dict(checkpoint=f'{seed}.pth', noised=gates_on_noised_images(m, torch.randn(4, 3, 8, 8), None,
                                                                         [999, 500, 0], seed).describe(),
                 sampling=gates_while_sampling(m, 4, seed).describe()) for seed in (0, 1)]
    mean, spread = mean_over_runs([run['noised']['gates'][NAMES[0]] for run in runs])
    values = torch.tensor([run['noised']['gates'][NAMES[0]]['mean'] for run in runs], dtype=torch.float64)
    torch.testing.assert_close(spread, (values[0] - values[1]).abs() / 2**0.5)
    table = re.sub(' +', ' ', gates_table(runs)).splitlines()
    assert len(table) == 2 + 4 * 4 and '| t = 999 | t = 500 | t = 0 |' in table[0]
    assert table[2].startswith(f'| {NAMES[0]} | cA | {mean[0, 0]:.3f} ± {spread[0, 0]:.3f} |')
    assert '±' not in gates_table(runs[:1])
    axis = gates_figure(runs).axes[0]
    legend = {text.get_text(): line.get_linestyle()
              for text, line in zip(axis.get_legend().get_texts(), axis.get_legend().get_lines())}
    assert len(legend) == 4 + 2
    assert legend['full: noised images'] == '-' and legend['dashed: while sampling'] == '--'
    plot_gates(runs, tmp_path / 'gates.png')
    assert 5000 < (tmp_path / 'gates.png').stat().st_size < 150_000
    text = gates_section(dict(runs=runs, config='c.py', command='python y', machine='m', versions=dict(torch='2')))
    assert '2 network(s) of `c.py`: `0.pth`, `1.pth`. 4 noised' in text
    json.dumps(runs)
