"""Java-named Kafka settings become kafka-python's, or an error that says what to write."""

from __future__ import annotations

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from connectors.log import kafka_settings
from connectors.log.kafka_settings import translate
from schemas.errors import ConfigError


def test_no_settings_are_no_settings() -> None:
    settings = translate({})
    assert (settings.common, settings.producer, settings.consumer) == ({}, {}, {})


def test_a_login_with_scram_over_tls_is_translated() -> None:
    settings = translate(
        {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": "keepstream",
            "sasl.password": "hidden",
            "ssl.ca.location": "/etc/ssl/ca.pem",
            "ssl.endpoint.identification.algorithm": "",
            "request.timeout.ms": "20000",
            "compression.type": "zstd",
            "linger.ms": "5",
            "client.rack": "eu-1a",
        }
    )
    assert settings.common == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "keepstream",
        "sasl_plain_password": "hidden",
        "ssl_cafile": "/etc/ssl/ca.pem",
        "ssl_check_hostname": False,
        "request_timeout_ms": 20000,
    }
    assert settings.producer == {"compression_type": "zstd", "linger_ms": 5}
    assert settings.consumer == {"client_rack": "eu-1a"}


@pytest.mark.parametrize(
    ("jaas", "user", "password"),
    [
        (
            "org.apache.kafka.common.security.plain.PlainLoginModule required"
            ' username="ann" password="s=c;r\'et \\"x\\"";',
            "ann",
            's=c;r\'et "x"',
        ),
        ("x.ScramLoginModule required password=abc username='b o b' ;", "b o b", "abc"),
    ],
)
def test_a_jaas_line_gives_user_and_password(jaas: str, user: str, password: str) -> None:
    settings = translate(
        {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.jaas.config": jaas}
    )
    assert settings.common["sasl_plain_username"] == user
    assert settings.common["sasl_plain_password"] == password


def test_a_pem_key_store_is_certificate_and_key_in_one() -> None:
    settings = translate(
        {
            "security.protocol": "SSL",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": "/etc/ssl/client.pem",
            "ssl.key.password": "hidden",
            "ssl.truststore.location": "/etc/ssl/ca.pem",
        }
    )
    assert settings.common == {
        "security_protocol": "SSL",
        "ssl_certfile": "/etc/ssl/client.pem",
        "ssl_keyfile": "/etc/ssl/client.pem",
        "ssl_password": "hidden",
        "ssl_cafile": "/etc/ssl/ca.pem",
    }


def test_no_compression_is_a_setting_too() -> None:
    assert translate({"compression.type": "none"}).producer == {"compression_type": None}


def refused(client: dict[str, str]) -> ConfigError:
    with pytest.raises(ConfigError) as raised:
        translate(client)
    assert not any(value in f"{raised.value.message}{raised.value.hint}" for value in ("hunter2", "s3cret"))
    return raised.value


def test_an_unknown_setting_is_answered_with_the_one_that_was_meant() -> None:
    error = refused({"sasl.mechanisms": "PLAIN"})
    assert error.code == "kafka-setting-unknown"
    assert error.message == "unknown Kafka setting 'sasl.mechanisms' in log.client"
    assert error.hint == "Did you mean sasl.mechanism?"


@pytest.mark.parametrize("name", ["acks", "auto.offset.reset", "enable.idempotence", "group.id"])
def test_what_the_protocol_fixes_cannot_be_set(name: str) -> None:
    error = refused({name: "1"})
    assert error.code == "kafka-setting-fixed"
    assert error.hint == f"Remove {name} from log.client."


@pytest.mark.parametrize(
    ("client", "message"),
    [
        ({"request.timeout.ms": "10s"}, "request.timeout.ms must be a whole number"),
        ({"security.protocol": "TLS"}, "security.protocol is 'TLS'"),
        ({"compression.type": "brotli"}, "compression.type is 'brotli'"),
        ({"ssl.truststore.type": "JKS"}, "ssl.truststore.type is 'JKS'"),
        ({"ssl.truststore.location": "/a/kafka.jks"}, "ssl.truststore.location names a Java key store"),
        ({"ssl.keystore.location": "/a/client.P12"}, "ssl.keystore.location names a Java key store"),
        (
            {"sasl.username": "a", "sasl.password": "hunter2"},
            "sasl settings are given, but security.protocol is PLAINTEXT",
        ),
        ({"security.protocol": "SASL_SSL"}, "sasl.mechanism is ''"),
        (
            {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", "sasl.password": "hunter2"},
            "PLAIN needs a user name",
        ),
        (
            {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", "sasl.username": "a"},
            "PLAIN needs a password",
        ),
        (
            {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", "sasl.jaas.config": "s3cret"},
            "sasl.jaas.config names no username and password",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_before_connecting(
    client: dict[str, str], message: str
) -> None:
    error = refused(client)
    assert (error.code, error.message) == ("kafka-setting-invalid", message)
    assert error.hint


def test_every_translation_is_a_word_that_kafka_python_knows() -> None:
    """A new release that renames one must not be found out by an operator."""
    clients = (KafkaAdminClient, KafkaConsumer, KafkaProducer)
    for word, _ in kafka_settings._COMMON.values():
        assert all(word in client.DEFAULT_CONFIG for client in clients), word
    for word, _ in kafka_settings._PRODUCER.values():
        assert word in KafkaProducer.DEFAULT_CONFIG
    for word, _ in kafka_settings._CONSUMER.values():
        assert word in KafkaConsumer.DEFAULT_CONFIG
