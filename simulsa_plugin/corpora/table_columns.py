"""What the columns of a table are for: roles named by the recipe, or found by their usual names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from simulsa_plugin.corpora.lines import listed
from simulsa_plugin.errors import DatasetError, UsageError

# Role → what its column is called where the recipe does not say.
USUAL_NAMES = {
    "audio": ("audio", "file_name", "audio_filepath", "path"),
    "translation": ("translation",),
    "id": ("id",),
    "start": ("start", "offset"),
    "end": ("end",),
    "duration": ("duration",),
    "channel": ("channel",),
}
REQUIRED_ROLES = ("audio", "translation")


@dataclass(frozen=True)
class RoleColumns:
    """Role → column, for the roles that the recipe names; the column `a.b` is the field b of what stands in a.

    The others have their usual names, looked for in each row: those of JSONL leave out what they have nothing for.
    """

    named: Mapping[str, str]

    def value(self, row: Mapping[str, Any], role: str) -> Any:
        """Return the value of a row for a role; None where it has none."""
        column = self.named.get(role) or next((name for name in USUAL_NAMES[role] if name in row), None)
        if column is None or column in row:
            found = None if column is None else row[column]
        else:
            found = row
            for name in column.split("."):
                found = found.get(name) if isinstance(found, Mapping) else None
        return None if found == "" else found


def check_roles(named: Mapping[str, str] | None, allowed: Collection[str] = tuple(USUAL_NAMES)) -> None:
    """Raise UsageError where `simulsa_columns` names an unknown role, or one that this corpus does not look up."""
    unknown = sorted(set(named or ()) - set(allowed))
    if unknown:
        raise UsageError(f"simulsa_columns names a role {unknown[0]!r}; allowed: {', '.join(allowed)}.")


def find_columns(row: Mapping[str, Any], named: Mapping[str, str], where: object) -> RoleColumns:
    """Find the columns of a table by one of its rows.

    Args:
        row: the first one.
        named: `simulsa_columns`.
        where: the table, for messages.

    Raises:
        DatasetError: a named column is not there, or nothing is found for the audio or the translation.
    """
    there = f"its columns: {listed(row)}"
    for column in named.values():
        if column not in row and column.partition(".")[0] not in row:
            raise DatasetError(f"{where} has no column {column}; {there}. Set simulsa_columns.")
    unnamed = [role for role in REQUIRED_ROLES if role not in named]
    missing = [role for role in unnamed if not any(name in row for name in USUAL_NAMES[role])]
    if missing:
        example = ",".join(f"{role}:COLUMN" for role in missing)
        wanted = " and which ".join(missing)
        raise DatasetError(f"{where}: which column is {wanted}? {there}. Set simulsa_columns={example}.")
    return RoleColumns(named)
