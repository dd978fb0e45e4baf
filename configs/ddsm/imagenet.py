# A step-aware model on ImageNet at 64x64 with classes, after DDSM (Yang et al., ICLR 2024). The paper gives
# 82.06 GFLOPs and no layers; this is the 64x64 network of improved DDPM (Nichol and Dhariwal 2021), with 78.7.
_base_ = [
    '../_base_/models/ddsm.py',
    '../_base_/datasets/imagenet_256.py',
    '../_base_/schedules/ddsm.py',
    '../_base_/search/two_stage.py',
    '../_base_/default_runtime.py',
]

model = dict(
    num_classes=1000,
    unet=dict(
        sample_size=64,
        scale_shift_norm=True,
        stages=[
            dict(channels=128, blocks=3, up_blocks=4),
            dict(channels=256, blocks=3, up_blocks=4),
            dict(channels=384, blocks=3, up_blocks=4, heads=4),
            dict(channels=512, blocks=3, up_blocks=4, downsample=False, heads=4),
        ],
        mid_heads=4),
    # Cosine, as in improved DDPM.
    noise_scheduler=dict(beta_schedule='squaredcos_cap_v2'))

train_dataloader = dict(batch_size=256, dataset=dict(image_size=64))
val_dataloader = dict(dataset=dict(image_size=64))
test_dataloader = dict(dataset=dict(image_size=64))
