"""A teacher beside its student: the same numbers, and on a GPU nothing is read before it is written."""

import pytest
import tiny_distiller as tiny
import torch

from slimdiff.models.distillation import Teacher
from slimdiff.models.distillation.overlap import side_stream

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
BOTH = [dict(type='SpatialLoss', tap=['output', 'up1'], weight=0.3),
        dict(type='SpectralLoss', tap=['output', 'mid'], weight=0.2, relative=True)]
#: cycles of a GPU's clock: tens of milliseconds, in which the host runs far ahead
LONG = 50_000_000
#: some of a GPU's kernels add up in no fixed order
CLOSE = dict(rtol=1e-4, atol=1e-5)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tiny.save_pipeline(tiny.teacher_model(), tmp_path_factory.mktemp('teacher'))


def make_teacher(folder, device='cpu', **settings):
    teacher = Teacher(folder, **settings)
    teacher.record(['up1', 'mid'])
    teacher.to(torch.device(device))
    return teacher


def inputs(device='cpu'):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 3, 8, 8, generator=generator).to(device), (torch.arange(5) * 200).to(device)


def check_equal(mine, theirs, **tolerance):
    torch.testing.assert_close(mine[0], theirs[0], **tolerance)
    assert mine[1].keys() == theirs[1].keys()
    for name in mine[1]:
        torch.testing.assert_close(mine[1][name], theirs[1][name], **tolerance)


def train(folder, device, steps=3, **teacher):
    """Losses of some steps, and the weights after them."""
    model = tiny.distiller(folder, BOTH, teacher=teacher).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step in range(steps):
        model.seed_step(step)
        images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(step)).to(device)
        terms = model(images)
        optimizer.zero_grad()
        terms['loss'].backward()
        optimizer.step()
        losses.append({name: term.item() for name, term in terms.items()})
    return losses, model.state_dict()


def test_on_a_cpu_it_has_no_effect(folder):
    """Bit for bit, and without a stream."""
    (losses, weights), (others, theirs) = (train(folder, 'cpu', overlap=overlap) for overlap in (True, False))
    assert losses == others and all(torch.equal(value, theirs[name]) for name, value in weights.items())
    x, t = inputs()
    check_equal(make_teacher(folder).start(x, t)(), make_teacher(folder, overlap=False)(x, t), rtol=0, atol=0)
    if not torch.cuda.is_available():
        assert side_stream.cache_info().currsize == 0


def test_on_a_cpu_the_teacher_is_done_before_the_student_begins(folder):
    """Its memory is free again when the student's activations take theirs."""
    model = tiny.distiller(folder, BOTH)
    order = []
    model.teacher.unet.register_forward_hook(lambda *_: order.append('teacher done'))
    model.unet.register_forward_pre_hook(lambda *_: order.append('student begins'))
    tiny.losses(model, tiny.batch(model))
    assert order == ['teacher done', 'student begins']


def test_asked_twice_each_answer_is_its_own(folder):
    teacher = make_teacher(folder)
    x, t = inputs()
    first, second = teacher.start(x, t), teacher.start(2 * x, t)
    check_equal(second(), teacher(2 * x, t))
    check_equal(first(), teacher(x, t))


def test_a_cache_answers_at_once(folder, tmp_path):
    x, t = inputs()
    expected = make_teacher(folder)(x, t)
    for _ in range(2):  # from the network, then from the disk
        check_equal(make_teacher(folder, cache=str(tmp_path)).start(x, t)(), expected)


@NEEDS_GPU
def test_on_a_gpu_the_forward_is_on_the_side_stream_only(folder):
    x, t = inputs('cuda')
    for overlap in (True, False):
        teacher, streams = make_teacher(folder, 'cuda', overlap=overlap), []
        teacher.unet.register_forward_hook(
            lambda *_, streams=streams: streams.append(torch.cuda.current_stream(x.device)))
        usual = torch.cuda.current_stream(x.device)
        teacher(x, t)
        assert streams == [side_stream(x.device) if overlap else usual]
        assert torch.cuda.current_stream(x.device) == usual


@NEEDS_GPU
@pytest.mark.parametrize('settings', [{}, dict(micro_batch=2)])
def test_on_a_gpu_nothing_is_read_before_it_is_written(folder, settings):
    """Both streams are held up in turn, and what is dropped is overwritten as soon as the allocator lets it be."""
    x, t = inputs('cuda')
    expected = make_teacher(folder, 'cuda', overlap=False, **settings)(x, t)
    teacher = make_teacher(folder, 'cuda', **settings)
    for _ in range(3):
        torch.cuda._sleep(LONG)
        late = x.clone()  # written when the usual stream has slept
        start = teacher.start(late, t)
        del late
        torch.full_like(x, float('nan'))
        prediction, features = start()
        check_equal((prediction.clone(), {k: v.clone() for k, v in features.items()}), expected, **CLOSE)
    hook = teacher.unet.register_forward_pre_hook(lambda *_: torch.cuda._sleep(LONG))
    for _ in range(3):
        prediction, features = teacher.start(x, t)()
        copies = prediction.clone(), {k: v.clone() for k, v in features.items()}
        del prediction, features
        with torch.cuda.stream(side_stream(x.device)):
            torch.full_like(x, float('nan'))
        check_equal(copies, expected, **CLOSE)
    hook.remove()


@NEEDS_GPU
def test_on_a_gpu_students_learn_the_same(folder):
    (losses, weights), (others, theirs) = (train(folder, 'cuda', overlap=overlap) for overlap in (True, False))
    for mine, other in zip(losses, others, strict=True):
        assert mine == pytest.approx(other, rel=1e-4)
    for name, value in weights.items():
        torch.testing.assert_close(value, theirs[name], **CLOSE)
