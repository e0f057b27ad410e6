"""https as a vehicle speaks it: whom it believes, who it says it is, and what it never falls back to."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from client_agent.pace import PaceLimits
from client_agent.transport import HttpTransport, TlsSettings
from model_registry.contract.errors import Unreachable
from tests.web import Answer, http_server

QUICK = PaceLimits(connect_s=2, gap_s=2, total_s=5)
NOW = datetime.datetime.now(datetime.UTC)


@dataclass(frozen=True)
class Authority:
    """A certificate authority of one's own, in a directory."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def file(self) -> Path:
        return self.folder / "ca.pem"

    def issue(self, name: str) -> tuple[Path, Path]:
        """Files of a certificate for 127.0.0.1 and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(name, self.certificate.subject, key)
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = builder.add_extension(address, critical=False).sign(self.key, hashes.SHA256())
        files = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(_pem(key))
        return files


def authority(folder: Path) -> Authority:
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    builder = _builder("test authority", name, key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return Authority(folder, key, certificate)


def _builder(name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    day = datetime.timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    return builder.serial_number(x509.random_serial_number()).not_valid_before(NOW - day).not_valid_after(NOW + day)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("tls") / "ca")


def server_side(issuer: Authority, *, clients: Authority | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*issuer.issue("server"))
    if clients is not None:
        context.load_verify_locations(clients.file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture
def url(trusted: Authority) -> Iterator[str]:
    with http_server(lambda _: Answer(body=b"hello"), tls=server_side(trusted)) as url:
        yield url


def fetch(url: str, tls: TlsSettings) -> bytes:
    return b"".join(HttpTransport(tls, QUICK).get(f"{url}/x", max_bytes=100))


def test_a_server_of_the_given_authority_is_believed(url: str, trusted: Authority) -> None:
    assert fetch(url, TlsSettings(ca_file=trusted.file)) == b"hello"


def test_a_connection_serves_more_than_one_request(url: str, trusted: Authority) -> None:
    transport = HttpTransport(TlsSettings(ca_file=trusted.file), QUICK)
    assert [b"".join(transport.get(f"{url}/x", max_bytes=100)) for _ in range(3)] == [b"hello"] * 3
    assert transport.post(f"{url}/x", b"question", {}).status == 200


def test_a_server_of_another_authority_is_not_believed(url: str, tmp_path: Path) -> None:
    other = authority(tmp_path / "other")
    with pytest.raises(Unreachable, match="certificate"):
        fetch(url, TlsSettings(ca_file=other.file))
    with pytest.raises(Unreachable, match="certificate"):
        fetch(url, TlsSettings())


def test_a_certificate_for_another_host_is_not_believed(url: str, trusted: Authority) -> None:
    with pytest.raises(Unreachable, match=r"[Hh]ostname|doesn't match|mismatch"):
        fetch(url.replace("127.0.0.1", "localhost"), TlsSettings(ca_file=trusted.file))


def test_a_redirect_away_from_https_is_refused(trusted: Authority) -> None:
    with http_server(lambda _: Answer(body=b"plain")) as plain:
        away = Answer(307, headers={"Location": f"{plain}/x"})
        with http_server(lambda _: away, tls=server_side(trusted)) as url, pytest.raises(Unreachable, match="away from https"):
            fetch(url, TlsSettings(ca_file=trusted.file))


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_certificates_that_cannot_be_used_are_named_when_needed(url: str, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    transport = HttpTransport(TlsSettings(ca_file=file), QUICK)
    with pytest.raises(Unreachable, match="see ca_file"):
        list(transport.get(f"{url}/x", max_bytes=100))


def test_a_server_that_wants_to_know_its_clients_gets_the_vehicles_certificate(trusted: Authority) -> None:
    certificate, key = trusted.issue("car-1")
    with http_server(lambda _: Answer(body=b"hello"), tls=server_side(trusted, clients=trusted)) as url:
        assert fetch(url, TlsSettings(trusted.file, certificate, key)) == b"hello"
        with pytest.raises(Unreachable):
            fetch(url, TlsSettings(trusted.file))
