"""What is said of a cluster that kafka-python could not reach."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pytest
from kafka import errors

from connectors.log import kafka_errors
from connectors.log.kafka_errors import kafka_error, log_damaged, quieten
from schemas.errors import HistoryBroken, LoginRefused, RetryLater

HUNG_UP = errors.KafkaConnectionError("socket disconnected")
CUT_OFF = errors.RequestTimedOutError("Request timed out after 173 ms")
CONNECTING = errors.KafkaConnectionError("Connection timed out")


@pytest.fixture(autouse=True)
def nothing_said_before() -> Iterator[None]:
    """Other tests of this process reach, or fail to reach, clusters of their own."""
    quieten()
    complaints, before = kafka_errors._complaints, vars(kafka_errors._complaints).copy()
    vars(complaints).update(_said=("", 0.0), _refused=("", 0.0))
    yield
    vars(complaints).update(before)


def given_up_after(*tries: Exception) -> Exception:
    """The error after kafka-python's manager complained about each try, as it does, and gave up."""
    since = time.monotonic()
    for error in tries:
        logging.getLogger("kafka.net.manager").warning(
            "Bootstrap connection to %s failed: %s (backoff %.2f secs)", "bootstrap-0", error, 0.1
        )
    return kafka_error(errors.KafkaTimeoutError("Unable to bootstrap"), "kafka://broker:9092", since=since)


@pytest.mark.parametrize(
    "tries",
    [(HUNG_UP,), (HUNG_UP, CUT_OFF), (CUT_OFF, HUNG_UP, HUNG_UP, CUT_OFF), (HUNG_UP, CONNECTING)],
)
def test_a_hang_up_is_reported_though_our_deadline_cut_off_the_last_try(
    tries: tuple[Exception, ...],
) -> None:
    error = given_up_after(*tries)
    assert isinstance(error, RetryLater)
    assert "socket disconnected" in error.message
    assert "sasl.password" in error.hint


def test_a_hang_up_at_the_first_request_is_reported_too() -> None:
    since = time.monotonic()
    logging.getLogger("kafka.cluster").error("Metadata refresh: failed %s", HUNG_UP)
    error = kafka_error(errors.KafkaTimeoutError("Unable to bootstrap"), "kafka://broker:9092", since=since)
    assert "socket disconnected" in error.message
    assert "sasl.password" in error.hint


def test_a_broker_that_never_answers_is_reported_so() -> None:
    error = given_up_after(CONNECTING, CUT_OFF)
    assert isinstance(error, RetryLater)
    assert "timed out" in error.message
    assert "firewall" in error.hint


def test_a_refused_login_is_found_behind_what_came_after_it() -> None:
    refused = errors.SaslAuthenticationFailedError("Authentication failed")
    assert isinstance(given_up_after(refused, HUNG_UP, CUT_OFF), LoginRefused)


def test_a_login_at_a_listener_without_logins_is_refused() -> None:
    error = kafka_error(errors.IllegalSaslStateError(), "kafka://broker:9092")
    assert isinstance(error, LoginRefused)
    assert error.message == "kafka://broker:9092 does not let us in: [Error 34] IllegalSaslStateError"
    assert error.hint.startswith("Check log.client: security.protocol, sasl.mechanism, ")


def test_a_failed_tls_handshake_is_no_broker_out_of_reach() -> None:
    error = given_up_after(errors.KafkaConnectionError("Handshake failed: [SSL: WRONG_VERSION_NUMBER]"))
    assert isinstance(error, RetryLater)
    assert error.hint.startswith(
        "The broker agreed to no TLS with us. If it stays so: check log.client: security.protocol, "
    )


def test_an_answer_in_another_protocol_is_no_broker_out_of_reach() -> None:
    """The number is the head of a TLS alert."""
    error = given_up_after(errors.InvalidReceiveError("Invalid frame length: 352518912"))
    assert isinstance(error, RetryLater)
    assert error.hint.startswith("The broker answers with something else than Kafka's protocol, such as TLS.")


def test_a_damaged_record_names_its_offset_and_how_a_whole_copy_is_read() -> None:
    error = log_damaged("kafka://a:9092,b:9092/crm.log", servers="a:9092,b:9092", topic="crm.log", offset=17)
    assert (type(error), error.code) == (HistoryBroken, "log-corrupt")
    assert error.message == "kafka://a:9092,b:9092/crm.log is damaged at offset 17"
    assert error.hint == (
        "Let another broker lead the partition: stop the one that `kafka-topics.sh --bootstrap-server"
        " a:9092,b:9092 --describe --topic crm.log` names as its leader, and delete its copy of the partition"
        " before it starts again. If every copy is damaged, the records from there on are lost: stop,"
        " run `keepstream teardown --yes`, empty the replicas' databases and run `keepstream run` to begin"
        " anew."
    )
