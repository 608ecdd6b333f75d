"""What kafka-python's errors mean, and where it says why a connection failed.

kafka-python retries connections by itself and tells only its logger why one failed. That logger is
quiet here; its last complaint goes into the message of the error that is raised in the end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from kafka import errors

from schemas.errors import (
    ConfigError,
    HistoryBroken,
    KeepstreamError,
    LoginRefused,
    OperatorNeeded,
    RetryLater,
)

_LOGIN_REFUSED = (errors.SaslAuthenticationFailedError, errors.UnsupportedSaslMechanismError)
_COMPLAINT_S = 60.0
_CERTIFICATE = ("CERTIFICATE_VERIFY_FAILED", "certificate verify failed", "Hostname mismatch")


class _LastComplaint(logging.Handler):
    """Keeps what the connection manager said last."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._text = ""
        self._said_at = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        for argument in record.args if isinstance(record.args, tuple) else ():
            if isinstance(argument, Exception):
                self._text, self._said_at = str(argument), time.monotonic()

    @property
    def text(self) -> str:
        """Empty unless it was said lately."""
        return self._text if time.monotonic() - self._said_at < _COMPLAINT_S else ""


_complaint = _LastComplaint()


def quieten() -> None:
    """Send kafka-python's connection complaints to us instead of to stderr. Idempotent."""
    root = logging.getLogger("kafka")
    if root.level == logging.NOTSET:
        root.setLevel(logging.CRITICAL)
    connections = logging.getLogger("kafka.net.manager")
    if _complaint not in connections.handlers:
        connections.addHandler(_complaint)
        connections.setLevel(logging.WARNING)
        connections.propagate = False


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Raise our errors for kafka-python's. `where`: servers and topic, for the message."""
    try:
        yield
    except errors.KafkaError as error:
        raise kafka_error(error, where) from error


def kafka_error(error: Exception, where: str) -> KeepstreamError:
    """The deliberate error for one of kafka-python's."""
    if isinstance(error, _LOGIN_REFUSED) or any(word in _complaint.text for word in _CERTIFICATE):
        return _login_refused(error, where)
    if isinstance(error, errors.AuthorizationError):
        return OperatorNeeded(
            f"{where}: the Kafka user is not allowed to do this: {_name(error)}",
            code="log-authorization",
            hint="Allow it Create, Describe, Read, Write, Delete, DescribeConfigs on the topics"
            " and IdempotentWrite on the cluster: `kafka-acls.sh --add --allow-principal User:NAME …`.",
        )
    if isinstance(error, (errors.UnknownTopicOrPartitionError, errors.UnknownTopicIdError)):
        return log_missing(where)
    if isinstance(error, (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)):
        return OperatorNeeded(
            f"{where}: the broker takes no record of that size",
            code="log-record-too-large",
            hint="Raise the topic's max.message.bytes; `keepstream check` prints the command.",
        )
    if isinstance(error, errors.KafkaConfigurationError):
        return ConfigError(
            f"log.client cannot be used: {error}",
            code="kafka-setting-invalid",
            hint="Correct the settings that it names.",
        )
    if isinstance(error, errors.PolicyViolationError):
        return OperatorNeeded(
            f"{where}: refused by the cluster's policy: {error}",
            code="log-policy",
            hint="Ask whoever runs the cluster, or make the topic by hand as `keepstream check` says.",
        )
    return _unreachable(error, where)


def log_missing(where: str) -> HistoryBroken:
    """The topic is not there."""
    return HistoryBroken(
        f"{where} does not exist",
        code="log-missing",
        hint="Bring the topic back. `keepstream run` makes a new one only for a source that has none yet.",
    )


def _login_refused(error: Exception, where: str) -> LoginRefused:
    reason = str(error) if isinstance(error, _LOGIN_REFUSED) else _complaint.text
    return LoginRefused(
        f"{where} does not let us in: {reason}",
        code="log-authentication",
        hint="Check log.client: security.protocol, sasl.mechanism, sasl.username, sasl.password,"
        " ssl.ca.location.",
    )


def _unreachable(error: Exception, where: str) -> RetryLater:
    why = f" ({_complaint.text})" if _complaint.text else ""
    return RetryLater(
        f"{where} cannot be used now: {_name(error)}{why}",
        code="log-unreachable",
        hint="Check that the brokers run and can be reached from here: host, port, listeners, firewall.",
    )


def _name(error: Exception) -> str:
    text = str(error)
    return (
        f"{type(error).__name__}: {text}" if text and text != type(error).__name__ else type(error).__name__
    )
