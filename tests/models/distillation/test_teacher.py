import itertools

import pytest
import tiny_distiller as tiny
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel, UNet2DModel

from slimdiff.functional.process import VariancePreserving
from slimdiff.models.distillation import Teacher


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tiny.save_pipeline(tiny.teacher_model(), tmp_path_factory.mktemp('teacher'))


@pytest.fixture
def fast_bf16(monkeypatch):
    """As on a machine with bfloat16 products; without them a teacher stays in float32."""
    monkeypatch.setattr('slimdiff.models.distillation.teacher.has_bf16_products', lambda device: True)


def inputs(count=5):
    return torch.randn(count, 3, 8, 8), torch.arange(count) * 200


def check(teacher, student=None, **changes):
    """check_fits against a student whose settings are changed."""
    teacher.check_fits(student or tiny.teacher_model(**changes))


def test_prediction_and_features_are_the_networks(folder):
    teacher = Teacher(folder)
    assert teacher.record(['output', 'up1', 'mid']) == {'up1': 'up1', 'mid': 'mid'}
    x, t = inputs()
    prediction, features = teacher(x, t)
    network = tiny.teacher_model().unet
    seen = {}
    for name in ('up1', 'mid'):
        network.get_submodule(name).register_forward_hook(lambda m, a, out, name=name: seen.update({name: out}))
    torch.testing.assert_close(prediction, network(x, t).sample)
    assert features.keys() == seen.keys()
    for name, value in seen.items():
        torch.testing.assert_close(features[name], value)
    assert not prediction.requires_grad and not any(f.requires_grad for f in features.values())


def test_frozen_and_in_evaluation_mode(folder):
    unet = Teacher(folder).unet
    assert not unet.training and not any(p.requires_grad for p in unet.parameters())


@pytest.mark.parametrize('micro_batch', [1, 2, 5, 7])
def test_micro_batches_give_the_same(folder, micro_batch):
    whole, parts = Teacher(folder), Teacher(folder, micro_batch=micro_batch)
    sizes = []
    parts.unet.stem.register_forward_hook(lambda m, a, out: sizes.append(len(out)))
    for teacher in (whole, parts):
        teacher.record(['up1', 'mid'])
    x, t = inputs()
    (a, features_a), (b, features_b) = whole(x, t), parts(x, t)
    torch.testing.assert_close(a, b)
    for name in features_a:
        torch.testing.assert_close(features_a[name], features_b[name])
    assert sum(sizes) == 5 and max(sizes) <= micro_batch


def test_micro_batch_below_one(folder):
    with pytest.raises(ValueError, match=r'micro_batch must be at least 1 \(or None\), got 0'):
        Teacher(folder, micro_batch=0)


@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('sigma_data', [0.5, None])
def test_bf16_is_close_and_half_the_memory(tmp_path, fast_bf16, autocast, sigma_data):
    folder = tiny.save_pipeline(tiny.teacher_model(sigma_data=sigma_data), tmp_path)
    exact, half = Teacher(folder), Teacher(folder, bf16=True)
    for teacher in (exact, half):
        teacher.record(['up1'])
    assert {p.dtype for p in half.unet.parameters()} == {torch.bfloat16}
    x, t = inputs()
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        b, features_b = half(x, t)
    a, features_a = exact(x, t)
    assert b.dtype == torch.float32
    for u, v in ((a, b), (features_a['up1'], features_b['up1'].float())):
        assert 0 < (u - v).norm() / u.norm() < 0.02


def test_a_new_record_replaces_the_old_one(folder):
    teacher = Teacher(folder)
    teacher.record(['up1'])
    teacher.record(['mid'])
    assert teacher(*inputs())[1].keys() == {'mid'}
    with pytest.raises(ValueError, match="The teacher has no tap 'mit'. Did you mean 'mid'"):
        teacher.record(['mit'])


@pytest.mark.parametrize('mine, students', itertools.product(VariancePreserving.prediction_types, repeat=2))
def test_predictions_of_every_type_are_converted(tmp_path, mine, students):
    """Three networks of the same denoiser, one for each type: converted, they agree."""
    x, t = torch.randn(3, 3, 8, 8), torch.tensor([50, 300, 600])
    teacher = Teacher(tiny.save_pipeline(tiny.teacher_model(mine), tmp_path / mine))
    assert teacher.prediction_type == mine
    other = tiny.teacher_model(students)
    check(teacher, other)
    converted = teacher.convert(teacher(x, t)[0], x, t, other)
    torch.testing.assert_close(converted, other.unet(x, t).sample, rtol=1e-3, atol=1e-4)


def test_it_moves_and_keeps_its_precision(folder, fast_bf16):
    teacher = Teacher(folder, bf16=True)
    teacher.to(torch.device('cpu'))
    assert {p.dtype for p in teacher.unet.parameters()} == {torch.bfloat16}
    teacher.to(torch.device('meta'))
    assert teacher.device.type == 'meta'


