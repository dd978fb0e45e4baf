"""Networks that nobody here trained, made by diffusers' own classes: used for what they are, or refused by name."""

import shutil

import pytest
import tiny_distiller as tiny
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, UNet2DConditionModel, UNet2DModel
from first_stages import tiny_kl, tiny_vq
from safetensors.torch import load_file, save_file

from slimdiff.models import DiffusionModel
from slimdiff.models.distillation import Teacher
from slimdiff.models.distillation.loading import load_teacher

CROSSED = dict(sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, cross_attention_dim=6,
               attention_head_dim=4, down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'),
               up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'))
PLAIN = dict(sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
             down_block_types=('DownBlock2D', ) * 2, up_block_types=('UpBlock2D', ) * 2)


@pytest.mark.parametrize('kind, changes, message', [
    (UNet2DConditionModel, CROSSED | dict(addition_embed_type='text_time', addition_time_embed_dim=4,
                                          projection_class_embeddings_input_dim=30),
     r"conditions besides the context, as those of SDXL \(addition_embed_type='text_time'\)"),
    (UNet2DConditionModel, CROSSED | dict(time_cond_proj_dim=8),
     r'an embedding of the guidance scale, .* \(time_cond_proj_dim=8\)'),
    (UNet2DConditionModel, CROSSED | dict(class_embed_type='timestep'), r"class_embed_type='timestep'"),
    (UNet2DConditionModel, CROSSED | dict(encoder_hid_dim=5, encoder_hid_dim_type='text_proj'),
     "encoder_hid_dim_type='text_proj'"),
    (UNet2DConditionModel, CROSSED | dict(down_block_types=('DownBlock2D', ) * 2, up_block_types=('UpBlock2D', ) * 2,
                                          mid_block_type='UNetMidBlock2D'),
     r'a UNet2DConditionModel without cross-attention \(DownBlock2D, DownBlock2D, UNetMidBlock2D'),
    (UNet2DModel, PLAIN | dict(class_embed_type='identity'), "class_embed_type='identity'"),
    (UNet2DModel, PLAIN | dict(time_embedding_type='fourier'), "the noise level .*time_embedding_type='fourier'"),
])
def test_features_that_no_student_serves(kind, changes, message, tmp_path):
    kind(**changes).save_pretrained(tmp_path / 'unet')
    DDPMScheduler().save_pretrained(tmp_path / 'scheduler')
    with pytest.raises(ValueError, match=message) as caught:
        load_teacher(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_another_process(tmp_path):
    UNet2DModel(**PLAIN).save_pretrained(tmp_path / 'unet')
    EDMEulerScheduler().save_pretrained(tmp_path / 'scheduler')
    with pytest.raises(ValueError, match="its scheduler is a 'EDMEulerScheduler'"):
        load_teacher(str(tmp_path))


@torch.no_grad()
@pytest.mark.parametrize('sharded', [False, True])
def test_a_variant_alone(tmp_path, sharded):
    """A folder with half-precision files only: the network of those values, in float32."""
    network = tiny.shake(UNet2DModel(**PLAIN)).half()
    network.save_pretrained(tmp_path, variant='fp16', max_shard_size='20KB' if sharded else '10GB')
    assert not (tmp_path / 'diffusion_pytorch_model.safetensors').exists()
    assert (tmp_path / 'diffusion_pytorch_model.fp16.safetensors').exists() != sharded
    teacher = Teacher(str(tmp_path))
    assert {p.dtype for p in teacher.unet.parameters()} == {torch.float32}
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3, 800])
    torch.testing.assert_close(teacher(x, t)[0], network.float().eval()(x, t).sample)
    if not sharded:
        file = tmp_path / 'diffusion_pytorch_model.fp16.safetensors'
        shutil.copy(file, tmp_path / 'diffusion_pytorch_model.non_ema.safetensors')
        with pytest.raises(ValueError, match='in several variants, fp16, non_ema, and none without one'):
            load_teacher(str(tmp_path))


