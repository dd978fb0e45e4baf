import pytest
from mmengine.config import Config

from slimdiff.configuration import load_config
from slimdiff.configuration.effective_batch import accumulation, keep_batch, processes
from slimdiff.configuration.errors import ConfigError


@pytest.mark.parametrize('base, batch, world, expected', [(256, 32, 8, 1), (256, 32, 2, 4), (256, 8, 1, 32),
                                                          (2048, 64, 8, 4)])
def test_by_hand(base, batch, world, expected):
    assert accumulation(base, batch, world) == expected


def test_what_does_not_make_up_the_batch():
    with pytest.raises(ConfigError, match='3 processes with 32 samples.*a number of processes that divides 256'):
        accumulation(256, 32, 3)
    with pytest.raises(ConfigError, match=r'batch_size to one of 1, 2, 4, 8, 16, 32, 64, 128\.'):
        accumulation(256, 48, 2)
    with pytest.raises(ConfigError, match='does not say which batch to keep'):
        keep_batch(Config(dict(train_dataloader=dict(batch_size=1))), 1)


def test_everything_that_counts_iterations_is_stretched():
    cfg = load_config('configs/sd/ffhq.py')
    assert keep_batch(cfg, 2) == 4
    assert cfg.optim_wrapper.accumulative_counts == 4 and cfg.optim_wrapper.optimizer.lr == 5.12e-4
    assert cfg.train_cfg.max_iters == 600_000 and cfg.train_cfg.val_interval == 100_000
    warmup, decay = cfg.param_scheduler
    assert (warmup.begin, warmup.end, decay.begin, decay.end) == (0, 4000, 4000, 600_000)
    assert cfg.default_hooks.checkpoint.interval == 4000 and cfg.default_hooks.ema.decay == 0.9999
    untouched = load_config('configs/sd/ffhq.py')
    assert keep_batch(untouched, 8) == 1 and untouched.to_dict() == load_config('configs/sd/ffhq.py').to_dict()


def test_what_is_accumulated_already_counts():
    """8 x 32 are the config's 256 on one process; 4 x 32 want twice as many; 16 x 32 are too many."""
    def config(counts):
        return load_config('configs/sd/ffhq.py', {'optim_wrapper.accumulative_counts': counts})
    same, twice = config(8), config(4)
    assert keep_batch(same, 1) == 1 and same.to_dict() == config(8).to_dict()
    assert keep_batch(twice, 1) == 2 and twice.optim_wrapper.accumulative_counts == 8
    assert twice.train_cfg.max_iters == 2 * 150_000
    with pytest.raises(ConfigError, match=r'16 iterations .* of 32 samples on each of 1 processes .* leave acc'):
        keep_batch(config(16), 1)


@pytest.mark.parametrize('launcher, environment, expected', [
    ('none', {'WORLD_SIZE': '4'}, 1), ('pytorch', {'WORLD_SIZE': '4'}, 4), ('pytorch', {}, 1),
    ('slurm', {'SLURM_NTASKS': '16'}, 16)])
def test_processes(launcher, environment, expected):
    assert processes(environment, launcher) == expected


def test_schedules_that_count_in_other_ways():
    """Restarts in periods; a rate that falls by a factor at every iteration is the same after four times as many."""
    cfg = Config(dict(
        auto_scale_lr=dict(base_batch_size=256), train_dataloader=dict(batch_size=64), train_cfg=dict(max_iters=100),
        optim_wrapper=dict(), param_scheduler=[dict(type='CosineRestartLR', periods=[50, 50], restart_weights=[1, 0.5]),
                                               dict(type='ExponentialLR', gamma=0.9)]))
    assert keep_batch(cfg, 1) == 4
    assert cfg.param_scheduler[0].periods == [200, 200] and cfg.param_scheduler[0].restart_weights == [1, 0.5]
    assert cfg.param_scheduler[1].gamma**4 == pytest.approx(0.9)
