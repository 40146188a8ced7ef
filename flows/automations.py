"""The automations of infra/prefect/automations.yaml, loaded into the Prefect server together with the webhook.

The server calls the webhook itself, so it keeps the URL: encrypted, in its database, as the block `pedigree-webhook`.
"""

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.events.schemas.automations import AutomationCore
from prefect.settings import get_current_settings
from prefect.types import SecretDict
from pydantic import SecretStr, ValidationError

from flows.settings import flow_settings
from stages.params import Refusal

FILE = Path("infra/prefect/automations.yaml")
BLOCK = "pedigree-webhook"


def load_automations(path: Path = FILE) -> list[str]:
    """Make the automations of `path` on the server, or bring those of the same name up to date; their names.

    Raises:
        Refusal: if there is no webhook or no server, or the file holds something else.
    """
    webhook = flow_settings().webhook
    if not webhook.get_secret_value():
        raise Refusal("there is no webhook to call; set PEDIGREE_FLOW_WEBHOOK to the URL of one")
    if not get_current_settings().api.url:
        raise Refusal("there is no Prefect server to load automations into; set PREFECT_API_URL to the URL of one")
    read_automations(path, UUID(int=0))  # refuses before anything is changed
    return asyncio.run(_load(path, webhook))


def read_automations(path: Path, block: UUID) -> list[AutomationCore]:
    """The automations in `path`, whose webhook is the `block`.

    Raises:
        Refusal: if the file isn't there or holds something else.
    """
    try:
        listed: list[dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))["automations"]
        for automation in listed:
            for action in automation["actions"]:
                if action["type"] == "call-webhook":
                    action["block_document_id"] = str(block)
        return [AutomationCore.model_validate(automation) for automation in listed]
    except FileNotFoundError:
        raise Refusal(f"{path} is missing; restore it from git") from None
    except ValidationError as error:
        problem = error.errors()[0]
        raise Refusal(f"{path}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise Refusal(f"{path} does not list automations ({' '.join(repr(error).split())})") from None


async def _load(path: Path, webhook: SecretStr) -> list[str]:
    headers = SecretDict({"Content-Type": "application/json"})
    block = await Webhook(url=webhook, headers=headers).save(BLOCK, overwrite=True)
    automations = read_automations(path, block)
    async with get_client() as client:
        for automation in automations:
            if known := await client.read_automations_by_name(automation.name):
                await client.update_automation(known[0].id, automation)
            else:
                await client.create_automation(automation)
    return [automation.name for automation in automations]
