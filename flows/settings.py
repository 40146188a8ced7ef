"""Where a flow runs its stages, and whom it tells: the environment of flows alone, which no stage depends on."""

from pathlib import Path

from pydantic import Field, SecretStr

from stages.params import StageParams
from stages.settings import FLOW_PREFIX, read_settings


class FlowSettings(StageParams):
    """The variables PEDIGREE_FLOW_*, in lower case and without the prefix. docs/settings.md is their table."""

    slots: int = Field(2, ge=1, description="stages that a flow runs side by side on the processors")
    places: Path = Field(Path("infra/places.yaml"), description="file that says which stage runs where")
    node_folder: Path = Field(
        Path("~/.cache/pedigree"), description="where `pedigree stage` keeps its clones, cache and scratch on a node"
    )
    push_seconds: float = Field(
        60.0,
        ge=0,
        description="a stage that took longer is pushed when it is done; to S3, every one is",
    )
    review_site: str = Field("", description="URL under which `pedigree report`'s folder is served: runs link to it")
    webhook: SecretStr = Field(SecretStr(""), description="URL that failures and refusals are posted to, as JSON")
    signing_key: SecretStr = Field(
        SecretStr(""),
        description="ed25519 key that records are signed with: PEM, or its 32 bytes in base64 (docs/attestations.md)",
    )
    model_signing_key: SecretStr = Field(
        SecretStr(""),
        description="elliptic-curve key (P-256, P-384 or P-521) that published models are signed with, PEM",
    )


def flow_settings() -> FlowSettings:
    """The settings of this process.

    Raises:
        Refusal: if a PEDIGREE_FLOW_ variable is unknown or has an impossible value.
    """
    return read_settings(FlowSettings, FLOW_PREFIX)
