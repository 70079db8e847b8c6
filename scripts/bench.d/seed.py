"""The same studios, keys, plan and members for everybody."""

import os
import secrets
import sqlite3
import subprocess
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

STUDIOS = 50
MEMBERS = 20_000
TIMEZONE = "Europe/Berlin"
LIMITS = ((100, "day", "network"), (30, "month", "studio"))  # so high that the answer is yes
COMMAND_TIMEOUT_S = 120


def studio_keys() -> list[str]:
    """A fresh key for every studio."""
    return [secrets.token_urlsafe(24) for _ in range(STUDIOS)]


def member_id(number: int) -> str:
    """The id of a member, numbered from 1; checkins.lua makes the same ones."""
    return f"m{100_000 + number}"


def baseline(database: Path, schema: Path, keys: list[str]) -> None:
    """Fill a database of the Python baselines."""
    db = sqlite3.connect(database)
    db.execute("PRAGMA journal_mode = WAL")
    db.executescript(schema.read_text())
    with db:
        db.execute("INSERT INTO plans VALUES ('classic', 'Classic')")
        db.executemany("INSERT INTO plan_limits (plan_id, max, per, scope) VALUES ('classic', ?, ?, ?)", LIMITS)
        for number, key in enumerate(keys, 1):
            db.execute("INSERT INTO studios VALUES (?, ?, ?)", (f"s{number}", f"Studio {number}", TIMEZONE))
            db.execute("INSERT INTO api_keys VALUES (?, ?)", (sha256(key.encode()).hexdigest(), f"s{number}"))
        db.executemany("INSERT INTO members VALUES (?, 'classic')", ((member_id(n),) for n in range(1, MEMBERS + 1)))
    db.close()


def baseline_on_postgres(url: str, schema: Path, keys: list[str]) -> None:
    """The same on PostgreSQL."""
    import psycopg

    with psycopg.connect(url) as db, db.cursor() as cursor:
        text = schema.read_text().replace("INTEGER PRIMARY KEY", "SERIAL PRIMARY KEY")
        cursor.execute(text.replace("customer_id INTEGER", "customer_id BIGINT"))
        cursor.execute("INSERT INTO plans VALUES ('classic', 'Classic')")
        cursor.executemany("INSERT INTO plan_limits (plan_id, max, per, scope) VALUES ('classic', %s, %s, %s)", LIMITS)
        for number, key in enumerate(keys, 1):
            cursor.execute("INSERT INTO studios VALUES (%s, %s, %s)", (f"s{number}", f"Studio {number}", TIMEZONE))
            cursor.execute(
                "INSERT INTO api_keys VALUES (%s, %s)", (sha256(key.encode()).hexdigest(), f"s{number}")
            )
        members = [(member_id(n),) for n in range(1, MEMBERS + 1)]
        cursor.executemany("INSERT INTO members VALUES (%s, 'classic')", members)


def guestgate(program: Path, folder: Path, keys: list[str], database: str | None = None) -> None:
    """Fill a guestgate folder through its command line; in a database on a server where there is a URL."""

    def run(*arguments: str, typed: str | None = None) -> None:
        command = [str(program), *arguments]
        result = subprocess.run(
            command,
            check=False,
            input=typed,
            capture_output=True,
            text=True,
            env=environment(),
            timeout=COMMAND_TIMEOUT_S,
        )
        if result.returncode:
            said = result.stderr or result.stdout
            raise RuntimeError(f"{' '.join(command)}: exit {result.returncode}\n{said}")

    def add_studio(number: int, key: str) -> None:
        studio = (f"s{number}", "--name", f"Studio {number}", "--timezone", TIMEZONE)
        run("studio", "add", *studio, "--key-stdin", *config, typed=key)

    run("init", str(folder), *(("--database", database) if database else ()))
    config = ("--config", str(folder / "guestgate.toml"))
    plans = folder / "bench-plans.toml"
    members = folder / "bench-members.csv"
    limits = ", ".join(f'{{ max = {most}, per = "{per}", scope = "{scope}" }}' for most, per, scope in LIMITS)
    # Without re-entry every check-in makes a visit, as in the baselines.
    plans.write_text(f'[plans.classic]\nname = "Classic"\nreentry_minutes = 0\nlimits = [{limits}]\n')
    members.write_text("member_id,plan\n" + "".join(f"{member_id(n)},classic\n" for n in range(1, MEMBERS + 1)))
    with ThreadPoolExecutor(os.cpu_count()) as commands:
        list(commands.map(add_studio, range(1, STUDIOS + 1), keys))
    run("plan", "apply", str(plans), *config)
    run("member", "import", str(members), *config)


def environment() -> dict[str, str]:
    """This process's environment without settings of guestgate's."""
    return {name: value for name, value in os.environ.items() if not name.upper().startswith("GUESTGATE_")}
