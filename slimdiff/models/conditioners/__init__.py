"""Text conditions: captions to the context that cross-attention reads."""

from slimdiff.models.conditioners.build import build_conditioner
from slimdiff.models.conditioners.clip_text import CLIPText
from slimdiff.models.conditioners.ldm_bert_text import LDMBertText
from slimdiff.models.conditioners.random_text import RandomText
from slimdiff.models.conditioners.text import PretrainedText, TextConditioner

__all__ = ['CLIPText', 'LDMBertText', 'PretrainedText', 'RandomText', 'TextConditioner', 'build_conditioner']
