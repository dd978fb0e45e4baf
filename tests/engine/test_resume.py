"""A run that was killed and resumed is, bit for bit, the run that was not."""

import random
import signal
import time

import pytest
import tiny_run
import torch
from mmengine.hooks import Hook
from torch.utils.data import DataLoader

from slimdiff.checkpoint.files import load_checkpoint
from slimdiff.engine import CheckpointError

#: what a resumed run must have in common with one that was never killed (its meta holds the work dir's name)
STATE = ('state_dict', 'optimizer', 'ema', 'param_schedulers', 'log')


def assert_same_run(work_dir, reference):
    # Once more through the files of both: their newest checkpoints.
    a, b = (max(d.glob('iter_*.pth'), key=lambda p: int(p.stem[5:])) for d in (work_dir, reference))
    assert a.name == b.name
    a, b = load_checkpoint(a), load_checkpoint(b)
    for key in STATE:
        tiny_run.same(a[key], b[key], key)
    assert tiny_run.trace(work_dir) == tiny_run.trace(reference)


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp('reference')
    tiny_run.build(folder, max_iters=40).train()
    return folder


@pytest.mark.parametrize('first', [1, 6, 13])
def test_resume_in_two_parts(tmp_path, reference, first):
    # Not from a multiple of the log interval, nor of an epoch (3 iterations).
    tiny_run.build(tmp_path, max_iters=40, default_hooks__checkpoint__interval=first,
                   custom_hooks=[dict(type='StopAt', iteration=first)]).train()
    for path in tmp_path.glob('iter_*.pth'):
        if path.name != f'iter_{first}.pth':
            path.unlink()
    runner = tiny_run.build(tmp_path, max_iters=40, resume=True)
    runner.train()
    assert_same_run(tmp_path, reference)
    assert runner.message_hub.get_scalar('train/loss').data[0].size == 40 // 7 + 1


def test_a_network_with_dropout_resumes_bit_for_bit(tmp_path):
    """It draws from the global generator, from which a new loader's iterator draws, too."""
    tiny_run.build(tmp_path / 'whole', max_iters=9, model__dropout=0.5).train()
    tiny_run.build(tmp_path / 'parts', max_iters=9, model__dropout=0.5,
                   custom_hooks=[dict(type='StopAt', iteration=4)]).train()
    tiny_run.build(tmp_path / 'parts', max_iters=9, model__dropout=0.5, resume=True).train()
    assert_same_run(tmp_path / 'parts', tmp_path / 'whole')


def test_sigkill_at_any_moment(tmp_path, reference, tiny_process):
    """Killed four times, at random and while a checkpoint is being written, then left to finish."""
    pick = random.Random(0)
    kills_in_write = resumed = 0
    for attempt in range(5):
        before = set(tmp_path.glob('iter_*.pth'))
        process = tiny_process(tmp_path, '--changes', '{"max_iters": 40, "resume": true}', '--iter-seconds', 0.04,
                               '--fsync-seconds', 0.15)
        deadline, wait, started = time.monotonic() + 300, pick.uniform(0, 0.4), None
        while attempt < 4 and process.poll() is None and time.monotonic() < deadline:
            if started is None and set(tmp_path.glob('iter_*.pth')) - before:
                started = time.monotonic()
            if started and time.monotonic() - started > wait and (attempt % 2 or any(tmp_path.glob('.iter*.tmp'))):
                process.kill()
                process.wait()
                kills_in_write += any(tmp_path.glob('.iter*.tmp'))
                break
            time.sleep(0.001)
        output, _ = process.communicate(timeout=300)
        resumed += 'Resumed from' in output
        assert process.returncode == (0 if attempt == 4 else -signal.SIGKILL), output
    assert kills_in_write >= 2 and resumed >= 3
    assert_same_run(tmp_path, reference)
    assert not list(tmp_path.glob('.*.tmp'))


def test_damaged_newest_falls_back(tmp_path, reference, caplog):
    tiny_run.build(tmp_path, max_iters=12).train()
    path = tmp_path / 'iter_12.pth'
    path.write_bytes(path.read_bytes()[:-3000])
    runner = tiny_run.build(tmp_path, max_iters=40, resume=True)
    runner.train()
    log = next(tmp_path.glob(f'{runner.timestamp}/*.log')).read_text()
    assert 'iter_12.pth is damaged' in log and 'Going on from iter_8.pth instead' in log
    assert_same_run(tmp_path, reference)


def test_all_damaged_is_an_error(tmp_path):
    tiny_run.build(tmp_path, max_iters=4).train()
    (tmp_path / 'iter_4.pth').write_bytes(b'')
    with pytest.raises(CheckpointError, match=r'None of the checkpoints.*iter_4\.pth is empty'):
        tiny_run.build(tmp_path, resume=True).train()


def test_resume_without_checkpoints_starts(tmp_path):
    runner = tiny_run.build(tmp_path, max_iters=2, resume=True)
    runner.train()
    assert runner.iter == 2


def test_accumulation_waits_for_the_window(tmp_path):
    changes = dict(max_iters=21, optim_wrapper__accumulative_counts=3, default_hooks__checkpoint__max_keep=-1)
    tiny_run.build(tmp_path / 'a', **changes).train()
    # Every 4 iterations, postponed to the next multiple of 3.
    assert sorted(int(p.stem[5:]) for p in (tmp_path / 'a').glob('*.pth')) == [6, 9, 12, 18, 21]
    (tmp_path / 'b').mkdir()
    (tmp_path / 'b/iter_9.pth').write_bytes((tmp_path / 'a/iter_9.pth').read_bytes())
    tiny_run.build(tmp_path / 'b', resume=True, **changes).train()
    a, b = (load_checkpoint(tmp_path / name / 'iter_21.pth') for name in 'ab')
    for key in STATE:
        tiny_run.same(a[key], b[key], key)


