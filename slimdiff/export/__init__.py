"""Models out: a pipeline for diffusers, ``torch.export`` and ONNX programs, files to publish.

Nothing is imported here: ``import slimdiff`` passes through, and must stay free of torch.
"""
