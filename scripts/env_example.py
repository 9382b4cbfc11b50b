"""Write `.env.example` from the settings, so that a setting is described in one place."""

from __future__ import annotations

import ast
import inspect
import textwrap
from pathlib import Path

from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo

from ibook_assets.core.settings import Settings

_HEADER = (
    "# Settings of ibook with their defaults. Copy to .env and uncomment what you change.\n"
    "# Made by scripts/env_example.py out of ibook_assets/core/settings.py.\n"
)


def render() -> str:
    """The text of `.env.example`: every variable, its docstring and its default."""
    docs = _docstrings()
    blocks = [_HEADER]
    for name, field in Settings.model_fields.items():
        comment = textwrap.fill(docs[name], 96, initial_indent="# ", subsequent_indent="# ")
        blocks.append(f"{comment}\n#{variable(name, field)}={_default(field)}\n")
    return "\n".join(blocks)


def variable(name: str, field: FieldInfo) -> str:
    """Environment variable that sets `field`; the first one where several do."""
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return str(alias.choices[0])
    return f"IBOOK_{name.upper()}"


def _default(field: FieldInfo) -> str:
    value = field.get_default()
    return "" if value is None or isinstance(value, SecretStr) else str(value)


def _docstrings() -> dict[str, str]:
    # A bare string under a field is its docstring; only the source still knows it.
    body = ast.parse(textwrap.dedent(inspect.getsource(Settings))).body[0]
    if not isinstance(body, ast.ClassDef):
        msg = "Settings is not a class any more"
        raise TypeError(msg)
    docs: dict[str, str] = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            name, value = ast.unparse(field.target), ast.literal_eval(text.value)
            docs[name] = " ".join(str(value).split())
    return docs


if __name__ == "__main__":
    Path(".env.example").write_text(render())
