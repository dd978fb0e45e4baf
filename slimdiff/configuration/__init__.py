"""Configs: where they lie, how they are overridden, and a check of every name in them before anything is built."""

from slimdiff.configuration.check import check_config
from slimdiff.configuration.errors import ConfigError
from slimdiff.configuration.load import find_config, load_config
from slimdiff.configuration.overrides import apply_overrides
from slimdiff.configuration.source import config_source

__all__ = ['ConfigError', 'apply_overrides', 'check_config', 'config_source', 'find_config', 'load_config']
