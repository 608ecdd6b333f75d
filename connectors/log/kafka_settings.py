"""Kafka's own client settings, as its documentation names them, in kafka-python's words.

Pure: names and texts in, keyword arguments out. What the protocol fixes (acks, idempotence, offset reset,
isolation) cannot be set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from schemas.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Keyword arguments for every client, and those only a producer or a consumer takes."""

    common: Mapping[str, Any] = field(default_factory=dict)
    producer: Mapping[str, Any] = field(default_factory=dict)
    consumer: Mapping[str, Any] = field(default_factory=dict)


_COMMON: dict[str, tuple[str, Callable[[str], Any]]] = {
    "client.id": ("client_id", str),
    "client.dns.lookup": ("client_dns_lookup", str),
    "connections.max.idle.ms": ("connections_max_idle_ms", int),
    "metadata.max.age.ms": ("metadata_max_age_ms", int),
    "receive.buffer.bytes": ("receive_buffer_bytes", int),
    "reconnect.backoff.max.ms": ("reconnect_backoff_max_ms", int),
    "reconnect.backoff.ms": ("reconnect_backoff_ms", int),
    "request.timeout.ms": ("request_timeout_ms", int),
    "retry.backoff.ms": ("retry_backoff_ms", int),
    "sasl.kerberos.domain.name": ("sasl_kerberos_domain_name", str),
    "sasl.kerberos.service.name": ("sasl_kerberos_service_name", str),
    "sasl.mechanism": ("sasl_mechanism", str),
    "sasl.password": ("sasl_plain_password", str),
    "sasl.username": ("sasl_plain_username", str),
    "security.protocol": ("security_protocol", str),
    "send.buffer.bytes": ("send_buffer_bytes", int),
    "ssl.ca.location": ("ssl_cafile", str),
    "ssl.certificate.location": ("ssl_certfile", str),
    "ssl.crl.location": ("ssl_crlfile", str),
    "ssl.key.location": ("ssl_keyfile", str),
    "ssl.key.password": ("ssl_password", str),
    "ssl.truststore.location": ("ssl_cafile", str),
}
_PRODUCER: dict[str, tuple[str, Callable[[str], Any]]] = {
    "batch.size": ("batch_size", int),
    "delivery.timeout.ms": ("delivery_timeout_ms", int),
    "linger.ms": ("linger_ms", int),
}
_CONSUMER: dict[str, tuple[str, Callable[[str], Any]]] = {
    "client.rack": ("client_rack", str),
    "fetch.max.wait.ms": ("fetch_max_wait_ms", int),
}
_SPECIAL = (
    "compression.type",
    "sasl.jaas.config",
    "ssl.endpoint.identification.algorithm",
    "ssl.keystore.location",
    "ssl.keystore.type",
    "ssl.truststore.type",
)
_FIXED = frozenset(
    {
        "acks",
        "auto.offset.reset",
        "bootstrap.servers",
        "enable.auto.commit",
        "enable.idempotence",
        "group.id",
        "isolation.level",
        "max.in.flight.requests.per.connection",
        "max.request.size",
        "retries",
        "transactional.id",
    }
)
_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI")
_WITH_PASSWORD = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_COMPRESSIONS = ("none", "gzip", "snappy", "lz4", "zstd")
_STORE_NOT_PEM = re.compile(r"\.(jks|p12|pfx|keystore|truststore)$", re.IGNORECASE)
_JAAS_OPTION = re.compile(r"(\w+)\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|'((?:[^'\\]|\\.)*)'|([^\s;\"']+))")


def translate(client: Mapping[str, str]) -> ClientSettings:
    """Java-named settings → keyword arguments. Raises ConfigError, which never quotes a secret."""
    common: dict[str, Any] = {}
    producer: dict[str, Any] = {}
    consumer: dict[str, Any] = {}
    for name, text in client.items():
        for known, target in ((_COMMON, common), (_PRODUCER, producer), (_CONSUMER, consumer)):
            if name in known:
                word, convert = known[name]
                target[word] = _converted(name, text, convert)
                break
        else:
            common |= _special(name, text)
    if "compression_type" in common:
        producer["compression_type"] = common.pop("compression_type")
    _check(common, client)
    return ClientSettings(common, producer, consumer)


