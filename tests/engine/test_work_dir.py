"""Which run a work dir belongs to."""

import socket
import time
from pathlib import Path

import pytest
import tiny_run
import torch

from slimdiff.arguments import flatten
from slimdiff.checkpoint import files, load_checkpoint, save_checkpoint
from slimdiff.checkpoint.files import list_checkpoints
from slimdiff.checkpoint.lock import FolderInUseError
from slimdiff.cli.train import parse
from slimdiff.engine import CheckpointError, WorkDirError
from slimdiff.engine.work_dir import differing_keys, missing_folders, remove_traces
from slimdiff.models.computation import ComputationError


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_flatten():
    assert flatten({'a': {'b': [1, {'c': 2}]}, 'd': (), 'e': {}}) == {'a.b.0': 1, 'a.b.1.c': 2, 'd': [], 'e': {}}


def test_differing_keys():
    old = tiny_run.tiny_config('a').to_dict()
    assert differing_keys(old, tiny_run.tiny_config(
        'b', max_iters=99, resume=True, default_hooks__checkpoint__interval=1, train_dataloader__num_workers=2).to_dict(
        )) == []
    teacher = dict(checkpoint='t', bf16=True)
    assert differing_keys(dict(model=dict(teacher=teacher)), dict(model=dict(teacher=dict(
        teacher, cache='answers', compile=True, micro_batch=4)))) == []
    new = tiny_run.tiny_config('a', optim_wrapper__optimizer__lr=0.5, model__width=4,
                               default_hooks__ema__decay=0.5).to_dict()
    assert differing_keys(old, new) == [
        'hooks.0.decay: 0.9 -> 0.5', 'model.width: (absent) -> 4', 'optim_wrapper.optimizer.lr: 0.01 -> 0.5']
    # Two ranks with half the batch are the same run.
    half = tiny_run.tiny_config('a', train_dataloader__batch_size=4).to_dict()
    assert differing_keys(old, half, 1, 2) == [] and differing_keys(old, half) != []


def test_a_used_work_dir_is_refused(tmp_path):
    tiny_run.build(tmp_path, max_iters=4).train()
    before = snapshot(tmp_path)
    with pytest.raises(WorkDirError, match=r'already holds 1 checkpoint \(newest: iter_4\.pth\).*Pass --resume'):
        tiny_run.build(tmp_path, max_iters=4).train()
    with pytest.raises(WorkDirError, match=r'another config(.|\n)*optimizer\.lr: 0\.01 -> 0\.5(.|\n)*--work-dir'):
        tiny_run.build(tmp_path, optim_wrapper__optimizer__lr=0.5).train()
    with pytest.raises(WorkDirError, match=r'another config(.|\n)*optimizer\.lr: 0\.01 -> 0\.5(.|\n)*iter_4\.pth'):
        tiny_run.build(tmp_path, optim_wrapper__optimizer__lr=0.5, resume=True).train()
    assert snapshot(tmp_path) == before


def test_a_run_that_lives_is_left_alone_and_one_that_was_killed_goes_on(tmp_path, tiny_process):
    process = tiny_process(tmp_path, '--iter-seconds', '.05', '--changes', '{"max_iters": 100000}')
    while not (tmp_path / 'iter_4.pth').exists():
        assert process.poll() is None, process.communicate()
        time.sleep(.02)
    folders = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    writing = tmp_path / f'.x.pth.{process.pid}@{socket.gethostname()}.tmp'
    writing.touch()
    for changes in (dict(), dict(resume=True), dict(overwrite=True), dict(optim_wrapper__optimizer__lr=0.5)):
        with pytest.raises(FolderInUseError, match=f'in use by process {process.pid} on .*training'):
            tiny_run.build(tmp_path, **changes).train()
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == folders and process.poll() is None
    assert writing.exists() and list(tmp_path.glob('iter_*.pth'))
    process.kill()
    process.wait()
    newest = list_checkpoints(tmp_path)[0]
    iteration = int(newest.stem.removeprefix('iter_'))
    runner = tiny_run.build(tmp_path, max_iters=iteration + 2, resume=True)
    runner.train()
    assert runner.iter == iteration + 2 and not list(tmp_path.glob('.*'))


