# SiT-XL/2 at 256 px (Ma et al., ECCV 2024): DiT-XL/2 trained by flow matching, with time from 0 to 1. Its weights:
# slimdiff convert SiT-XL-2-256x256.pt --config configs/dit/imagenet_flow.py --out checkpoints/sit-xl-2
_base_ = './imagenet.py'

model = dict(
    noise_scheduler=dict(_delete_=True, type='FlowMatchEulerDiscreteScheduler'),
    sampler=dict(type='FlowMatchHeunDiscreteScheduler'),
    unet=dict(time_scale=0.001))
