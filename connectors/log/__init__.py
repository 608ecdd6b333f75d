"""The change log's two homes, Kafka and a directory, behind `connectors.interfaces.ChangeLog`."""

from connectors.log.open import open_log

__all__ = ["open_log"]
