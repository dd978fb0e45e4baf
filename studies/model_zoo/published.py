"""What the papers print, and what the families of configs are."""

from __future__ import annotations

from dataclasses import dataclass

LDM_PAPER = ('High-Resolution Image Synthesis with Latent Diffusion Models', 'https://arxiv.org/abs/2112.10752')
SD_PAPER = ('Diffusion Probabilistic Model Made Slim', 'https://arxiv.org/abs/2211.17106')
DIT_PAPER = ('Scalable Diffusion Models with Transformers', 'https://arxiv.org/abs/2212.09748')
DDSM_PAPER = ('Denoising Diffusion Step-aware Models', 'https://arxiv.org/abs/2310.03337')


@dataclass(frozen=True)
class Family:
    """A folder of configs.

    Args:
        folder: below ``configs/``.
        name: of the collection.
        title: of its page.
        paper: title and address.
        architecture: its building blocks.
        text: what it is, in Markdown.
    """

    folder: str
    name: str
    title: str
    paper: tuple[str, str]
    architecture: tuple[str, ...]
    text: str


FAMILIES = (
    Family('ldm', 'LDM', 'LDM: the teachers', LDM_PAPER,
           ('UNet', 'Residual blocks', 'Self-attention', 'Cross-attention'), '''\
The large networks that students learn from. Those of 256x256 images are the UNets of latent diffusion (Rombach et al.,
CVPR 2022) in the layout of its code, so that its checkpoints load key by key: `slimdiff convert` brings them in
(`docs/en/user_guides/bring_your_checkpoint.md`). slimdiff ships none of these weights.

`photo_patches.py`, `photo_patches_16px.py` and `fashion_mnist.py` are small teachers of 32x32 and 16x16 crops of
photographs and of clothes, whose weights are in this repository (`configs/ldm/*_weights`).'''),
    Family('lite_ldm', 'Lite LDM', 'Lite LDM: plain small UNets', SD_PAPER,
           ('UNet', 'Residual blocks', 'Self-attention', 'Cross-attention'), '''\
The baseline of the Spectral Diffusion paper: a UNet in the layout of its teacher with about a third of the channels,
its ordinary resamplers, and no distillation. Each has the channels of the `_ldm-layout` student of the same data set in
`configs/sd/`.'''),
    Family('sd', 'Spectral Diffusion', 'SD: Spectral Diffusion', SD_PAPER,
           ('UNet', 'Wavelet gating', 'Spectrum-aware distillation', 'Self-attention', 'Cross-attention'), '''\
Students of Yang et al. (CVPR 2023): wavelet-gated down- and up-sampling, trained with spatial and spectrum-aware
distillation from a network of `configs/ldm/`. Of the papers' data sets there are two readings:

* `<data set>.py` is the table of the supplement (Tables 4-7), literally. Its counts are not those of the paper;
* `<data set>_ldm-layout.py` is the layout of the teacher with fewer channels. Its counts are those that the paper
  prints, where it prints any.

`fashion_mnist*` and `photo_patches*` are students small enough to train on two CPU cores, and their ablations.'''),
    Family('ddsm', 'DDSM', 'DDSM: step-aware models', DDSM_PAPER,
           ('UNet', 'Slimmable network', 'Residual blocks', 'Self-attention'), '''\
Slimmable networks of several widths, which a search (`slimdiff search`) gives to the denoising steps. Counts are those
of the full width. The paper prints FLOPs, twice the MACs, of which half is given here; its FIDs are of its full network
and of its step-aware one, which has 3.1 G MACs a step on average on CIFAR-10, 9.79 on CelebA, 9.7 on ImageNet. The
layers are known of CIFAR-10's network alone: the others are networks of about the same size from the literature.'''),
    Family('sd_ddsm', 'SD + DDSM', 'SD + DDSM: both slimmings', DDSM_PAPER,
           ('UNet', 'Slimmable network', 'Wavelet gating', 'Spectrum-aware distillation'), '''\
Wavelet-gated networks of several widths, distilled from a network of `configs/ldm/` or started from one. No paper has
trained these.'''),
    Family('dit', 'DiT', 'DiT and SiT: transformers', DIT_PAPER, ('Diffusion transformer', 'adaLN-Zero'), '''\
Plain diffusion transformers, by noise prediction (DiT, Peebles and Xie, ICCV 2023) and by flow matching (SiT, Ma et
al., ECCV 2024). `slimdiff convert` brings the published weights in. Counts are those of the paper with attention: it
prints MACs as FLOPs.'''),
    Family('sd_dit', 'SD on tokens', 'SD on tokens: U-shaped transformers', SD_PAPER,
           ('Diffusion transformer', 'Wavelet gating', 'Spectrum-aware distillation'), '''\
U-shaped transformers whose tokens are merged and split by wavelet-gated resamplers, with and without a teacher. No
paper has trained these.'''),
    Family('ddsm_dit', 'Step-aware transformers', 'Step-aware transformers', DDSM_PAPER,
           ('Diffusion transformer', 'Slimmable network'), '''\
Transformers of several widths and depths, which a search (`slimdiff search`) gives to the denoising steps. No paper has
trained these.'''),
)