def test_logs_of_two_runs_of_one_second_are_two(tmp_path, monkeypatch):
    monkeypatch.setattr(time, 'strftime', lambda *args: '20260101_000000')
    (tmp_path / '20260101_000000').mkdir()  # of another process
    (tmp_path / '20260101_000000/20260101_000000.log').touch()
    runner = tiny_run.build(tmp_path, max_iters=0)
    assert Path(runner.log_dir).name != '20260101_000000'
    with pytest.raises(ValueError):
        runner.train()
    assert [path.name for path in tmp_path.rglob('*')] == ['20260101_000000', '20260101_000000.log']
    # mmengine keeps the writer of that name, whose folder is gone.
    later = tiny_run.build(tmp_path, max_iters=1)
    later.train()
    assert later.timestamp != runner.timestamp and (Path(later.log_dir) / 'vis_data/config.py').is_file()


def test_weights_that_are_not_finite_are_not_gone_on_from(tmp_path):
    tiny_run.build(tmp_path / 'a', max_iters=4).train()
    data = load_checkpoint(tmp_path / 'a/iter_4.pth')
    for weights in (data['state_dict'], data['ema']['state_dict']):
        weights['unet.0.weight'][0, 0] = float('nan')
    save_checkpoint(data, tmp_path / 'a/iter_4.pth')
    start = dict(load_from=str(tmp_path / 'a/iter_4.pth'))
    for place, changes in (('a', dict(resume=True, max_iters=6)), ('b', start)):
        with pytest.raises(CheckpointError, match=r'iter_4\.pth holds NaN or infinity in 1 \(unet\.0\.weight\)'):
            tiny_run.build(tmp_path / place, **changes).train()


def test_named_checkpoint_resumes_with_another_config(tmp_path):
    tiny_run.build(tmp_path / 'a', max_iters=4).train()
    runner = tiny_run.build(tmp_path / 'b', max_iters=6, resume=True, load_from=str(tmp_path / 'a/iter_4.pth'),
                            train_dataloader__dataset__length=20)
    runner.train()
    assert runner.iter == 6 and (tmp_path / 'b/iter_6.pth').exists()


def test_overwrite(tmp_path):
    tiny_run.build(tmp_path, max_iters=8).train()
    with pytest.raises(ValueError):  # a config that cannot be built removes nothing
        tiny_run.build(tmp_path, overwrite=True, train_cfg__max_iters=0).train()
    assert (tmp_path / 'iter_8.pth').exists()
    tiny_run.build(tmp_path, max_iters=3, overwrite=True).train()
    assert sorted(p.name for p in tmp_path.glob('*.pth')) == ['iter_3.pth']


def test_other_architecture_changes_nothing(tmp_path):
    tiny_run.build(tmp_path, max_iters=4).train()
    before = snapshot(tmp_path)
    with pytest.raises(CheckpointError, match=r'iter_4\.pth is of another architecture.*unet\.0\.weight \(8, 4\)'):
        tiny_run.build(tmp_path / 'new', resume=True, load_from=str(tmp_path / 'iter_4.pth'), model__width=4).train()
    assert snapshot(tmp_path) == before
    assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('changes', [
    dict(model__width=-1), dict(train_cfg__max_iters=0), dict(optim_wrapper__optimizer__type='Admw'),
    dict(train_dataloader__dataset__length=-1), dict(default_hooks__ema__decay=2.0), dict(load_from='none.pth')])
def test_a_start_that_fails_leaves_no_folder(tmp_path, changes):
    with pytest.raises(Exception):  # noqa: B017 (each has its own)
        tiny_run.build(tmp_path / 'work_dirs/sd/mine', **changes).train()
    assert not list(tmp_path.iterdir())


def test_a_start_that_fails_leaves_what_was_there(tmp_path):
    tiny_run.build(tmp_path, max_iters=4).train()
    before = sorted(tmp_path.rglob('*'))
    for changes in (dict(), dict(max_iters=0, overwrite=True), dict(model__width=4, resume=True)):
        with pytest.raises(ValueError):
            tiny_run.build(tmp_path, **changes).train()
        assert sorted(tmp_path.rglob('*')) == before


