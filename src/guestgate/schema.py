"""The tables, for every database alike.

Instants are integers, milliseconds since the Unix epoch in UTC (`…_ms`); calendar dates are texts in ISO
8601, which sort as dates do. `seq` numbers rows in the order in which they were written, across all tables
that have it (`guestgate.sequence`).
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
    text,
    true,
)
from sqlalchemy.types import TypeEngine

# SQLite keeps rows in the order of a primary key only in a column of type INTEGER.
Sequence = BigInteger().with_variant(Integer, "sqlite")


def Code(length: int) -> TypeEngine[str]:  # noqa: N802 - it stands for a type
    """A text that is compared byte by byte on every database, whatever the server's language."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# One row; its number grows with every change to studios, keys or plans, and tells servers to read them again.
directory_version = Table(
    "directory_version",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
)

# One row: the last number that was given out, and which history the numbers belong to (see `sequence`).
feed = Table(
    "feed",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("timeline", Code(16), nullable=False),
    Column("seq", BigInteger, nullable=False),
)

# Only on PostgreSQL, one row: what makes a transaction's number one of the feed's, and where this database
# lives, so that a copy of it is noticed (see `sequence`).
cluster = Table(
    "cluster",
    MetaData(naming_convention=metadata.naming_convention),
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("base", BigInteger, nullable=False),
    Column("home", Text, nullable=False),
    Column("wal_timeline", Integer, nullable=False),
    Column("oldest_user", Code(32), nullable=False),  # the oldest revision whose guestgate works with this schema
)

# Who may use the admin listener; the tokens themselves are never stored.
tokens = Table(
    "tokens",
    metadata,
    Column("sha256", Code(64), primary_key=True),
    Column("name", Code(255), nullable=False),
    Column("role", Code(16), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger),
    Column("revoked_at_ms", BigInteger),
)

