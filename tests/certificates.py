"""Certificates for a server on 127.0.0.1, and a CA that did not sign them."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class ServerCertificates:
    """PEM files for clients, PEM text for the server."""

    ca: Path
    other_ca: Path
    chain: str
    key: str


def make_certificates(folder: Path) -> ServerCertificates:
    ca_key, ca = _make_ca("keepstream test")
    _, other = _make_ca("another one")
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder("server", ca.subject, key)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    for name, authority in (("ca.pem", ca), ("other.pem", other)):
        (folder / name).write_bytes(authority.public_bytes(Encoding.PEM))
    return ServerCertificates(
        folder / "ca.pem",
        folder / "other.pem",
        (certificate.public_bytes(Encoding.PEM) + ca.public_bytes(Encoding.PEM)).decode(),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    )


def _make_ca(name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(name, _name(name), key)
    usage = x509.BasicConstraints(ca=True, path_length=None)
    return key, builder.add_extension(usage, critical=True).sign(key, hashes.SHA256())


def _builder(name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
    )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
