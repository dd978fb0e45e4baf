import json

import pytest
from diffusers import DDPMScheduler

from studies.reproduce import Arm, Column, Experiment
from studies.reproduce.command import cost_of, resolve
from studies.reproduce.experiment import option_text
from studies.reproduce.experiments import find_experiment, known_experiments, schedules, shared
from studies.reproduce.fingerprint import differences, digest, relevant

ERROR = Column('error', {'e': 1.0})


def experiment(**changes):
    arms = [Arm('a', 'a.py', seeds=range(3)), Arm('b', 'b.py', seeds=range(2)), Arm('c', 'c.py')]
    return Experiment(**{**dict(name='x', title='X', arms=arms, columns=[ERROR], baseline='a'), **changes})


def test_the_queue_goes_seed_by_seed():
    names = [arm.run_name(seed) for arm, seed in experiment().runs()]
    assert names == ['a-seed0', 'b-seed0', 'c-seed0', 'a-seed1', 'b-seed1', 'a-seed2']
    assert [arm.run_name(seed) for arm, seed in experiment().runs(arms=['b', 'a'], seeds=[1, 2])] == [
        'b-seed1', 'a-seed1', 'a-seed2']


def test_arguments_are_those_of_train():
    arm = Arm('a', 'configs/x.py', options={'model.losses.0.tap': ['output', 'up1'], 'model.w': 0.1}, flags=['--amp'])
    assert arm.arguments(3, 'w') == ['configs/x.py', '--work-dir', 'w', '--resume', '--amp', '--cfg-options',
                                     'randomness.seed=3', "model.losses.0.tap=['output', 'up1']", 'model.w=0.1']
    assert [option_text(value) for value in ('a b', '2024', 2024, None, 'None', ('x', ))] == [
        'a b', "'2024'", '2024', 'None', "'None'", "('x',)"]


def test_a_column_is_a_weighted_mean():
    final = {'denoise/t0-100/top': 0.6, 'denoise/t100-300/top': 0.3}
    assert shared.TOP_BAND.value(final) == pytest.approx(0.4)
    assert shared.TOP_BAND.shown(0.4) == '400'
    assert shared.TOP_BAND.value({'denoise/t0-100/top': 0.6}) is None


@pytest.mark.parametrize(('changes', 'words'), [
    (dict(baseline='z'), "'z' is none of its arms: a, b, c"), (dict(name='a/b'), "'a/b'"),
    (dict(report='pie'), 'table, profile'), (dict(arms=[Arm('a', 'x'), Arm('a', 'y')]), 'same name')])
def test_what_is_wrong_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        experiment(**changes)


def test_unknown_names_and_files(tmp_path):
    with pytest.raises(ValueError, match="no arm 'd'. It has: a, b, c"):
        experiment().runs(arms=['d'])
    with pytest.raises(ValueError, match="Did you mean 'sd_central'"):
        find_experiment('sd_centrl')
    with pytest.raises(ValueError, match='is not the description'):
        find_experiment(str(tmp_path / 'none.json'))
    (tmp_path / 'x.json').write_text(json.dumps(dict(
        name='x', title='X', baseline='a', arms=[dict(name='a', config='a.py', seeds=[4])],
        columns=[dict(title='error', figures={'e': 1})])))
    assert find_experiment(str(tmp_path / 'x.json')).runs()[0][1] == 4


def test_what_decides_the_figures():
    config = dict(work_dir='here', randomness=dict(seed=0), model=dict(width=3, teacher=dict(bf16=True)),
                  train_cfg=dict(max_iters=5),
                  val_cfg=dict(num_images=9), train_dataloader=dict(num_workers=0, batch_size=4),
                  default_hooks=dict(ema=dict(type='EMAHook', decay=0.9), log=dict(type='TrainLogHook')))
    base = relevant(config)
    harmless = dict(config, work_dir='there', randomness=dict(seed=7), load_from='x.pth', log_level='DEBUG',
                    model=dict(width=3, teacher=dict(bf16=True, cache='answers', compile=True, micro_batch=4)),
                    train_dataloader=dict(num_workers=2, batch_size=4),
                    default_hooks=dict(ema=dict(type='EMAHook', decay=0.9), samples=dict(type='SampleGridHook')))
    assert relevant(harmless) == base and digest(relevant(harmless)) == digest(base)
    for changed, key in [(dict(model=dict(width=4)), 'model.width: 3 -> 4'),
                         (dict(model=dict(width=3, teacher=dict(bf16=False))), 'model.teacher.bf16: True -> False'),
                         (dict(train_cfg=dict(max_iters=6)), 'train_cfg.max_iters: 5 -> 6'),
                         (dict(val_cfg=dict(num_images=8)), 'val_cfg.num_images: 9 -> 8'),
                         (dict(default_hooks={}), 'hooks')]:
        now = relevant({**config, **changed})
        assert key in differences(base, now) and digest(now) != digest(base)
    # Results of an older slimdiff: what is called otherwise now, or no longer written, is no difference.
    teacher = {'model.teacher.checkpoint': 'configs/ldm/photo_patches_16px_teacher', 'x': 1}
    now = {'model.teacher.checkpoint': 'configs/ldm/photo_patches_16px_weights', 'x': 1, 'output_losses.0.weight': 1.0}
    assert differences({**teacher, 'train_dataloader.collate_fn.type': 'default_collate'}, now) == ''
    assert differences(teacher, {**now, 'x': 2}) == 'x: 1 -> 2'
    # Tuples and lists are the same, also after a way through JSON.
    assert relevant(dict(a=(1, 2))) == json.loads(json.dumps(relevant(dict(a=[1, 2]))))


@pytest.mark.parametrize('name', sorted(known_experiments()))
def test_every_shipped_arm_has_a_valid_config(name):
    """All names of options included; and no two arms are the same training."""
    found = known_experiments()[name]
    configs = [relevant(resolve(arm.arguments(0, 'w'))) for arm in found.arms]
    assert len({digest(config) for config in configs}) == len(found.arms)
    # The teacher is a bound, and step_aware compares each of its networks only with itself.
    apart = {'teacher'} | ({'fashion'} if name == 'step_aware' else set())
    iterations = {config['train_cfg.max_iters'] for arm, config in zip(found.arms, configs) if arm.name not in apart}
    assert len(iterations) == 1


def test_both_schedules_bins_have_the_same_noise():
    linear, cosine = (DDPMScheduler(beta_schedule=kind).alphas_cumprod for kind in ('linear', 'squaredcos_cap_v2'))
    for a, b in zip(schedules.LINEAR[1:-1], schedules.COSINE[1:-1]):
        steps = abs(linear[a] - cosine[b]), abs(cosine[b - 1] - cosine[b + 1])
        assert steps[0] < steps[1], (a, b)


def test_costs_of_the_pairs():
    cost = {name: cost_of(resolve([f'configs/{name}.py'])) for name in (
        'lite_ldm/photo_patches_16px', 'lite_ldm/photo_patches_16px_no-skips', 'sd/photo_patches_16px_gated')}
    lite, bare, gated = cost.values()
    assert abs(gated['macs_published'] / lite['macs_published'] - 1) < 0.01  # docs/en/experiments/sd_central.md
    assert (lite['macs_published'], bare['macs_published']) == (5992960, 5738880)  # docs/en/experiments/skips.md
    assert (lite['params'], bare['params']) == (173915, 181799)