def test_bf16_is_for_devices_that_have_it(folder, monkeypatch):
    monkeypatch.setattr('slimdiff.models.distillation.teacher.has_bf16_products', lambda device: device.type == 'meta')
    exact, teacher = Teacher(folder), Teacher(folder, bf16=True)
    x, t = inputs()
    torch.testing.assert_close(teacher(x, t)[0], exact(x, t)[0], rtol=0, atol=0)
    teacher.to(torch.device('meta'))
    assert {p.dtype for p in teacher.unet.parameters()} == {torch.bfloat16} and teacher.bf16


# ---- networks of diffusers ------------------------------------------------------------------------------------------


def their_unet(**changes):
    return tiny.shake(UNet2DModel(
        sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
        down_block_types=('DownBlock2D', ) * 2, up_block_types=('UpBlock2D', ) * 2, **changes)).eval()


@pytest.mark.parametrize('classes', [None, 4])
@pytest.mark.parametrize('bf16', [False, True])
def test_unet2d(tmp_path, fast_bf16, classes, bf16):
    changes = {} if classes is None else dict(class_embed_type=None, num_class_embeds=classes)
    network = their_unet(**changes)
    network.save_pretrained(tmp_path)
    teacher = Teacher(str(tmp_path), bf16=bf16)
    assert teacher.num_classes == classes and teacher.class_rows == (classes or 0)
    teacher.record(['up1'])
    x, t = inputs(3)
    labels = None if classes is None else torch.tensor([0, 3, 1])
    prediction, features = teacher(x, t, labels)
    expected = network(x, t, class_labels=labels).sample
    assert prediction.dtype == torch.float32 and features['up1'].shape == (3, 8, 8, 8)
    assert (prediction - expected).norm() / expected.norm() < (0.03 if bf16 else 1e-5)


@pytest.mark.parametrize('bf16', [False, True])
def test_unet2d_condition(tmp_path, fast_bf16, bf16):
    network = tiny.shake(UNet2DConditionModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 16), norm_num_groups=4,
        layers_per_block=1, cross_attention_dim=6, attention_head_dim=4,
        down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'),
        up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'))).eval()
    network.save_pretrained(tmp_path / 'unet')
    DDPMScheduler().save_pretrained(tmp_path / 'scheduler')
    teacher = Teacher(str(tmp_path), bf16=bf16, micro_batch=2)
    assert teacher.context_channels == 6 and teacher.num_classes is None
    teacher.record(['mid', 'up1'])
    x, t = inputs(3)
    context = torch.randn(3, 5, 6)
    prediction, features = teacher(x, t, None, context)
    expected = network(x, t, encoder_hidden_states=context).sample
    assert (prediction - expected).norm() / expected.norm() < (0.03 if bf16 else 1e-5)
    assert features['mid'].shape == (3, 16, 4, 4)
    with pytest.raises(ValueError, match='conditioning: teacher cross-attention to 6 channels, student without cross'):
        check(teacher)


# ---- a teacher that does not fit ------------------------------------------------------------------------------------


def test_a_teacher_that_says_nothing_takes_the_students_schedule(tmp_path):
    tiny.teacher_model(sigma_data=None).unet.save_pretrained(tmp_path)
    teacher = Teacher(str(tmp_path))
    student = tiny.teacher_model('v_prediction')
    check(teacher, student)
    assert teacher.prediction_type == 'v_prediction' and teacher.noise_process is student.noise_process


@pytest.mark.parametrize('changes, message', [
    (dict(unet_changes=dict(size=16)), 'differ in image size: teacher 8, student 16. Train the student at the teach'),
    (dict(unet_changes=dict(in_channels=4)), 'differ in channels of the input: teacher 3, student 4'),
    (dict(noise=dict(beta_schedule='squaredcos_cap_v2')),
     r'differ in noise schedule \(beta_schedule\): teacher linear, student squaredcos_cap_v2\. Give the student'),
    (dict(noise=dict(beta_end=0.03)), r'differ in noise schedule \(beta_end\): teacher 0\.02, student 0\.03'),
    (dict(noise=dict(num_train_timesteps=500)), r'\(num_train_timesteps\): teacher 1000, student 500'),
    (dict(num_classes=4), 'differ in conditioning: teacher unconditional, student conditional on 4 classes'),
    (dict(unet_changes=dict(context_channels=6)),
     'teacher without cross-attention, student cross-attention to 6 channels'),
])
def test_students_of_other_settings(folder, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        check(Teacher(folder), **changes)
    assert folder in str(caught.value)


def test_conditional_teachers(tmp_path):
    teacher = Teacher(tiny.save_pipeline(tiny.teacher_model(num_classes=4), tmp_path))
    assert (teacher.num_classes, teacher.class_rows) == (4, 5)
    check(teacher, num_classes=4)
    with pytest.raises(ValueError, match='teacher conditional on 4 classes, student unconditional. Give the student '
                       'num_classes=4'):
        check(teacher)
    with pytest.raises(ValueError, match=r'differ in classes: teacher 5 \(the null class.*student 6 and the null'):
        check(teacher, num_classes=6)


def test_a_teacher_of_diffusers_without_a_null_class(tmp_path):
    their_unet(num_class_embeds=4).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match='also class_dropout=0'):
        check(Teacher(str(tmp_path)), num_classes=4)
    check(Teacher(str(tmp_path)), num_classes=4, class_dropout=0.)
    check(Teacher(str(tmp_path)), num_classes=3)  # its last row serves as the null class
