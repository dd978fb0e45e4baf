"""What a study compares once its networks are trained."""

import json

import pytest

from studies.reproduce.experiment import Arm, Column, Experiment
from studies.reproduce.follow_up import comparisons_of, to_compare
from studies.reproduce.plan import Planned
from studies.reproduce.work_dirs import StudyRun


def test_a_study_follows_up_what_it_has_trained(tmp_path):
    """Seed 0 has both networks, seed 1 lacks the other one, seed 2 is compared, seed 3 was compared before it was
    trained again."""
    arms = [Arm('slim', 'slim.py', {'model.num_steps': 5}, seeds=range(4)), Arm('teacher', 'teacher.py', seeds=[0])]
    study = Experiment('s', 'S', arms, [Column('e', {'e': 1.})], 'slim',
                       follow_up={'slim': ['--against', 't=teacher.py,{teacher}']})
    planned = []
    for arm, seed in study.runs():
        work_dir = tmp_path / 'work' / arm.run_name(seed)
        work_dir.mkdir(parents=True)
        (work_dir / 'iter_7.pth').touch()
        run = StudyRun(arm, seed, work_dir, tmp_path / 'results' / f'{arm.run_name(seed)}.json', {})
        planned.append(Planned(run, 'done', result=dict(date='today')))
    (tmp_path / 'results').mkdir()
    for seed, date in ((2, 'today'), (3, 'yesterday')):
        (tmp_path / f'results/slim-seed{seed}.comparison.json').write_text(json.dumps(dict(trained=date)))
    said = []
    [zero] = to_compare(study, planned, say=said.append)
    assert [text.split(':')[0] for text in said] == ['slim-seed1', 'slim-seed3'] and 'teacher with seed 1' in said[0]
    assert not to_compare(study, planned, [(arms[0], 2)])
    command = zero.command()[3:]
    assert command == ['compare_allocations', 'slim.py', str(tmp_path / 'work/slim-seed0/iter_7.pth'), '--work-dir',
                       str(tmp_path / 'work/slim-seed0/comparison'), '--seed', '0', '--against',
                       f't=teacher.py,{tmp_path}/work/teacher-seed0/iter_7.pth', '--cfg-options', 'model.num_steps=5']
    zero.work_dir.mkdir()
    (zero.work_dir / 'comparison.json').write_text(json.dumps(dict(command='here', samplers={})))
    zero.collect('s')
    assert [found.get('seed', 2) for found in comparisons_of(study, planned)['slim']] == [0, 2]
    assert json.loads(zero.result.read_text())['command'] == 'python tools/analysis_tools/reproduce.py s'
    with pytest.raises(ValueError, match="has no arm 'slin'"):
        Experiment('s', 'S', arms, [Column('e', {'e': 1.})], 'slim', follow_up={'slin': []})
