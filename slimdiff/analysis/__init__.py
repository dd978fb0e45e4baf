"""The papers' figures as functions."""

from slimdiff.analysis.blur import SIGMA2, BlurredWiener, blur_sensitivity, gaussian_blur

__all__ = ['SIGMA2', 'BlurredWiener', 'blur_sensitivity', 'gaussian_blur']