@dataclass(frozen=True)
class Published:
    """Numbers of a paper, as it prints them; None where it (or we) have none."""

    params: str | None = None
    macs: str | None = None
    fid: str | None = None


_LDM4, _SD4 = ('274.1 M', '96.1 G'), ('21.1 M', '6.7 G')
#: config below ``configs/`` -> what the papers print of it; FIDs are of 50,000 images, and targets here.
PUBLISHED = {
    'ldm/ffhq': Published(*_LDM4),
    'ldm/celebahq': Published(*_LDM4),
    'ldm/lsun_bedroom': Published(*_LDM4),
    'ldm/lsun_church': Published('295.0 M', '18.7 G'),
    'ldm/imagenet': Published('400.9 M', '99.8 G'),
    'sd/ffhq': Published(*_SD4, fid='10.5'),
    'sd/celebahq': Published(*_SD4),
    'sd/lsun_bedroom': Published(*_SD4, fid='5.2'),
    'sd/lsun_church': Published(fid='8.4'),
    'sd/imagenet': Published('45.4 M', '9.9 G', fid='10.6 (guidance 3)'),
}
PUBLISHED |= {
    'dit/imagenet': Published('675 M', '118.64 G', '2.27'),
    'dit/imagenet_flow': Published('675 M', '118.6 G', '2.06'),
    'ddsm/cifar10': Published(macs='6.07 G', fid='3.71; 3.55'),
    'ddsm/cifar10_nsga2': Published(macs='6.07 G', fid='3.71; 3.55'),
    'ddsm/celebahq': Published(macs='24.94 G', fid='6.76; 6.04'),
    'ddsm/imagenet': Published(macs='41.03 G', fid='27.0; 24.7'),
}
PUBLISHED |= {f'{name}_ldm-layout': row for name, row in PUBLISHED.items() if name.startswith('sd/')}

#: how config names begin -> training data
TRAINING_DATA = {
    'ffhq': 'FFHQ',
    'celebahq': 'CelebA-HQ',
    'lsun_bedroom': 'LSUN-Bedroom',
    'lsun_church': 'LSUN-Church',
    'imagenet': 'ImageNet',
    'laion': 'LAION',
    'txt2img': 'LAION',
    'cifar10': 'CIFAR-10',
    'afhq': 'AFHQ',
    'photo_patches': 'PhotoPatches',
    'fashion_mnist': 'Fashion-MNIST',
}


def training_data(name: str) -> str:
    """Of a config by its file name.

    Raises:
        ValueError: nobody said what this name trains on.
    """
    found = [data for start, data in TRAINING_DATA.items() if name.startswith(start)]
    if not found:
        raise ValueError(f"The model zoo doesn't know what {name}.py trains on: its name begins with none of "
                         f'{", ".join(TRAINING_DATA)}. Add it to TRAINING_DATA of {__name__}.')
    return found[0]