def test_other_samplers_are_replayed(tmp_path):
    changes = dict(train_dataloader__sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True))
    tiny_run.build(tmp_path / 'a', max_iters=10, **changes).train()
    tiny_run.build(tmp_path / 'b', max_iters=4, **changes).train()
    tiny_run.build(tmp_path / 'b', max_iters=10, resume=True, **changes).train()
    assert tiny_run.trace(tmp_path / 'a') == tiny_run.trace(tmp_path / 'b')


def test_resume_does_not_read_what_was_trained_on(tmp_path, monkeypatch):
    tiny_run.build(tmp_path, max_iters=8).train()
    read = []
    dataset = tiny_run.DATASETS.get('TinyData')
    getitem = dataset.__getitem__
    monkeypatch.setattr(dataset, '__getitem__', lambda self, k: (read.append(k), getitem(self, k))[1])
    runner = tiny_run.build(tmp_path, max_iters=10, resume=True)
    assert isinstance(runner.build_dataloader(runner._train_dataloader, seed=0), DataLoader)
    runner.train()
    assert len(read) == 2 * 8 and min(read) >= 2 * 24  # iterations 8 and 9 lie in the third epoch of 24


def test_longer_schedule_on_resume(tmp_path):
    """The end of a schedule is the config's, not the checkpoint's."""
    def schedule(end):
        return [dict(type='LinearLR', start_factor=1.0, end_factor=0.1, by_epoch=False, begin=0, end=end)]
    tiny_run.build(tmp_path, max_iters=4, param_scheduler=schedule(8)).train()
    runner = tiny_run.build(tmp_path, max_iters=6, resume=True, param_scheduler=schedule(100))
    runner.train()
    rates = [1.0]
    for i in range(1, 7):  # mmengine's recursion, with the end of its time
        end = 7 if i <= 4 else 99
        rates.append(rates[-1] * (1 - 0.9 / (end * 1.0 + (i - 1) * -0.9)))
    assert runner.optim_wrapper.get_lr()['lr'][0] == pytest.approx(0.01 * rates[6], rel=1e-6)


def rates_of(work_dir, resume_from=None, **changes):
    """The learning rate after each iteration, and the optimizer's first group at the end."""
    rates = []
    runner = tiny_run.build(work_dir, resume=resume_from is not None, load_from=resume_from, **changes)
    hook = Hook()
    hook.after_train_iter = lambda runner, *args, **kwargs: rates.append(runner.optim_wrapper.get_lr()['lr'][0])
    runner.register_hook(hook, 'LOWEST')
    runner.train()
    return rates, runner.optim_wrapper.optimizer.param_groups[0]


@pytest.mark.parametrize('scheduled', [True, False])
def test_a_named_checkpoint_goes_on_with_the_optimizer_of_the_config(tmp_path, scheduled):
    changes = dict(max_iters=12) if scheduled else dict(max_iters=12, param_scheduler=None)
    other = dict(optim_wrapper__optimizer=dict(lr=3e-2, weight_decay=0.5, betas=(0.5, 0.6)))
    wanted, _ = rates_of(tmp_path / 'all', **changes, **other)
    rates_of(tmp_path / 'a', **dict(changes, max_iters=8))
    found, group = rates_of(tmp_path / 'b', str(tmp_path / 'a/iter_8.pth'), **changes, **other)
    assert found == pytest.approx(wanted[8:], rel=1e-6)
    assert (group['weight_decay'], tuple(group['betas'])) == (0.5, (0.5, 0.6))


def test_new_schedules_start_at_the_rate_of_the_config(tmp_path):
    rates_of(tmp_path / 'a', max_iters=8)
    one = dict(param_scheduler=[dict(type='ConstantLR', factor=0.5, by_epoch=False, begin=0, end=1000)])
    found, _ = rates_of(tmp_path / 'b', str(tmp_path / 'a/iter_8.pth'), max_iters=10, **one)
    assert found == pytest.approx([0.5e-2] * 2)


def test_checkpoint_has_only_plain_data(tmp_path):
    runner = tiny_run.build(tmp_path, max_iters=8)
    runner.message_hub.update_info('object', object())
    runner.train()
    data = torch.load(tmp_path / 'iter_8.pth', weights_only=True)
    assert data['meta']['seed'] == 0 and data['meta']['world_size'] == 1 and data['meta']['iter'] == 8
    assert data['meta']['config']['model'] == {'type': 'TinyDenoiser'}
    assert 'object' not in data['message_hub']['runtime_info']
    assert set(data['ema']['state_dict']) == {k for k in data['state_dict'] if k.startswith('unet.')}


def test_unset_seed_is_the_checkpoints(tmp_path):
    changes = dict(randomness=dict(seed=None))
    first = tiny_run.build(tmp_path, max_iters=4, **changes)
    first.train()
    second = tiny_run.build(tmp_path, max_iters=6, resume=True, **changes)
    assert second.seed != first.seed
    second.train()
    assert second.seed == first.seed == load_checkpoint(tmp_path / 'iter_6.pth')['meta']['seed']
