"""The signature of a published model, in the format of OpenSSF Model Signing (https://github.com/ossf/model-signing-spec).

    models/base, PEDIGREE_FLOW_MODEL_SIGNING_KEY  ->  records/base/v1.2.0.sig, a Sigstore bundle

It stands beside the version's record, not in the model: an out is the same whoever signs it.
"""

import tempfile
from pathlib import Path

import yaml
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from flows.publication.versions import ARTIFACT
from flows.settings import flow_settings
from stages.params import Refusal

KEY = "PEDIGREE_FLOW_MODEL_SIGNING_KEY"
CURVES = ("secp256r1", "secp384r1", "secp521r1")


def sign_model(root: Path) -> str | None:
    """The signature of the model in `root`; None if there is no key.

    Raises:
        Refusal: if the key is not one that models are signed with, or the library that does it isn't whole.
    """
    text = flow_settings().model_signing_key.get_secret_value()
    if not text:
        return None
    _check(text)
    try:
        from model_signing import hashing, signing  # only now: few sign, and it imports the clients of Sigstore
    except ImportError as error:
        raise Refusal(f"models can't be signed ({error}); install it, or unset {KEY}") from None
    pipeline = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))
    model = root / pipeline["artifacts"][ARTIFACT]["path"]
    with tempfile.TemporaryDirectory(prefix="pedigree-sign-") as folder:  # which nobody else may read
        key, signature = Path(folder, "key.pem"), Path(folder, "model.sig")
        key.write_text(text, encoding="utf-8")
        hashed = hashing.Config().set_allow_symlinks(True)  # DVC's cache may be linked to
        signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(hashed).sign(model, signature)
        return signature.read_text(encoding="utf-8")


def _check(text: str) -> None:
    try:
        key = load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise Refusal(
            f"environment variable {KEY} is no key that models are signed with; give it what "
            "`openssl ecparam -genkey -noout -name prime256v1` writes"
        )
