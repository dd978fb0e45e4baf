# Both slimmings at once on Fashion-MNIST: from a teacher of 302 M MACs to a wavelet-gated network of 29 M that runs at
# three widths, each of them distilled; a search then halves the MACs of an image once more.
#   python tools/train.py configs/sd_ddsm/fashion_mnist.py
_base_ = [
    '../_base_/models/output_losses.py',
    '../_base_/models/fashion_mnist.py',
    '../_base_/datasets/fashion_mnist.py',
    '../_base_/schedules/fashion_mnist.py',
    '../_base_/search/two_stage.py',
    '../_base_/runtime_32px.py',
]

model = dict(
    type='SlimmableDistiller',
    num_random=1,  # all three widths run in every iteration
    start_from='configs/ldm/fashion_mnist_weights',
    # About a quarter of each batch: the teacher would take longer than all three widths.
    teacher=dict(checkpoint='configs/ldm/fashion_mnist_weights', bf16=True, share=0.25),
    losses=_base_.output_losses,
    unet=dict(
        type='SlimmableUNet',
        widths=(0.5, 0.75, 1.0),
        # A quarter less must leave whole groups of four bands: multiples of 16 below the first stage.
        stages=[
            dict(channels=8, blocks=1, up_blocks=2),
            dict(channels=16, blocks=1, up_blocks=2),
            dict(channels=48, blocks=1, up_blocks=2, downsample=False, heads=4),
        ],
        downsampler=dict(type='WaveletGatedDown'),
        upsampler=dict(type='WaveletGatedUp')))
