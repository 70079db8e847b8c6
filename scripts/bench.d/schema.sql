-- The tables of both Python baselines.
CREATE TABLE studios (id TEXT PRIMARY KEY, name TEXT NOT NULL, timezone TEXT NOT NULL);
CREATE TABLE api_keys (sha256 TEXT PRIMARY KEY, studio_id TEXT NOT NULL REFERENCES studios);
CREATE TABLE plans (id TEXT PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE plan_limits (
    id INTEGER PRIMARY KEY,
    plan_id TEXT NOT NULL REFERENCES plans,
    max INTEGER NOT NULL,
    per TEXT NOT NULL CHECK (per IN ('day', 'month')),
    scope TEXT NOT NULL CHECK (scope IN ('network', 'studio'))
);
CREATE INDEX plan_limits_of_plan ON plan_limits (plan_id);
CREATE TABLE members (id TEXT PRIMARY KEY, plan_id TEXT NOT NULL REFERENCES plans);
CREATE TABLE decisions (
    id TEXT PRIMARY KEY,
    received_at TEXT NOT NULL,
    studio_id TEXT NOT NULL REFERENCES studios,
    aggregator_id TEXT NOT NULL,
    customer_id INTEGER NOT NULL,
    decision TEXT NOT NULL,
    reason TEXT NOT NULL
);
CREATE TABLE visits (
    id TEXT PRIMARY KEY REFERENCES decisions,
    member_id TEXT NOT NULL REFERENCES members,
    studio_id TEXT NOT NULL REFERENCES studios,
    at TEXT NOT NULL,
    local_date TEXT NOT NULL
);
CREATE INDEX visits_of_member ON visits (member_id, local_date);
