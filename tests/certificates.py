"""Certificates of all kinds, good ones and those that cannot serve."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from gate import Gate
from wire import Wire

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PASSWORD = "hunter2-secret"


def write_certificate(
    folder: Path,
    *,
    key: Key | None = None,
    starts: timedelta = timedelta(hours=-1),
    ends: timedelta = timedelta(days=2),
    password: bytes | None = None,
) -> tuple[Path, Path]:
    """A certificate and its key, as files that exist nowhere before."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now + starts, now + ends)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    unique = secrets.token_hex(4)
    cert_file, key_file = folder / f"{unique}.cert.pem", folder / f"{unique}.key.pem"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    return cert_file, key_file


def expired(folder: Path) -> tuple[Path, Path]:
    """A pair whose time is over."""
    return write_certificate(folder, starts=timedelta(days=-9), ends=timedelta(seconds=-5))


def mismatched(folder: Path) -> tuple[Path, Path]:
    """A certificate with the key of another."""
    return write_certificate(folder)[0], write_certificate(folder)[1]


def mismatched_kinds(folder: Path) -> tuple[Path, Path]:
    """A certificate with a key of another kind."""
    return write_certificate(folder)[0], write_certificate(folder, key=rsa.generate_private_key(65537, 2048))[1]


def locked(folder: Path) -> tuple[Path, Path]:
    """A key that asks for a password."""
    return write_certificate(folder, password=PASSWORD.encode())


def no_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate file with something else in it."""
    cert, key = write_certificate(folder)
    cert.write_text("this is no certificate\n", "utf-8")
    return cert, key


def broken_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate file that was cut off."""
    cert, key = write_certificate(folder)
    cert.write_bytes(cert.read_bytes()[:-200])
    return cert, key


def binary_certificate(folder: Path) -> tuple[Path, Path]:
    """DER instead of PEM."""
    cert, key = write_certificate(folder)
    cert.write_bytes(ssl.PEM_cert_to_DER_cert(cert.read_text("utf-8")))
    return cert, key


def broken_key(folder: Path) -> tuple[Path, Path]:
    """A key file that was cut off."""
    cert, key = write_certificate(folder)
    key.write_bytes(key.read_bytes()[:-100])
    return cert, key


def empty_files(folder: Path) -> tuple[Path, Path]:
    """Files with nothing in them, as a disk that is full leaves them."""
    cert, key = write_certificate(folder)
    cert.write_bytes(b"")
    key.write_bytes(b"")
    return cert, key


def missing_certificate(folder: Path) -> tuple[Path, Path]:
    """A path where no certificate is."""
    cert, key = write_certificate(folder)
    cert.unlink()
    return cert, key


def missing_key(folder: Path) -> tuple[Path, Path]:
    """A path where no key is."""
    cert, key = write_certificate(folder)
    key.unlink()
    return cert, key


Pair = Callable[[Path], tuple[Path, Path]]
BAD_PAIRS: list[Pair] = [
    *(expired, mismatched, mismatched_kinds, locked, no_certificate, broken_certificate, binary_certificate),
    *(broken_key, empty_files, missing_certificate, missing_key),
]


def anybody() -> ssl.SSLContext:
    """A caller who takes whatever certificate is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def serial_served(gate: Gate) -> int:
    """The serial number of the certificate that a new caller is shown."""
    with Wire(gate, context=anybody()) as wire:
        shown = wire.socket.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


def serial_of(cert: Path) -> int:
    """The serial number of a certificate in a file."""
    return x509.load_pem_x509_certificate(cert.read_bytes()).serial_number
