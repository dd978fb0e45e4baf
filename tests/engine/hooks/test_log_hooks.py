"""The log, speed, progress bar and report."""

import json
import logging
import mmap

import pytest
import tiny_run
import torch

from slimdiff.engine.hooks.report import ReportHook, report_table
from slimdiff.engine.hooks.speed import SpeedHook, batch_length, resident_memory


def lines(runner, folder):
    return next((folder / runner.timestamp).glob('*.log')).read_text().splitlines()


def test_mean_loss_and_learning_rate(tmp_path):
    runner = tiny_run.build(tmp_path, max_iters=14)
    runner.train()
    losses = [float.fromhex(value) for value in tiny_run.trace(tmp_path).values()]
    scalars = [json.loads(line) for line in
               (tmp_path / runner.timestamp / 'vis_data' / f'{runner.timestamp}.json').read_text().splitlines()]
    assert [s['step'] for s in scalars] == [7, 14]
    assert scalars[1]['train/loss'] == pytest.approx(sum(losses[7:]) / 7, rel=1e-6)
    assert scalars[0]['train/lr'] == pytest.approx(0.01, rel=1e-4)  # warm-up is over after 5
    speed = {'train/it_per_s', 'train/img_per_s', 'train/data_share', 'train/rss_mb'}
    assert speed | {'train/grad_norm'} <= set(scalars[0])
    assert any('[ 7/14]' in line and 'it/s' in line and 'left 0:00:0' in line for line in lines(runner, tmp_path))


def test_warm_up_is_linear(tmp_path):
    tiny_run.build(tmp_path, max_iters=5, default_hooks__log__interval=1).train()
    file = next(tmp_path.glob('*/vis_data/*_*.json'))
    rates = [json.loads(line)['train/lr'] for line in file.read_text().splitlines()]
    # mmengine's hook order: the log shows the rate of the iteration that was done.
    assert rates == pytest.approx([0.01 * (0.1 + 0.9 * min(i / 4, 1)) for i in range(5)], rel=1e-4)


def test_speed(monkeypatch):
    class Runner:
        class train_loop:
            data_seconds = 0.5

    clock = iter([0.0, 1.5, 10.0, 11.5])
    monkeypatch.setattr('slimdiff.engine.hooks.speed.time.perf_counter', lambda: next(clock))
    hook = SpeedHook()
    for i in range(2):
        hook.before_train_iter(Runner, i)
        hook.after_train_iter(Runner, i, dict(inputs=torch.zeros(6, 3)))
    values = hook.log_values(Runner)  # two iterations of 0.5 s + 1.5 s; the pause between them does not count
    assert values['it_per_s'] == 0.5 and values['img_per_s'] == 3 and values['data_share'] == 0.25
    assert batch_length([torch.zeros(4, 2)]) == 4 and batch_length({}) == 0
    # Pages fresh from the system: an allocator may have some left from earlier tests.
    before, block = resident_memory(), mmap.mmap(-1, 100 << 20)
    for page in range(0, len(block), mmap.PAGESIZE):
        block[page] = 1
    assert 80 < resident_memory() - before < 140


def test_progress_bar(tmp_path, capsys):
    runner = tiny_run.build(tmp_path, max_iters=14, default_hooks__progress=dict(type='ProgressHook', enabled=True))
    runner.train()
    out, err = capsys.readouterr()
    assert '14/14' in err and 'loss' in err
    assert 'grad_norm' not in out and 'Saved iter_14.pth' in out  # the bar's content is not printed twice
    assert any('grad_norm' in line for line in lines(runner, tmp_path))
    assert not any(type(f).__name__ == '_AboveBar' for h in runner.logger.handlers for f in h.filters)


def test_console_is_short(tmp_path, capsys):
    runner = tiny_run.build(tmp_path, max_iters=1)
    runner.train()
    assert isinstance(runner.logger, logging.Logger)
    assert len(capsys.readouterr().out.splitlines()) < 8 < 30 < len(lines(runner, tmp_path))


def test_report_table():
    table = report_table({'fd': 1.25, 'swd': 30.0}, {'fd': 100.0}, {'fd': 0.5, 'fd_std': 0.25}, 500)
    assert table.splitlines() == ['metric  untrained  after 500 it  real against real',
                                  'fd            100          1.25         0.5 ± 0.25',
                                  'swd             -            30                  -']


def test_report_table_beside_another_run(tmp_path):
    table = report_table({'fd': 1.25, 'swd': 30.0}, {}, {}, 500, {'Lite': {'swd': 40.0, 'fd': 2.0}}, ['swd', 'gone'])
    assert [line.split() for line in table.splitlines()][-1] == ['swd', '30', '40']
    table = report_table({'class_accuracy': 0.7, 'class_accuracy/real': 0.9}, {}, {}, 5, names=['class_accuracy'])
    assert table.splitlines()[-1].split() == ['class_accuracy', '0.7', '0.9']
    (tmp_path / 'metrics.json').write_text('{"final": {"fd": 3.0}}')
    assert ReportHook(beside={'Lite': str(tmp_path / 'metrics.json')}).beside == {'Lite': {'fd': 3.0}}
    with pytest.raises(ValueError, match="'gone.json', which is not there"):
        ReportHook(beside={'Lite': 'gone.json'})


def test_report_table_of_errors_and_variants():
    final = {'eps_mse': 0.5, 'eps_mse_stderr': 0.125, 'fd': 2.0, 'width0.5/eps_mse': 0.75,
             'width0.5/eps_mse_stderr': 0.25, 'width0.5/fd': 3.0, 'a/b': 7.0}
    untrained = {'eps_mse': 1.0, 'eps_mse_stderr': 0.5, 'width0.5/eps_mse': 1.0}
    assert report_table(final, untrained, {'fd': 1.0}, 9).splitlines() == [
        'metric   untrained  after 9 it     width0.5  real against real',
        'eps_mse    1 ± 0.5  0.5 ± 0.12  0.75 ± 0.25                  -',
        'fd               -           2            3                  1',
        'a/b              -           7            -                  -']


def test_report_through_a_resume(tmp_path):
    changes = dict(val_cfg=dict(type='TinyEvaluation'), val_evaluator=[], default_hooks__report=dict(type='ReportHook'),
                   val_dataloader=tiny_run.tiny_config('x').train_dataloader, train_cfg__val_interval=4,
                   train_cfg__val_before_train=True)
    tiny_run.build(tmp_path, max_iters=12, custom_hooks=[dict(type='StopAt', iteration=6)], **changes).train()
    runner = tiny_run.build(tmp_path, max_iters=12, resume=True, **changes)
    runner.train()
    report = json.loads((tmp_path / 'metrics.json').read_text())
    assert [entry['iter'] for entry in report['history']] == [0, 4, 8, 12]
    assert report['untrained'] == {'done': 0.0} and report['final'] == {'done': 12.0}
    assert report['real_against_real'] == {'done': 0.5, 'done_std': 0.25} and report['iterations'] == 12
    assert any('0.5 ± 0.25' in line for line in lines(runner, tmp_path))
