# DiT-XL/2 at 256 px (Peebles and Xie, ICCV 2023): 675 M parameters, 118.6 G MACs with attention. Its weights:
# slimdiff convert DiT-XL-2-256x256.pt --config configs/dit/imagenet.py --out checkpoints/dit-xl-2
# The network predicts eps alone: the learned variance of the published one is left out.
_base_ = [
    '../_base_/models/latents_kl_f8.py',
    '../_base_/datasets/imagenet_256.py',
    '../_base_/schedules/dit.py',
    '../_base_/default_runtime.py',
]

model = dict(
    num_classes=1000,
    class_dropout=0.1,
    # Section 4: the linear schedule of ADM in 1,000 steps, 250 of DDPM; guidance of table 2.
    noise_scheduler=dict(beta_schedule='linear', beta_start=1e-4, beta_end=0.02),
    sampler=dict(_delete_=True, type='DPMSolverMultistepScheduler'),
    num_steps=50,
    guidance_scale=1.5,
    unet=dict(
        _delete_=True,
        type='DiT',
        sample_size=32,
        in_channels=4,
        out_channels=4,
        patch_size=2,
        num_attention_heads=16,
        attention_head_dim=72,
        layers=(28, )))
