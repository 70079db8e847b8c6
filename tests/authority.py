"""A certificate authority for tests: chains with and without an intermediate, for any names and days."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

SIGNS = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True)
class Issued:
    """A certificate chain and its key, as files."""

    chain: Path
    key: Path


class Authority:
    """Issues certificates; `certificate` is its own, for callers to trust."""

    def __init__(self, folder: Path, issuer: Authority | None = None) -> None:
        """A root, or an intermediate of `issuer`."""
        self._folder, self._issuer = folder, issuer
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(f"test authority {secrets.token_hex(4)}")
        signer = issuer or self
        self._certificate = _sign(
            x509.CertificateBuilder(subject_name=self._name, public_key=self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(SIGNS, critical=True),
            signer,
            self._key.public_key(),
            timedelta(days=-2),
            timedelta(days=90),
        )
        self.file = folder / f"{secrets.token_hex(4)}.ca.pem"
        self.file.write_bytes(_pem(self._certificate))

    def child(self) -> Self:
        """An intermediate authority."""
        return type(self)(self._folder, self)

    def issue(
        self,
        *names: str,
        starts: timedelta = timedelta(hours=-1),
        ends: timedelta = timedelta(days=60),
        with_chain: bool = True,
    ) -> Issued:
        """A server's certificate; `with_chain` is followed by those of intermediate authorities."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _sign(
            x509.CertificateBuilder(subject_name=_name(names[0]), public_key=key.public_key())
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False),
            self,
            key.public_key(),
            starts,
            ends,
        )
        chain = [certificate]
        authority = self
        while with_chain and authority._issuer is not None:
            chain.append(authority._certificate)
            authority = authority._issuer
        unique = secrets.token_hex(4)
        issued = Issued(self._folder / f"{unique}.chain.pem", self._folder / f"{unique}.key.pem")
        issued.chain.write_bytes(b"".join(map(_pem, chain)))
        issued.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return issued


def _sign(
    builder: x509.CertificateBuilder,
    authority: Authority,
    public_key: ec.EllipticCurvePublicKey,
    starts: timedelta,
    ends: timedelta,
) -> x509.Certificate:
    now = datetime.now(UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(authority._key.public_key())
    return (
        builder.issuer_name(authority._name)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + starts)
        .not_valid_after(now + ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(authority._key, hashes.SHA256())
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
