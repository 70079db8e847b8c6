"""A town as files for an aggregator's system: members, plans, and the commands that add its studios."""

from __future__ import annotations

import csv
import io
import json
import shlex
from pathlib import Path

from guestgate.directory import INBOUND, KeyKind
from guestgate.errors import UsageError
from guestgate.sandbox.town import Studio, Town, TownSpec

SPEC_FILE = "town.json"
COLUMNS = (
    *("member_id", "plan", "status", "valid_from", "valid_until", "cycle_anchor", "customer_id"),
    *("first_name", "last_name"),
)


def write(town: Town, folder: Path) -> dict[str, Path]:
    """Write the files; what an earlier export left there is replaced, and nothing else. Raises UsageError."""
    contents = {
        "members": ("members.csv", members_csv(town)),
        "plans": ("plans.toml", town.plans_toml),
        "script": ("setup.sh", setup_script(town)),
        "town": (SPEC_FILE, json.dumps(town.spec.as_dict(), indent=2) + "\n"),
    }
    files = {what: folder / name for what, (name, _) in contents.items()}
    if not files["town"].exists():
        for file in files.values():
            if file.exists():
                raise UsageError(f"{file} is there already and no part of a town; give an empty or a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in contents.values():
            (folder / name).write_text(text, "utf-8")
        files["script"].chmod(0o755)
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}") from None
    return files


def read_spec(folder: Path) -> TownSpec:
    """The town of an exported folder. Raises UsageError."""
    file = folder / SPEC_FILE
    try:
        return TownSpec.from_dict(json.loads(file.read_text("utf-8")))
    except OSError as error:
        raise UsageError(f"--town: {file}: {error.strerror}; guestgate sandbox export writes a town") from None
    except ValueError:
        raise UsageError(f"--town: {file}: this is no town that guestgate sandbox export wrote") from None


def members_csv(town: Town) -> str:
    """The member file, as `guestgate member import` takes it."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for member in town.members:
        rows.writerow(
            (
                *(member.id, member.plan, member.status, member.valid_from, member.valid_until or ""),
                *(member.cycle_anchor or "", ";".join(map(str, member.linked)), member.first_name, member.last_name),
            )
        )
    return text.getvalue()


def kept_keys(studio: Studio) -> dict[KeyKind, str]:
    """The keys of a studio that the platform sends, by kind."""
    return {kind: studio.keys[kind.value] for kind in INBOUND}


def setup_script(town: Town) -> str:
    """A shell script that puts plans, studios, keys and members into an installation."""
    own = town.spec.aggregator_id
    lines = [
        "#!/bin/sh",
        "# Puts this town into guestgate. Run it in the folder of guestgate.toml, or give --config FILE.",
        "# The keys come from the town's seed and are no secrets: not for an installation with real members.",
        *([f"# guestgate.toml needs: aggregator_id = {json.dumps(own, ensure_ascii=False)}"] if own else []),
        "set -eu",
        'town=$(dirname "$0")',
        'guestgate plan apply "$town/plans.toml" "$@"',
    ]
    for studio in town.studios:
        words = ["guestgate", "studio", "add", studio.id, "--name", studio.name, "--timezone", studio.timezone]
        words += [word for tag in studio.tags for word in ("--tag", tag)] + (["--test"] if studio.test else [])
        lines.append(f'printf %s {shlex.quote(studio.keys["checkin"])} | {shlex.join(words)} --key-stdin "$@"')
        for kind, key in kept_keys(studio).items():
            if kind is not KeyKind.CHECKIN:
                words = ["guestgate", "key", "add", studio.id, "--kind", kind.value]
                lines.append(f'printf %s {shlex.quote(key)} | {shlex.join(words)} --key-stdin "$@"')
        if studio.paused:
            lines.append(f'guestgate studio pause {shlex.quote(studio.id)} "$@"')
    lines.append('guestgate member import "$town/members.csv" "$@"')
    return "\n".join(lines) + "\n"
