import copy
import sqlite3

import pytest
import tiny_distiller as tiny
import torch

from slimdiff.checkpoint.tensor_store import network_fingerprint
from slimdiff.models.distillation import Teacher
from slimdiff.models.distillation.teacher_cache import TeacherCache


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tiny.save_pipeline(tiny.teacher_model(), tmp_path_factory.mktemp('teacher'))


def counted(teacher):
    """The batch sizes that the network was asked with."""
    calls = []
    teacher.unet.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    return calls


def inputs(seed=0, count=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 8, 8, generator=generator), torch.arange(count) * 100


def make(folder, cache, taps=('output', 'up1'), **settings):
    teacher = Teacher(folder, cache=str(cache), **settings)
    teacher.record(taps)
    return teacher


def test_a_second_student_gets_the_same_answers_without_the_network(folder, tmp_path):
    first = make(folder, tmp_path)
    prediction, features = first(*inputs())
    plain = Teacher(folder)
    plain.record(['up1'])
    expected, expected_features = plain(*inputs())
    second = make(folder, tmp_path)
    calls = counted(second)
    again, features_again = second(*inputs())
    assert calls == []
    for answer in (prediction, again):
        assert torch.equal(answer, expected)
    for found in (features, features_again):
        assert found.keys() == {'up1'} and torch.equal(found['up1'], expected_features['up1'])


@pytest.mark.parametrize('change', ['x', 't', 'count'])
def test_another_question_is_asked(folder, tmp_path, change):
    teacher = make(folder, tmp_path)
    teacher(*inputs())
    calls = counted(teacher)
    x, t = inputs(seed=int(change == 'x'), count=2 if change == 'count' else 3)
    teacher(x, t + (change == 't'))
    assert calls == [len(x)]


def test_other_weights_and_precisions_have_stores_of_their_own(folder, tmp_path, monkeypatch):
    monkeypatch.setattr('slimdiff.models.distillation.teacher.has_bf16_products', lambda device: True)
    other = tiny.teacher_model()
    with torch.no_grad():
        next(other.unet.parameters())[0] += 1e-6
    nearly = tiny.save_pipeline(other, tmp_path / 'nearly')
    cache = tmp_path / 'cache'
    teachers = [make(folder, cache), make(nearly, cache), make(folder, cache, bf16=True), make(folder, cache)]
    assert len({teacher._open_cache().path for teacher in teachers}) == 3 == len(list(cache.glob('*.sqlite')))
    # The place of the files does not matter, the weights do.
    moved = tiny.save_pipeline(tiny.teacher_model(), tmp_path / 'moved')
    assert network_fingerprint(Teacher(moved).unet) == network_fingerprint(teachers[0].unet)


def test_a_tap_that_is_missing_is_asked_for_once(folder, tmp_path):
    make(folder, tmp_path, ['output'])(*inputs())
    teacher = make(folder, tmp_path, ['output', 'mid'])
    calls = counted(teacher)
    teacher(*inputs())
    teacher(*inputs())
    assert calls == [3]


def test_values_come_back_bit_for_bit(tmp_path):
    store = TeacherCache(tmp_path, torch.nn.Linear(2, 2))
    answers = {'output': torch.randn(2, 3, 4, 4), 'half': torch.randn(2, 5).bfloat16(), 'one': torch.tensor(1.5)}
    key = store.key(torch.ones(2), None)
    assert store.get(key, answers, torch.device('cpu')) is None
    store.put(key, answers)
    assert TeacherCache(tmp_path, torch.nn.Linear(2, 2)).get(key, answers, torch.device('cpu')) is None
    found = copy.deepcopy(store).get(key, answers, torch.device('cpu'))
    for name, value in answers.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value)
    assert store.key(None, torch.ones(2)) != key != store.key(torch.ones(1, 2), None)


def test_a_full_disk_does_not_stop_the_training(folder, tmp_path):
    teacher = make(folder, tmp_path)
    store = teacher._open_cache()
    pages = store.database.execute('PRAGMA page_count').fetchone()[0]
    store.database.execute(f'PRAGMA max_page_count = {pages}')  # what a full disk looks like to SQLite
    x, t = inputs(count=64)
    torch.testing.assert_close(teacher(x, t)[0], Teacher(folder)(x, t)[0])
    assert not store.writes


def test_a_file_that_is_no_database(folder, tmp_path):
    damaged = tmp_path / 'damaged'
    damaged.mkdir()
    (damaged / make(folder, tmp_path)._open_cache().path.name).write_bytes(b'something else entirely' * 100)
    with pytest.raises(ValueError, match=r"cache='.*' can't be used \(file is not a database\)"):
        make(folder, damaged)
    (tmp_path / 'file').write_text('')
    with pytest.raises(ValueError, match="can't be used .*; give a folder on a local disk"):
        make(folder, tmp_path / 'file')


def test_training_with_a_cache_is_bit_for_bit_that_without(folder, tmp_path):
    losses = [dict(type='SpatialLoss', tap=['output', 'up1'])]
    found = []
    for settings in ({}, dict(cache=str(tmp_path)), dict(cache=str(tmp_path))):
        torch.manual_seed(0)
        model = tiny.distiller(folder, losses, teacher=settings)
        calls = counted(model.teacher)
        loss = tiny.losses(model, tiny.batch(model))['loss']
        loss.backward()
        found.append((loss.detach(), [p.grad for p in model.unet.parameters()], len(calls)))
    assert [calls for *_, calls in found] == [1, 1, 0]
    for loss, gradients, _ in found[1:]:
        assert torch.equal(loss, found[0][0])
        assert all(torch.equal(a, b) for a, b in zip(gradients, found[0][1]))
    assert isinstance(model.teacher._open_cache().database, sqlite3.Connection)


def test_answers_under_autocast_are_not_those_without(folder, tmp_path):
    with torch.autocast('cpu', torch.bfloat16):
        make(folder, tmp_path)(*inputs())
    plain = Teacher(folder)
    plain.record([])
    assert torch.equal(make(folder, tmp_path)(*inputs())[0], plain(*inputs())[0])
