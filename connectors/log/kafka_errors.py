"""What kafka-python's errors mean, and where it says why a connection failed.

kafka-python retries connections by itself and tells only its loggers why one failed. They are
quiet here; their last complaint goes into the message of the error that is raised in the end.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from kafka import errors

from schemas.errors import (
    BEGIN_ANEW,
    ConfigError,
    HistoryBroken,
    KeepstreamError,
    LoginRefused,
    OperatorNeeded,
    RetryLater,
)

_LOGIN_REFUSED = (
    errors.SaslAuthenticationFailedError,
    errors.UnsupportedSaslMechanismError,
    errors.IllegalSaslStateError,  # a listener without logins
)
_REACHED = {
    "disconnected": "The broker hung up on us.",
    "Handshake failed": "The broker agreed to no TLS with us.",
    "Invalid frame length": "The broker answers with something else than Kafka's protocol, such as TLS.",
}
_COMPLAINT_S = 5.0
_CHECK_LOGIN = (
    "Check log.client: security.protocol, sasl.mechanism, sasl.username, sasl.password, ssl.ca.location"
)
_TELLTALES = ("kafka.admin", "kafka.net", "kafka.producer", "kafka.consumer", "kafka.protocol")
_COMPLAINING = ("kafka.net.manager", "kafka.cluster")
"""Of a connection that ends before it is ready, and of one that ends when it is first used."""
_CERTIFICATE = ("CERTIFICATE_VERIFY_FAILED", "certificate verify failed", "Hostname mismatch")


class _Complaints(logging.Handler):
    """Keeps what they said lately, and whether a login was refused."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: tuple[str, float] = ("", 0.0)
        self._refused: tuple[str, float] = ("", 0.0)

    def emit(self, record: logging.LogRecord) -> None:
        for argument in record.args if isinstance(record.args, tuple) else ():
            if isinstance(argument, _LOGIN_REFUSED):
                self._refused = (_text(argument), time.monotonic())
            elif _is_cut_off(argument) and self.last(time.monotonic() - _COMPLAINT_S):
                continue  # the last of several tries, cut off by our deadline: the tries before it say more
            elif isinstance(argument, Exception) and not isinstance(argument, errors.KafkaTimeoutError):
                self._said = (_text(argument), time.monotonic())
                if any(word in self._said[0] for word in _CERTIFICATE):
                    self._refused = self._said

    def last(self, since: float) -> str:
        """Why a connection failed; empty unless one did since then."""
        return self._said[0] if self._said[1] >= since else ""

    def refusal(self, since: float) -> str:
        """Why a login was refused; empty unless one was since then. A timeout of ours can have hidden it."""
        return self._refused[0] if self._refused[1] >= since else ""


def _is_cut_off(argument: object) -> bool:
    if isinstance(argument, errors.KafkaConnectionError):
        return "timed out" in str(argument)
    return isinstance(argument, errors.RequestTimedOutError)


_complaints = _Complaints()


def quieten() -> None:
    """Send kafka-python's connection complaints to us instead of to stderr. Idempotent.

    Its clients and its protocol must never log at DEBUG: there they print passwords.
    """
    root = logging.getLogger("kafka")
    if root.level == logging.NOTSET:
        root.setLevel(logging.CRITICAL)
    for telltale in _TELLTALES:
        logger = logging.getLogger(telltale)
        logger.setLevel(max(logging.INFO, root.level))
    for name in _COMPLAINING:
        logger = logging.getLogger(name)
        if _complaints not in logger.handlers:
            logger.addHandler(_complaints)
            logger.setLevel(logging.WARNING)
            logger.propagate = False


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Raise our errors for kafka-python's. `where`: servers and topic, for the message."""
    since = time.monotonic()
    try:
        yield
    except errors.KafkaError as error:
        raise kafka_error(error, where, since=since) from error


def kafka_error(error: Exception, where: str, *, since: float = math.inf) -> KeepstreamError:
    """The deliberate error for one of kafka-python's, which a call that began at `since` met."""
    if isinstance(error, _LOGIN_REFUSED):
        return _login_refused(_text(error), where)
    if isinstance(error, errors.KafkaTimeoutError) and (refusal := _complaints.refusal(since)):
        return _login_refused(refusal, where)
    if isinstance(error, errors.AuthorizationError):
        return OperatorNeeded(
            f"{where}: the Kafka user is not allowed to do this: {_text(error)}",
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
    return _unreachable(error, where, since)


def log_missing(where: str) -> HistoryBroken:
    """The topic is not there."""
    return HistoryBroken(
        f"{where} does not exist",
        code="log-missing",
        hint="Bring the topic back. `keepstream run` makes a new one only for a source that has none yet.",
    )


def log_damaged(where: str, *, servers: str, topic: str, offset: int) -> HistoryBroken:
    """A record does not have its checksum on the disk of the broker that leads."""
    return HistoryBroken(
        f"{where} is damaged at offset {offset}",
        code="log-corrupt",
        hint=f"Let another broker lead the partition: stop the one that `kafka-topics.sh --bootstrap-server"
        f" {servers} --describe --topic {topic}` names as its leader, and delete its copy of the partition"
        " before it starts again. If every copy is damaged, the records from there on are lost: stop,"
        f" {BEGIN_ANEW}.",
    )


def _login_refused(reason: str, where: str) -> LoginRefused:
    return LoginRefused(
        f"{where} does not let us in: {reason}", code="log-authentication", hint=f"{_CHECK_LOGIN}."
    )


def _unreachable(error: Exception, where: str, since: float) -> RetryLater:
    reason = _complaints.last(since - _COMPLAINT_S) or _text(error)
    hint = "Check that the brokers run and can be reached from here: host, port, listeners, firewall."
    for telltale, seen in _REACHED.items():
        if telltale in reason:
            hint = f"{seen} If it stays so: {_CHECK_LOGIN[0].lower()}{_CHECK_LOGIN[1:]}."
    return RetryLater(f"{where} cannot be used now: {reason}", code="log-unreachable", hint=hint)


def _text(error: Exception) -> str:
    """kafka-python's errors begin with their class, some of them twice."""
    text, name = str(error), type(error).__name__
    while f"{name}: {name}" in text:
        text = text.replace(f"{name}: {name}", name)
    return text or name