def test_an_error_after_the_start_keeps_the_log(tmp_path, monkeypatch):
    runner = tiny_run.build(tmp_path / 'run')
    monkeypatch.setattr(runner.model, 'train_step', lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        runner.train()
    assert list((tmp_path / 'run').glob('*/*.log')) and (tmp_path / 'run/config.py').exists()


def test_missing_folders_are_removed_while_they_are_empty(tmp_path):
    made = missing_folders(tmp_path / 'a/b/c')
    assert made == [tmp_path / 'a/b/c', tmp_path / 'a/b', tmp_path / 'a']
    (tmp_path / 'a/b/c/log').mkdir(parents=True)
    (tmp_path / 'a/other').touch()
    remove_traces(tmp_path / 'a/b/c/log', made)
    assert [p.name for p in (tmp_path / 'a').iterdir()] == ['other']


def test_load_from_takes_the_averaged_weights(tmp_path):
    tiny_run.build(tmp_path / 'a', max_iters=4).train()
    saved = torch.load(tmp_path / 'a/iter_4.pth', weights_only=True)
    runner = tiny_run.build(tmp_path / 'b', load_from=str(tmp_path / 'a/iter_4.pth'))
    runner.load_or_resume()
    tiny_run.same(dict(runner.unwrapped_model.state_dict()), {**saved['state_dict'], **saved['ema']['state_dict']})


def test_weights_that_were_trained_for_another_computation(tmp_path):
    """Neither load_from nor a resume takes them, unless the config is to be trusted."""
    def diffusion(prediction, sigma_data=0.5):
        return dict(_delete_=True, type='DiffusionModel', num_steps=2, sigma_data=sigma_data,
                    noise_scheduler=dict(type='DDPMScheduler', prediction_type=prediction),
                    unet=dict(type='UNet', sample_size=8, norm_groups=4, stages=[dict(channels=8, blocks=1)]))

    data = dict(train_dataloader__batch_size=2, train_dataloader__dataset=dict(
        _delete_=True, type='PhotoPatches', image_size=8, length=4))
    tiny_run.build(tmp_path / 'a', max_iters=4, model=diffusion('epsilon'), **data).train()
    path = str(tmp_path / 'a/iter_4.pth')
    assert files.load_checkpoint(path)['meta']['computes']['prediction_type'] == 'epsilon'
    for resume in (False, True):
        wanted = dict(max_iters=5, load_from=path, resume=resume, model=diffusion('v_prediction', 1.0), **data)
        with pytest.raises(ComputationError, match=r'prediction_type: epsilon \(checkpoint\), v_prediction \(config\); '
                           r'sigma_data: 0\.5 \(checkpoint\), 1\.0 \(config\)'):
            tiny_run.build(tmp_path / 'b', **wanted).train()
        assert not (tmp_path / 'b').exists()
        tiny_run.build(tmp_path / f'c{resume}', trust_config=True, **wanted).train()


def test_going_back_to_an_earlier_checkpoint(tmp_path):
    tiny_run.build(tmp_path, max_iters=12).train()
    before, back = snapshot(tmp_path), dict(resume=True, load_from=str(tmp_path / 'iter_4.pth'), max_iters=6,
                                            default_hooks__checkpoint__interval=1)
    with pytest.raises(WorkDirError, match=r'later than iteration 4, up to iter_12\.pth(.|\n)*--overwrite to remove'):
        tiny_run.build(tmp_path, **back).train()
    assert snapshot(tmp_path) == before
    tiny_run.build(tmp_path, overwrite=True, **back).train()
    assert [p.name for p in list_checkpoints(tmp_path)] == ['iter_6.pth', 'iter_5.pth', 'iter_4.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == 'iter_6.pth'
    again = dict(back, max_iters=7, load_from=str(tmp_path / 'iter_6.pth'))  # nothing is later
    tiny_run.build(tmp_path, **again).train()


def test_the_advice_for_another_config_beside_a_damaged_checkpoint_is_one_that_works(tmp_path):
    tiny_run.build(tmp_path, max_iters=8).train()
    (tmp_path / 'iter_8.pth').write_bytes(b'PK')
    with pytest.raises(WorkDirError, match=r'--resume \S+iter_4\.pth --overwrite$'):
        tiny_run.build(tmp_path, optim_wrapper__optimizer__lr=0.5, resume=True).train()
    tiny_run.build(tmp_path, optim_wrapper__optimizer__lr=0.5, resume=True, max_iters=5, overwrite=True,
                   load_from=str(tmp_path / 'iter_4.pth')).train()
    assert [p.name for p in list_checkpoints(tmp_path)] == ['iter_5.pth', 'iter_4.pth']


def test_overwrite_with_resume_wants_a_checkpoint(capsys):
    for words in (['--resume', '--overwrite'], ['--overwrite', '--resume']):
        with pytest.raises(SystemExit):
            parse(['a.py', *words])
        assert 'name the checkpoint to go back to' in capsys.readouterr().err
    assert parse(['a.py', '--resume', 'iter_4.pth', '--overwrite']).overwrite
