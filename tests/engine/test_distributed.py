"""Two processes (gloo, CPU) against one with the doubled batch."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_run
import torch
from PIL import Image

from slimdiff.checkpoint.files import load_checkpoint
from slimdiff.engine.distributed import wrapper_config

TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
            str(Path(__file__).with_name('tiny_run.py'))]


def two_ranks(tiny_process, folder, *arguments, command=None, **changes):
    """The exit statuses, and what the ranks print."""
    words = [] if command else [folder, '--launcher', 'pytorch', '--changes', json.dumps(changes), *arguments]
    ranks = tiny_process(*words, command=command, ranks=2)
    printed = [process.communicate(timeout=60)[0] for process in ranks]
    return [process.returncode for process in ranks], '\n'.join(printed)


STATIC = {'model_wrapper_cfg': dict(type='MMDistributedDataParallel', static_graph=True)}


@pytest.mark.parametrize('wrapper', [{}, {**STATIC, 'optim_wrapper.accumulative_counts': 2}],
                         ids=['ddp', 'static graph, accumulated'])
def test_two_ranks_are_one_with_the_doubled_batch(tmp_path, tiny_process, wrapper):
    # 3 + 3 of 24 samples: the global batches run over the ends of epochs.
    half = {'train_dataloader.batch_size': 3, 'default_hooks.log.interval': 1, 'max_iters': 10, **wrapper}
    statuses, output = two_ranks(tiny_process, tmp_path / 'two', **half)
    assert statuses == [0, 0], output
    runner = tiny_run.build(tmp_path / 'one', max_iters=10, train_dataloader__batch_size=6,
                            default_hooks__log__interval=1, **wrapper)
    runner.train()
    one = [float.fromhex(x) for x in tiny_run.trace(tmp_path / 'one').values()]
    two = [[float.fromhex(x) for x in tiny_run.trace(tmp_path / 'two', rank).values()] for rank in (0, 1)]
    torch.testing.assert_close(torch.tensor(two).mean(0), torch.tensor(one), rtol=1e-6, atol=1e-6)
    a, b = load_checkpoint(tmp_path / 'one/iter_10.pth'), load_checkpoint(tmp_path / 'two/iter_10.pth')
    for weights in (lambda c: c['state_dict'], lambda c: c['ema']['state_dict']):
        assert weights(a).keys() == weights(b).keys()
        for name, value in weights(a).items():
            torch.testing.assert_close(weights(b)[name], value, rtol=1e-5, atol=1e-6)
    assert b['meta']['world_size'] == 2 and not any(name.startswith('module.') for name in b['state_dict'])
    # The log has the mean of both ranks, and only one of them wrote it.
    [file] = (tmp_path / 'two').glob('*/vis_data/*_*.json')
    logged = [json.loads(line)['train/loss'] for line in file.read_text().splitlines()]
    assert logged == pytest.approx(one, rel=1e-5)
    # One process goes on from what two have saved.
    tiny_run.build(tmp_path / 'two', max_iters=12, train_dataloader__batch_size=6, resume=True,
                   default_hooks__log__interval=1, **wrapper).train()
    assert (tmp_path / 'two/iter_12.pth').exists()


SLIMMABLE = dict(_delete_=True, type='SlimmableDiffusion', num_random=1, unet=dict(
    type='SlimmableUNet', widths=[0.25, 0.5, 0.75, 1.0], sample_size=8, norm_groups=4,
    stages=[dict(channels=16, blocks=1, downsample=False)]))


FSDP = {'model_wrapper_cfg': dict(type='FullyShard')}


@pytest.mark.parametrize('wrapper', [STATIC, FSDP], ids=['static graph', 'fsdp'])
def test_an_iteration_may_draw_its_widths(tmp_path, tiny_process, wrapper):
    """The middle width differs from iteration to iteration: the gradients are still those of one process."""
    changes = {'model': SLIMMABLE, 'train_dataloader.dataset.images': True, 'max_iters': 6, **wrapper}
    statuses, output = two_ranks(tiny_process, tmp_path / 'two', **changes, **{'train_dataloader.batch_size': 3})
    assert statuses == [0, 0], output
    tiny_run.build(tmp_path / 'one', **changes, **{'train_dataloader.batch_size': 6}).train()
    one, two = (load_checkpoint(tmp_path / name / 'iter_6.pth')['state_dict'] for name in ('one', 'two'))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)


def test_sharded_over_two_ranks_it_is_the_training_of_one(tmp_path, tiny_process):
    """FSDP: losses, weights, averages and moments; pictures of the averaged weights; resumed with and without."""
    half = {'train_dataloader.batch_size': 3, 'max_iters': 10, 'default_hooks.log.interval': 1, **FSDP,
            'default_hooks.samples': dict(type='SampleGridHook', interval=5, num_images=4)}
    one = {**half, 'train_dataloader.batch_size': 6}
    del one['model_wrapper_cfg']
    statuses, output = two_ranks(tiny_process, tmp_path / 'two', **half)
    assert statuses == [0, 0], output
    tiny_run.build(tmp_path / 'one', **one).train()

    def compare(name):
        a, b = load_checkpoint(tmp_path / 'one' / name), load_checkpoint(tmp_path / 'two' / name)
        for part in (lambda c: c['state_dict'], lambda c: c['ema']['state_dict'],
                     *(lambda c, i=i: c['optimizer']['state'][i] for i in a['optimizer']['state'])):
            assert part(a).keys() == part(b).keys()
            for key, value in part(a).items():
                torch.testing.assert_close(part(b)[key], value, rtol=1e-5, atol=1e-6)

    compare('iter_10.pth')
    losses = [[float.fromhex(x) for x in tiny_run.trace(tmp_path / 'two', rank).values()] for rank in (0, 1)]
    expected = [float.fromhex(x) for x in tiny_run.trace(tmp_path / 'one').values()]
    torch.testing.assert_close(torch.tensor(losses).mean(0), torch.tensor(expected), rtol=1e-5, atol=1e-6)
    pictures = [np.asarray(Image.open(tmp_path / run / 'samples/iter_10.png')).astype(int) for run in ('one', 'two')]
    assert abs(pictures[0] - pictures[1]).max() <= 1
    # Both go on from the two's checkpoint: sharded, and in one process.
    shutil.copytree(tmp_path / 'two', tmp_path / 'alone')
    statuses, output = two_ranks(tiny_process, tmp_path / 'two', **{**half, 'max_iters': 14, 'resume': True})
    assert statuses == [0, 0], output
    for folder in ('one', 'alone'):
        tiny_run.build(tmp_path / folder, **{**one, 'max_iters': 14, 'resume': True}).train()
    compare('iter_14.pth')
    a, b = (load_checkpoint(tmp_path / name / 'iter_14.pth')['state_dict'] for name in ('alone', 'one'))
    for key, value in a.items():
        torch.testing.assert_close(value, b[key], rtol=1e-5, atol=1e-6)


STRIDES = '''
import torch
from torch import distributed
from slimdiff import UNet
from slimdiff.engine.distributed import leave_at_exit

distributed.init_process_group('gloo')
leave_at_exit()
unet = UNet(sample_size=16, norm_groups=4, stages=[dict(channels=4, blocks=1), dict(channels=8, downsample=False)],
            downsampler=dict(type='WaveletGatedDown'), upsampler=dict(type='WaveletGatedUp'))
for parameter in unet.parameters():
    torch.nn.init.normal_(parameter, std=0.1)
model = torch.nn.parallel.DistributedDataParallel(unet)
x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(distributed.get_rank()))
model(x, torch.tensor([3, 700])).sample.square().mean().backward()
differing = [name for name, p in unet.named_parameters() if p.grad.stride() != p.stride()]
assert not differing, differing
'''


def test_gradients_lie_in_memory_as_ddp_wants_them(tmp_path, tiny_process):
    # A 1x1 weight is channels_last and contiguous at once: only its strides tell, and DDP warns of the wrong ones.
    (tmp_path / 'strides.py').write_text(STRIDES)
    statuses, output = two_ranks(tiny_process, tmp_path, command=[sys.executable, tmp_path / 'strides.py'])
    assert statuses == [0, 0] and 'bucket view strides' not in output, output


def test_sigterm_stops_all_ranks_at_the_same_iteration(tmp_path, tiny_process):
    process = tiny_process(tmp_path, '--launcher', 'pytorch', '--changes', '{"max_iters": 10000}', '--iter-seconds',
                           0.02, command=TORCHRUN)  # which repeats the signal
    deadline = time.monotonic() + 60
    while not (tmp_path / 'iter_8.pth').exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and 'Stopped after' in output, output
    counts = {len(tiny_run.trace(tmp_path, rank)) for rank in (0, 1)}
    assert len(counts) == 1 and (done := counts.pop()) % 10 == 0
    assert load_checkpoint(tmp_path / f'iter_{done}.pth')['meta']['iter'] == done


def test_an_error_on_all_ranks_ends_the_run(tmp_path, tiny_process):
    """A refusal is found on the main process alone; no rank may wait for the others."""
    tiny_run.build(tmp_path, max_iters=1).train()
    statuses, output = two_ranks(tiny_process, tmp_path)
    assert statuses == [1, 1] and output.count('WorkDirError: The work dir') == 2, output


def test_wrapper_config(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    expected = dict(type='MMDistributedDataParallel', device_ids=None)
    assert wrapper_config(None) == expected
    assert wrapper_config(dict(find_unused_parameters=True)) == expected | dict(find_unused_parameters=True)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    assert wrapper_config(None) is None


def test_launcher_without_its_variables(tmp_path, monkeypatch):
    for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.delenv(name, raising=False)
    if torch.cuda.is_available():
        pytest.skip('mmengine sets GPU processes up')
    with pytest.raises(ValueError, match=r'lacks RANK, WORLD_SIZE.*dist_train\.sh'):
        tiny_run.build(tmp_path, launcher='pytorch')
    assert not os.listdir(tmp_path)
