"""docs/settings.md says what stages/settings.py has, word for word."""

from pathlib import Path

from pydantic_core import PydanticUndefined

from stages.settings import PREFIX, Settings

PAGE = Path(__file__).parents[2] / "docs/settings.md"


def table():
    """The settings as a Markdown table, in their order."""
    rows = ["| variable | default | what it says |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "what the machine has" if field.default is PydanticUndefined else f"`{field.default}`"
        default = "none" if field.default in ("", None) else default
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


def test_the_page_has_the_table_of_the_settings():
    assert all(field.description for field in Settings.model_fields.values())
    assert table() in PAGE.read_text(), f"put this table into {PAGE.name}:\n\n{table()}"
