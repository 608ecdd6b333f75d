"""The change log's two homes, Kafka and a directory, behind `connectors.interfaces.ChangeLog`."""