@pytest.mark.parametrize('size, fits', [((8, 8), True), (8, True), ((8, 12), False), ((12, 8), False), (16, False)])
def test_sizes_are_compared_as_pairs(tmp_path, size, fits):
    UNet2DModel(**PLAIN | dict(sample_size=size)).save_pretrained(tmp_path)
    teacher, student = Teacher(str(tmp_path)), tiny.teacher_model()
    if fits:
        teacher.check_fits(student)
    else:
        with pytest.raises(ValueError, match='differ in image size'):
            teacher.check_fits(student)


def test_of_a_network_that_predicts_variances_the_prediction_is_taught(tmp_path):
    """Its first half of channels, as samplers of diffusers take it; other numbers of channels are refused."""
    network = UNet2DModel(**PLAIN | dict(out_channels=6)).eval()
    network.save_pretrained(tmp_path / 'variance')
    teacher = Teacher(str(tmp_path / 'variance'))
    teacher.check_fits(tiny.teacher_model())
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([5, 700])
    with torch.no_grad():
        torch.testing.assert_close(teacher(x, t)[0], network(x, t).sample[:, :3])
    UNet2DModel(**PLAIN | dict(out_channels=4)).save_pretrained(tmp_path / 'other')
    with pytest.raises(ValueError, match='differ in channels of the output: teacher 4, student 3'):
        Teacher(str(tmp_path / 'other')).check_fits(tiny.teacher_model())


# ---- its first stage ------------------------------------------------------------------------------------------------


@pytest.fixture
def latent(tmp_path):
    """A teacher's pipeline with a first stage, and ``student(folder, ...)`` of a first stage in ``folder``."""
    unet = dict(in_channels=4, out_channels=4)
    model = tiny.teacher_model(unet_changes=unet)
    tiny.save_pipeline(model, tmp_path / 'teacher')
    tiny_kl(tmp_path / 'teacher/vae', scaling_factor=0.18215)

    def student(folder, kind='KLAutoencoder', latent_scale=0.18215):
        return DiffusionModel(unet=tiny.unet(8, **unet), noise_scheduler=tiny.NOISE, autoencoder=dict(
            type=kind, checkpoint=str(folder), latent_scale=latent_scale))

    return tmp_path, student


def check(path, student):
    Teacher(str(path / 'teacher')).check_fits(student)


def test_the_same_first_stage_in_other_files(latent):
    path, student = latent
    check(path, student(path / 'teacher'))
    check(path, student(path / 'nowhere'))  # not on this machine: not known
    tiny_kl().half().save_pretrained(path / 'half', variant='fp16')
    check(path, student(path / 'half'))
    # Another decoder of the same latents, as Stable Diffusion's fine-tuned ones.
    shutil.copytree(path / 'teacher/vae', path / 'tuned')
    file = path / 'tuned/diffusion_pytorch_model.safetensors'
    save_file({k: v + k.startswith('decoder.') for k, v in load_file(file).items()}, file, metadata={'format': 'pt'})
    check(path, student(path / 'tuned'))


def test_another_first_stage(latent):
    path, student = latent
    with pytest.raises(ValueError, match=r'differ in first stage \(scale\): teacher 0.18215, student 0.13025'):
        check(path, student(path / 'teacher', latent_scale=0.13025))
    tiny_kl(path / 'other', seed=1)
    with pytest.raises(ValueError, match=r'differ in first stage \(encoder\)'):
        check(path, student(path / 'other'))
    tiny_kl(path / 'shifted', shift_factor=0.1)
    with pytest.raises(ValueError, match=r'differ in first stage \(mean\): teacher \[0.0\], student \[0.1'):
        check(path, student(path / 'shifted'))
    tiny_vq(path / 'vq', latent_channels=4, vq_embed_dim=4)
    with pytest.raises(ValueError, match=r'differ in first stage \(class\): teacher AutoencoderKL, student VQModel'):
        check(path, student(path / 'vq', 'VQAutoencoder'))
    pixels = DiffusionModel(unet=tiny.unet(8, in_channels=4, out_channels=4), noise_scheduler=tiny.NOISE)
    with pytest.raises(ValueError, match='differ in first stage .*student None'):
        check(path, pixels)
