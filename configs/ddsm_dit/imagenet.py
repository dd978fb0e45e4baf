# A step-aware DiT-XL/2: it starts from the published network, with heads, hidden channels and blocks ordered by
# importance. No paper has trained it.
_base_ = ['../dit/imagenet.py', '../_base_/search/two_stage.py']

model = dict(
    type='SlimmableDiffusion',
    num_random=1,  # besides the widest and the narrowest, as DDSM
    start_from='checkpoints/dit-xl-2',
    unet=dict(type='SlimmableDiT', widths=(0.25, 0.5, 0.75, 1.0), depths=(0.5, 0.75, 1.0)))
