"""docs/settings.md says what the two settings classes have, word for word."""

from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from flows.settings import FlowSettings
from stages.settings import FLOW_PREFIX, PREFIX, Settings

PAGE = Path(__file__).parents[2] / "docs/settings.md"


def table(model, prefix):
    """The settings as a Markdown table, in their order."""
    rows = ["| variable | default | what it says |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        default = "what the machine has" if field.default is PydanticUndefined else f"`{field.default}`"
        default = "none" if str(field.default) in ("", "None") else default
        rows.append(f"| `{prefix}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


@pytest.mark.parametrize(("model", "prefix"), [(Settings, PREFIX), (FlowSettings, FLOW_PREFIX)])
def test_the_page_has_the_table_of_the_settings(model, prefix):
    assert all(field.description for field in model.model_fields.values())
    assert table(model, prefix) in PAGE.read_text(), f"put this table into {PAGE.name}:\n\n{table(model, prefix)}"
