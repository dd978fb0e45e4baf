"""Ctrl-C and SIGTERM while a network is trained."""

import signal
import time

import pytest
import tiny_run

from slimdiff.checkpoint.files import load_checkpoint


def wait_for_iterations(folder, count, process):
    deadline = time.monotonic() + 60
    file = folder / 'trace0.txt'
    while not (file.exists() and file.read_text().count('\n') >= count):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()[0]
        time.sleep(0.005)


def wait_for_line(process, text):
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f'the process ended without "{text}"')


@pytest.mark.parametrize(('signum', 'code'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_saves_and_exits(tmp_path, tiny_process, signum, code):
    tiny_run.build(tmp_path / 'whole', max_iters=30).train()
    process = tiny_process(tmp_path / 'cut', '--changes', '{"max_iters": 30}', '--iter-seconds', 0.05)
    wait_for_iterations(tmp_path / 'cut', 5, process)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    done = len(tiny_run.trace(tmp_path / 'cut'))
    assert 5 <= done < 30 and 'finishing this iteration' in output and 'needs --resume' in output
    assert load_checkpoint(tmp_path / f'cut/iter_{done}.pth')['meta']['iter'] == done
    tiny_run.build(tmp_path / 'cut', max_iters=30, resume=True).train()
    a, b = (load_checkpoint(tmp_path / name / 'iter_30.pth') for name in ('whole', 'cut'))
    for key in ('state_dict', 'optimizer', 'ema', 'log'):
        tiny_run.same(a[key], b[key], key)


def test_second_ctrl_c_exits_at_once(tmp_path, tiny_process):
    process = tiny_process(tmp_path, '--iter-seconds', 60)
    wait_for_line(process, 'iteration begins')
    process.send_signal(signal.SIGINT)
    wait_for_line(process, 'finishing this iteration')
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130 and time.monotonic() - start < 50 and not list(tmp_path.glob('*.pth'))


def test_ctrl_c_in_validation_saves_the_trained_weights(tmp_path, capfd):
    """The averaged weights are in the model at that moment."""
    changes = dict(max_iters=6, train_cfg__val_interval=6, val_cfg=dict(type='TinyEvaluation'),
                   val_dataloader=tiny_run.tiny_config('x').train_dataloader, val_evaluator=[],
                   default_hooks__checkpoint__interval=100)
    runner = tiny_run.build(tmp_path, **changes)
    runner._val_loop['raise_signal'] = True
    with pytest.raises(SystemExit) as info:
        runner.train()
    assert info.value.code == 130
    printed = ''.join(capfd.readouterr())
    assert 'leaving this validation' in printed
    assert 'after all 6 iterations, which are saved. Only the last validation is left: --resume does that' in printed
    tiny_run.build(tmp_path / 'whole', max_iters=6).train()
    a, b = load_checkpoint(tmp_path / 'iter_6.pth'), load_checkpoint(tmp_path / 'whole/iter_6.pth')
    for key in ('state_dict', 'ema', 'optimizer'):
        tiny_run.same(a[key], b[key], key)
    resumed = tiny_run.build(tmp_path, resume=True, **changes)
    resumed.train()
    assert resumed.val_loop.iterations == [6] and len(tiny_run.trace(tmp_path)) == 6