# Who is signed in to the admin listener's pages, and by which token; stored as hashes, too.
sessions = Table(
    "sessions",
    metadata,
    Column("sha256", Code(64), primary_key=True),
    Column("token_sha256", Code(64), ForeignKey("tokens.sha256"), nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
)

# Servers that share this database, as each was when it said so last (see `nodes`); figures are of a minute.
nodes = Table(
    "nodes",
    metadata,
    Column("id", Code(36), primary_key=True),
    Column("name", Code(255), nullable=False),
    Column("version", Code(32), nullable=False),
    Column("started_at_ms", BigInteger, nullable=False),
    Column("seen_at_ms", BigInteger, nullable=False),
    Column("state", Code(16), nullable=False),
    Column("checkins", BigInteger, nullable=False),
    Column("in_time", Float),  # the share of them; null where nobody came
    Column("p99_ms", Float),
    Column("copy_age_s", Float),  # null where there is none to stand in with
)

# The audit trail: what people and programs changed, apart from visits (see `visit_changes`).
changes = Table(
    "changes",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("who", Code(255), nullable=False),
    Column("action", Code(32), nullable=False),  # member.changed, key.revoked, …
    Column("subject", Code(255), nullable=False, index=True),  # the id of what was changed
    Column("before", Text),  # JSON object of what differs; null where there was nothing
    Column("after", Text),  # JSON object of what differs; null where nothing is left
)

studios = Table(
    "studios",
    metadata,
    Column("id", Code(255), primary_key=True),
    Column("name", Text, nullable=False),
    Column("timezone", Code(64), nullable=False),
    Column("tags", Text, nullable=False),  # JSON list, sorted
    Column("active", Boolean, nullable=False),
    Column("test", Boolean, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
)

# Tokens themselves are not stored, but for `accounts`. A token belongs to one studio and may serve several kinds.
keys = Table(
    "keys",
    metadata,
    Column("sha256", Code(64), primary_key=True),
    Column("kind", Code(16), primary_key=True),
    Column("studio_id", Code(255), ForeignKey("studios.id"), nullable=False, index=True),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger),
    Column("revoked_at_ms", BigInteger),
    Column("last_used_at_ms", BigInteger),  # to the minute
)

# A studio's account at the platform's Open API. Its key has to be sent, so it is kept, sealed
# (`guestgate.platform.secret_keys`); its hash is among `keys`.
accounts = Table(
    "accounts",
    metadata,
    Column("studio_id", Code(255), ForeignKey("studios.id"), primary_key=True),
    Column("base_url", Text, nullable=False),  # one for each gym chain: https://TENANT.open-api.perfectgym.com/v1
    Column("platform_studio_id", BigInteger),  # what the platform calls the studio; null: not asked yet
    Column("key_sha256", Code(64), nullable=False),
    Column("sealed_key", Text, nullable=False),
)

plans = Table(
    "plans",
    metadata,
    Column("id", Code(255), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("removed_at_ms", BigInteger),
)

# Every version a plan ever had: decisions name the one they were made under.
plan_versions = Table(
    "plan_versions",
    metadata,
    Column("plan_id", Code(255), ForeignKey("plans.id"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("document", Text, nullable=False),  # JSON, as in the plans file
    Column("applied_at_ms", BigInteger, nullable=False),
)

# By name they are found by indexes over their profiles (see `search`), which no two databases spell alike.
members = Table(
    "members",
    metadata,
    Column("id", Code(255), primary_key=True),
    Column("plan_id", Code(255), ForeignKey("plans.id"), nullable=False),
    Column("status", Code(16), nullable=False),
    Column("valid_from", Code(10)),
    Column("valid_until", Code(10)),
    Column("cycle_anchor", Code(10)),
    Column("profile", Text, nullable=False),  # JSON object: first_name, … (personal data)
    Column("updated_at_ms", BigInteger, nullable=False),
    Column("pseudonym", Code(64)),  # set while the member is being forgotten
    Index(None, "plan_id", "id"),
)

# The platform's customers, each linked to one member; a member may have one at every gym chain. ``by_hand``: people,
# imports or programs of ours said so, since ``linked_at_ms``; else the platform's events did.
customers = Table(
    "customers",
    metadata,
    Column("customer_id", BigInteger, primary_key=True, autoincrement=False),
    Column("member_id", Code(255), ForeignKey("members.id"), nullable=False, index=True),
    Column("linked_at_ms", BigInteger, nullable=False),
    Column("by_hand", Boolean, nullable=False, server_default=true()),
)

# At which gym chain a customer is, where the platform told us; gone with the link.
customer_chains = Table(
    "customer_chains",
    metadata,
    Column(
        "customer_id",
        BigInteger,
        ForeignKey("customers.customer_id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("base_url", Text, nullable=False),  # as in `accounts`
)

decisions = Table(
    "decisions",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=False),
    Column("id", Code(36), nullable=False, unique=True),
    Column("received_at_ms", BigInteger, nullable=False),
    Column("studio_id", Code(255), nullable=False),
    Column("member_id", Code(255)),
    Column("aggregator_id", Code(255), nullable=False),
    Column("customer_id", BigInteger, nullable=False),
    Column("outcome", Code(16), nullable=False),
    Column("reason", Code(32), nullable=False),
    Column("limit_use", Text),  # JSON {max, per, scope, used}
    Column("next_allowed_at_ms", BigInteger),
    Column("visit_id", Code(36)),
    Column("plan_id", Code(255)),
    Column("plan_version", Integer),
    Column("stand_in", Boolean, nullable=False),
    Column("key_fingerprint", Code(16), nullable=False),
)

# A check-in that made a visit is found through the visit, which bears its id; so only the others need an
# entry under their member. It saves the door a page to write for every allowed check-in.
made_no_visit = decisions.c.visit_id.is_(None) | (decisions.c.visit_id != decisions.c.id)
Index(
    "ix_decisions_member_id_seq",
    decisions.c.member_id,
    decisions.c.seq,
    sqlite_where=made_no_visit,
    postgresql_where=made_no_visit,
)

# How an answer left; written with a later batch. No row: unknown (the server stopped before it wrote one).
answers = Table(
    "answers",
    metadata,
    Column("decision_id", Code(36), primary_key=True),
    Column("http_status", Integer),  # null: the caller was gone, nothing was sent
    Column("answer_ms", Float, nullable=False),
    Column("undelivered", Boolean, nullable=False),
    sqlite_with_rowid=False,
)

# A visit that a check-in made bears the id of its decision. `state` is the sum of `visit_changes`.
visits = Table(
    "visits",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=False),
    Column("id", Code(36), nullable=False, unique=True),
    Column("member_id", Code(255), nullable=False),
    Column("studio_id", Code(255), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("local_date", Code(10), nullable=False),  # at the studio, ISO 8601
    Column("tags", Text, nullable=False),  # the studio's, as they were: JSON list, sorted
    Column("test", Boolean, nullable=False),
    Column("state", Code(16), nullable=False),
    Column("reversed_why", Text),
    Column("source", Code(16), nullable=False),
    Column("plan_id", Code(255)),
    Column("plan_version", Integer),
    Index(None, "member_id", "local_date"),
)

# What members show at a desk instead of their ids; only hashes are stored. Rows go a day after they have expired.
enrolment_codes = Table(
    "enrolment_codes",
    metadata,
    Column("sha256", Code(64), primary_key=True),
    Column("member_id", Code(255), ForeignKey("members.id"), nullable=False, index=True),
    Column("expires_at_ms", BigInteger, nullable=False),
    Column("used_at_ms", BigInteger),
    Column("used_by", Code(255)),  # the studio
)

# Member validations, as answered. What was sent is not kept, since at a desk people type anything; `answers` has
# how an answer left, by the id. No row there: it was none in time, or nobody knows.
validations = Table(
    "validations",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=False),
    Column("id", Code(36), nullable=False, unique=True),
    Column("received_at_ms", BigInteger, nullable=False),
    Column("studio_id", Code(255), nullable=False),
    Column("member_id", Code(255), index=True),
    Column("code", Code(16)),  # the fingerprint of the code, where it was one
    Column("outcome", Code(16), nullable=False),
    Column("reason", Code(32), nullable=False),
    Column("key_fingerprint", Code(16), nullable=False),
)
# As a text, so that a query that says the same is known to fit the index.
missed = text("reason IN ('code_used', 'code_expired', 'unknown_member')")
Index(
    "ix_validations_studio_id_received_at_ms",
    validations.c.studio_id,
    validations.c.received_at_ms,
    sqlite_where=missed,
    postgresql_where=missed,
)

# Corrections: append-only, with who and why.
visit_changes = Table(
    "visit_changes",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=False),
    Column("visit_id", Code(36), nullable=False, index=True),
    Column("changed_at_ms", BigInteger, nullable=False),
    Column("state", Code(16), nullable=False),
    Column("who", Code(255), nullable=False),
    Column("why", Text, nullable=False),
)

# Nearly every visit is confirmed, and few are changed otherwise. Written out, so that SQLite knows it from its index.
no_confirmation = visit_changes.c.state != literal_column("'confirmed'")
Index(
    "ix_visit_changes_seq",
    visit_changes.c.seq,
    visit_changes.c.visit_id,
    sqlite_where=no_confirmation,
    postgresql_where=no_confirmation,
)

# A month that is closed, or that somebody has begun to close (see `closing`). Lines count once `closed_at_ms` is set.
statements = Table(
    "statements",
    metadata,
    Column("month", Code(7), primary_key=True),
    Column("attempt", Integer, nullable=False),  # closing that was broken off begins again with the next one
    Column("closed_at_ms", BigInteger),
    Column("closed_by", Code(255)),
    Column("payable_requires", Code(16), nullable=False),
    Column("position", BigInteger, nullable=False),  # what has a higher `seq` is for the next month's adjustments
    Column("line_count", BigInteger, nullable=False),
    Column("totals", Text, nullable=False),  # JSON list: a sum for each studio and plan
)

# What a closed month consists of, append-only: its visits as they were, and corrections of earlier months.
statement_lines = Table(
    "statement_lines",
    metadata,
    Column("month", Code(7), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Code(16), nullable=False),
    Column("payable", Integer, nullable=False),  # 1 or 0; of an adjustment 1 or -1
    Column("visit_id", Code(36), nullable=False, index=True),
    Column("member_id", Code(255), nullable=False, index=True),
    Column("studio_id", Code(255), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("local_date", Code(10), nullable=False),
    Column("state", Code(16), nullable=False),
    Column("source", Code(16), nullable=False),
    Column("plan_id", Code(255)),
    Column("plan_version", Integer),
    Column("confirmed_at_ms", BigInteger),
    Column("confirmed_by", Code(255)),
    Column("confirmation", Text),
    Column("adjusts", Code(7)),  # the month that has the visit's own line, where one has
    Column("changed_at_ms", BigInteger),
    Column("changed_by", Code(255)),
    Column("why", Text),
    sqlite_with_rowid=False,
)

# What the platform told by webhook, as it came: kept before it is answered, read afterwards (`guestgate.attendance`).
webhooks = Table(
    "webhooks",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=False),
    Column("uuid", Code(36), nullable=False),
    Column("studio_id", Code(255), nullable=False),
    Column("received_at_ms", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
    UniqueConstraint("uuid", "studio_id"),
)

# What happened to customers, one row for each source that told of it. ``reference`` is a webhook's uuid or the
# platform's number of a check-in. The last three are derived, by `guestgate.attendance`. A link's end by hand is
# here, too, at no studio: it counts against what the platform told before, for as long as that is kept.
sightings = Table(
    "sightings",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=False),
    Column("customer_id", BigInteger, nullable=False),
    Column("studio_id", Code(255), nullable=False),
    Column("kind", Code(16), nullable=False),
    Column("source", Code(16), nullable=False),
    Column("reference", Code(64), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("received_at_ms", BigInteger, nullable=False),
    Column("ours", Boolean, nullable=False),  # whether the customer is one of our members'
    Column("member_id", Code(255)),
    Column("visit_id", Code(36), index=True),
    UniqueConstraint("customer_id", "studio_id", "kind", "source", "reference"),
)
not_ours = sightings.c.ours.is_(False)
Index("ix_sightings_received_at_ms", sightings.c.received_at_ms, sqlite_where=not_ours, postgresql_where=not_ours)
unmatched = (sightings.c.kind == "entry") & sightings.c.visit_id.is_(None)
Index("ix_sightings_at_ms", sightings.c.at_ms, sqlite_where=unmatched, postgresql_where=unmatched)

# Which customers were named by a studio's check-ins, and with which member: '' where that was nobody's.
named_customers = Table(
    "named_customers",
    metadata,
    Column("customer_id", BigInteger, primary_key=True, autoincrement=False),
    Column("studio_id", Code(255), primary_key=True),
    Column("member_id", Code(255), primary_key=True, index=True),
    Column("last_at_ms", BigInteger, nullable=False),  # to the day
)

# One row at most: up to where decisions and webhooks have been read, until when somebody is reconciling, and when
# that was done last.
attendance_progress = Table(
    "attendance_progress",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
    Column("reconciling_until_ms", BigInteger, nullable=False),
    Column("reconciled_at_ms", BigInteger, nullable=False),
)

# Up to which instant a studio's visits have been held against the platform's history.
reconciled_studios = Table(
    "reconciled_studios",
    metadata,
    Column("studio_id", Code(255), ForeignKey("studios.id"), primary_key=True),
    Column("until_ms", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),  # what has a higher `seq` was recorded since
)
