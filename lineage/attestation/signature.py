"""Signatures of records: DSSE envelopes, signed with ed25519 (https://github.com/secure-systems-lab/dsse).

The keys that are trusted are the public ones in records/keys/*.pem, which people commit.
"""

import base64
import binascii
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from lineage.attestation.records import KEYS
from stages.params import Refusal

PAYLOAD_TYPE = "application/vnd.in-toto+json"
RAW_BYTES = 32

Keys = Mapping[str, Ed25519PublicKey]  # by their ids


class Unverified(ValueError):
    """A signature that says nothing; why, in a few words."""


def private_key(text: str, variable: str) -> Ed25519PrivateKey:
    """The key in `text`: PEM without a password, or its 32 bytes in base64.

    Raises:
        Refusal: if it is neither. It names the `variable` that `text` came from, and doesn't repeat the text.
    """
    try:
        if "-----BEGIN" in text:
            key = load_pem_private_key(text.encode(), password=None)
        else:
            key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(text, validate=True))
    except (ValueError, TypeError, binascii.Error):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise Refusal(
            f"environment variable {variable} is no ed25519 key; give it what `openssl genpkey -algorithm ed25519` "
            "writes, or the 32 bytes of the key in base64"
        )
    return key


def sign(payload: bytes, key: Ed25519PrivateKey) -> dict[str, Any]:
    """The envelope around `payload`. The same payload and key make the same envelope."""
    signature = base64.b64encode(key.sign(encoding(payload, PAYLOAD_TYPE))).decode()
    return {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": key_id(key.public_key()), "sig": signature}],
    }


def verify(envelope: Mapping[str, Any], keys: Keys) -> str:
    """The id of the trusted key that signed `envelope`.

    Raises:
        Unverified: if none did, or a signature of a trusted one is wrong.
    """
    try:
        payload, kind = base64.b64decode(envelope["payload"], validate=True), envelope["payloadType"]
        signatures = [(str(entry["keyid"]), base64.b64decode(entry["sig"])) for entry in envelope["signatures"]]
    except (KeyError, TypeError, ValueError):
        raise Unverified("its envelope is not DSSE's") from None
    if kind != PAYLOAD_TYPE:
        raise Unverified(f"its payload is not called {PAYLOAD_TYPE}")
    trusted = [(keys[id], id, signature) for id, signature in signatures if id in keys]
    if not trusted:
        names = ", ".join(id[:12] for id, _ in signatures) or "nobody"
        raise Unverified(f"signed by {names}, whose key is not in {KEYS}")
    for key, id, signature in trusted:
        try:
            key.verify(signature, encoding(payload, kind))
        except InvalidSignature:
            raise Unverified(f"the signature of key {id[:12]} is not of these bytes") from None
    return trusted[0][1]


def encoding(payload: bytes, kind: str) -> bytes:
    """What is signed: DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(kind.encode()), kind.encode(), len(payload), payload)


def key_id(key: Ed25519PublicKey) -> str:
    """The name of a key: the sha256 of its public part (DER, SubjectPublicKeyInfo)."""
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def trusted_keys(root: Path) -> dict[str, Ed25519PublicKey]:
    """The keys that the project at `root` trusts, by their ids; keys of other kinds, as of models, are left out.

    Raises:
        Refusal: if a file there is no public key.
    """
    found = {}
    for path in sorted((root / KEYS).glob("*.pem")):
        try:
            key = load_pem_public_key(path.read_bytes())
        except (ValueError, TypeError):
            raise Refusal(
                f"{KEYS}/{path.name} is not a public key; write it by `openssl pkey -in KEY -pubout`"
            ) from None
        if isinstance(key, Ed25519PublicKey):
            found[key_id(key)] = key
    return found
