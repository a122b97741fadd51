"""A CA is called after its key: one that borrows another one's names is none."""

from __future__ import annotations

import datetime
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ainet.errors import Refused
from ainet.identity.certificates import make_ca, read_ca, to_der


def forged(key, honest, *, subject, names):
    """Return a CA certificate of `key` that is called as `honest` is, in its subject or its extensions."""
    now = datetime.datetime.now(datetime.UTC)
    whose = honest.public_key() if names else key.public_key()
    name = honest.subject if subject else make_ca(key, time.time()).subject
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, now, now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(whose), critical=False)
    return builder.sign(key, None)


@pytest.mark.parametrize(("subject", "names"), [(True, False), (False, True), (True, True)])
def test_a_ca_with_the_names_of_another_one_is_refused(subject, names):
    mine, key = make_ca(Ed25519PrivateKey.generate(), time.time()), Ed25519PrivateKey.generate()
    with pytest.raises(Refused, match="not a CA's"):
        read_ca(to_der(forged(key, mine, subject=subject, names=names)))
    assert read_ca(to_der(forged(key, mine, subject=False, names=False))).public_key() == key.public_key()
    assert read_ca(to_der(mine)) == mine
