"""ClassAccuracy: whether conditional samples show what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from slimdiff.evaluation.classifier import load_classifier
from slimdiff.evaluation.metrics.base import Rows
from slimdiff.evaluation.metrics.frechet import FeatureMetric
from slimdiff.registry import METRICS


@METRICS.register_module()
class ClassAccuracy(FeatureMetric):
    """Share of the generated images that a classifier of real images puts into the class that was asked for.

    Ravuri and Vinyals' classification accuracy score (2019) the other way round. It says whether samples are
    recognised, not whether they are sharp or various: guidance can push it beyond that of real images.

    Figures: ``class_accuracy`` of the generated images and ``class_accuracy/real`` of the real ones, each from 0 to 1.
    Generated images are of all classes in turn.

    Args:
        classifier: file of ``slimdiff train_classifier``; one of those in ``configs/classifiers`` is found from any
            folder. Its classes are matched by name with those of the data set, which may have fewer of them.
        prefix: of the names of the figures.

    Raises:
        ValueError: no such file, images of another size, or classes that the classifier does not know.
    """

    minimum = 1
    labelled = True

    def __init__(self, classifier: str, prefix: str = 'class_accuracy') -> None:
        network, self.info = load_classifier(classifier)
        super().__init__(network)
        self.classifier, self.prefix = classifier, prefix
        self._position = torch.arange(len(network.classes))  # of the data set's labels among the scores

    def check_data(self, metainfo: Mapping[str, Any]) -> None:
        known, names = self.extractor.classes, metainfo.get('classes')
        unknown = sorted(set(names or ()) - set(known))
        if not names or unknown:
            what = f'has classes that it does not know: {", ".join(unknown)}' if names else 'does not name its classes'
            raise ValueError(f"ClassAccuracy: classifier='{self.classifier}' tells {', '.join(known)} apart; the data "
                             f'set {metainfo.get("dataset", "")} {what}. Train one on it: slimdiff train_classifier.')
        self._position = torch.tensor([known.index(name) for name in names])

    def statistics(self, images: Tensor) -> Rows:
        self.extractor.to(images.device)
        return dict(predicted=self.extractor(images).argmax(1))

    def accuracy(self, rows: Rows) -> float:
        labels = rows['labels'].long()
        if labels.max() >= len(self._position):
            raise ValueError(f'ClassAccuracy: images of label {labels.max()} were made, but the data set names '
                             f'{len(self._position)} classes. Set model.num_classes to that.')
        return (rows['predicted'] == self._position[labels]).double().mean().item()

    def distance(self, real: Rows, generated: Rows) -> dict[str, float]:
        return {self.prefix: self.accuracy(generated), f'{self.prefix}/real': self.accuracy(real)}
