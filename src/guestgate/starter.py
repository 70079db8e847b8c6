"""`guestgate init`: the files a new installation starts from."""

from __future__ import annotations

import json
from pathlib import Path

from guestgate import settings
from guestgate.database import Database, check_url
from guestgate.errors import GuestgateError, UsageError
from guestgate.studios import check_id

DATABASE = "sqlite:///guestgate.db"
CONFIG = """\
# guestgate's settings. Everything may be left out; what stands here is the default.
# An environment variable wins over this file: GUESTGATE_ANSWER_BUDGET_MS=300. A command's option wins over both.
# Paths are relative to this file.

# Where the record is kept: a file, three slashes for a relative path and four for an absolute one; or, for
# several servers, postgresql://USER:PASSWORD@HOST/DATABASE (rather in GUESTGATE_DATABASE than in this file).
database = "sqlite:///guestgate.db"

# Your company's id at the platform. Set it if the platform sends this same id in every check-in; the member is
# then the one that the customerId is linked to. Any other aggregatorId is taken for a member's id.
{aggregator_id}

# The path the platform calls.
# checkin_path = "/checkin-validation"

# Every answer leaves within this time. The platform waits 750 ms for connection, network and answer together.
# answer_budget_ms = 400

# The answer for an unknown member: 403, or 404, which the studio's desk sees as "not found in partner system".
# unknown_member_status = 403

# What a visit needs to be paid for: "authorized" (it was let in) or "confirmed" (there is evidence of it).
# payable_requires = "authorized"

# How often visits are held against what the platform tells of entries (0: never), and how long such news may take
# before its absence means something.
# reconcile_every_s = 3600
# reconcile_grace_s = 21600

# The public listener. TLS 1.2 and 1.3; SIGHUP reads the certificate again.
# host = "0.0.0.0"
# port = 8443
# tls_cert = "fullchain.pem"
# tls_key = "privkey.pem"

# Instead of a certificate: plain HTTP for a proxy on this machine, with host = "127.0.0.1" or "unix:/run/…".
# behind_proxy = true

# The admin listener, for your own systems: API, event feed, metrics. Plain HTTP on loopback, elsewhere the
# same certificate as above. Port 0: none. Make tokens with: guestgate token create --role viewer
# admin_host = "127.0.0.1"
# admin_port = 8444

# What is logged: "debug" (every answer, by decision id), "info" or "warning".
# log_level = "info"

# What seals the keys of the platform's Open API in the database: the file that guestgate secret new makes, or a key
# in the environment (GUESTGATE_SECRET_KEY).
# secret_key = "…"
# secret_key_file = "guestgate.secret"

# Only with PostgreSQL: how many processes answer on this machine.
# workers = 1

# What happens while the database cannot be asked: this machine answers on a copy of its own ("snapshot"), unless that
# is older than so many seconds, or not at all ("refuse").
# stand_in = "snapshot"
# stand_in_max_age_s = 3600
# stand_in_file = "guestgate-standin.db"
"""

PLANS = """\
# The rules of your memberships. Put them into force with: guestgate plan apply plans.toml
# All fields but name may be left out. Days, weeks and hours are the local ones of the studio that asks.

[plans.classic]
name = "Classic"
studio_tags = ["classic"]     # open at studios with one of these tags; left out: at every studio
reentry_minutes = 10          # a second tap at the same studio is the same visit; 0 = off
limits = [
  { max = 1, per = "day",   scope = "network" },   # per: day | week | month | cycle | total
  { max = 8, per = "month", scope = "studio"  },   # scope: network | studio | tag:NAME
]

[plans.daytime]
name = "Daytime"
hours = [{ days = ["mon", "tue", "wed", "thu", "fri"], from = "06:00", until = "16:00" }]   # may pass midnight
limits = [{ max = 4, per = "cycle" }]
cycle_days = 28               # left out: a cycle is a month from the member's cycle_anchor or valid_from

[plans.unlimited]
name = "Unlimited"
min_gap_minutes = 60          # between visits at different studios
payable = "per_visit"         # or "per_member_day", the default: one visit a day is paid
"""


def write(directory: Path, aggregator_id: str | None = None, database_url: str | None = None) -> dict[str, str]:
    """Write configuration and example plans, create the database; nothing that exists is overwritten."""
    config, plans = directory / "guestgate.toml", directory / "plans.toml"
    for path in (config, plans):
        if path.exists():
            raise UsageError(f"{path} exists already; init overwrites nothing")
    if database_url is not None:
        check_url(database_url)
    line = '# aggregator_id = "your-company-id"'
    if aggregator_id is not None:
        check_id(aggregator_id, "--aggregator-id")
        escaped = aggregator_id.replace("\\", "\\\\").replace('"', '\\"')
        line = f'aggregator_id = "{escaped}"'
    try:
        directory.mkdir(parents=True, exist_ok=True)
        text = CONFIG.replace("{aggregator_id}", line)
        if database_url is not None:
            text = text.replace(f'database = "{DATABASE}"', f"database = {json.dumps(database_url)}")
            config.touch(mode=0o600)  # the URL may have a password
        config.write_text(text, "utf-8")
        plans.write_text(PLANS, "utf-8")
        database = Database.at(settings.load(config).database)
        database.upgrade()
    except OSError as error:
        raise UsageError(f"{directory}: {error.strerror}") from None
    except GuestgateError:
        config.unlink()
        plans.unlink()
        raise
    return {"config": str(config), "plans": str(plans), "database": database.name}
