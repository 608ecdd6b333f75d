"""keepstream.yaml: its model, and how it is read, expanded and validated."""

from pipeline.config.loading import DEFAULT_PATH, faults_of, load_config, parse_config, readable_by_others
from pipeline.config.model import Config, Initial, Keyless, Log, Partitions, Replica, Source, Tables, Tools
from pipeline.config.values import ConnectionString, Secret, TablePattern

__all__ = [
    "DEFAULT_PATH",
    "Config",
    "ConnectionString",
    "Initial",
    "Keyless",
    "Log",
    "Partitions",
    "Replica",
    "Secret",
    "Source",
    "TablePattern",
    "Tables",
    "Tools",
    "faults_of",
    "load_config",
    "parse_config",
    "readable_by_others",
]