def _converted(name: str, text: str, convert: Callable[[str], Any]) -> Any:
    if name.endswith(".location"):
        _refuse_java_store(name, text)
    try:
        return convert(text)
    except ValueError as error:
        raise _invalid(f"{name} must be a whole number", "Write it without quotes or units.") from error


def _special(name: str, text: str) -> dict[str, Any]:
    if name == "compression.type":
        _one_of(name, text, _COMPRESSIONS)
        return {"compression_type": None if text == "none" else text}
    if name == "sasl.jaas.config":
        return _jaas(text)
    if name == "ssl.endpoint.identification.algorithm":
        _one_of(name, text.lower(), ("https", ""))
        return {"ssl_check_hostname": text.lower() == "https"}
    if name in ("ssl.truststore.type", "ssl.keystore.type"):
        _one_of(name, text.upper(), ("PEM",))
        return {}
    if name == "ssl.keystore.location":
        _refuse_java_store(name, text)
        return {"ssl_certfile": text, "ssl_keyfile": text}
    raise _unknown(name)


def _jaas(text: str) -> dict[str, str]:
    """`…LoginModule required username="…" password="…";` → user name and password."""
    options = {key: quoted or single or bare for key, quoted, single, bare in _JAAS_OPTION.findall(text)}
    if not {"username", "password"} <= options.keys():
        raise _invalid(
            "sasl.jaas.config names no username and password",
            "Write sasl.username and sasl.password instead.",
        )
    unescape = {key: re.sub(r"\\(.)", r"\1", value) for key, value in options.items()}
    return {"sasl_plain_username": unescape["username"], "sasl_plain_password": unescape["password"]}


def _check(common: Mapping[str, Any], client: Mapping[str, str]) -> None:
    """What kafka-python would only say when it connects, or not at all."""
    protocol = common.get("security_protocol", "PLAINTEXT")
    _one_of("security.protocol", protocol, _PROTOCOLS)
    if not protocol.startswith("SASL") and any(name.startswith("sasl.") for name in client):
        raise _invalid(
            f"sasl settings are given, but security.protocol is {protocol}",
            "Write security.protocol: SASL_SSL (or SASL_PLAINTEXT inside a trusted network).",
        )
    if not protocol.startswith("SASL"):
        return
    mechanism = common.get("sasl_mechanism", "")
    _one_of("sasl.mechanism", mechanism, _MECHANISMS)
    if mechanism in _WITH_PASSWORD and not common.get("sasl_plain_username"):
        raise _invalid(f"{mechanism} needs a user name", "Write sasl.username and sasl.password.")
    if mechanism in _WITH_PASSWORD and not common.get("sasl_plain_password"):
        raise _invalid(f"{mechanism} needs a password", "Write sasl.password: ${file:/path/of/the/password}.")


def _refuse_java_store(name: str, path: str) -> None:
    if _STORE_NOT_PEM.search(path):
        raise _invalid(
            f"{name} names a Java key store",
            "Convert it to PEM: `keytool -importkeystore -srckeystore STORE -destkeystore store.p12"
            " -deststoretype PKCS12`, then `openssl pkcs12 -in store.p12 -nodes -out store.pem`.",
        )


def _one_of(name: str, text: str, allowed: tuple[str, ...]) -> None:
    if text not in allowed:
        raise _invalid(f"{name} is {text!r}", f"It must be one of {', '.join(filter(None, allowed))}.")


def _unknown(name: str) -> ConfigError:
    if name in _FIXED:
        return ConfigError(
            f"the Kafka setting {name} is fixed by the log's protocol",
            code="kafka-setting-fixed",
            hint=f"Remove {name} from log.client.",
        )
    known = [*_COMMON, *_PRODUCER, *_CONSUMER, *_SPECIAL]
    close = get_close_matches(name, known, n=1)
    return ConfigError(
        f"unknown Kafka setting {name!r} in log.client",
        code="kafka-setting-unknown",
        hint=f"Did you mean {close[0]}?" if close else f"Known are: {', '.join(sorted(known))}.",
    )


def _invalid(message: str, hint: str) -> ConfigError:
    return ConfigError(message, code="kafka-setting-invalid", hint=hint)
