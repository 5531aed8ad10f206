-- Figures that nodes sent by themselves, and what was subscribed to (docs/protocol/11-advisor-kit.md §7, §12).
CREATE TABLE adv_telemetry (
    client_id  TEXT NOT NULL,
    metric     TEXT NOT NULL,
    ts         INTEGER NOT NULL,
    value_json TEXT NOT NULL,
    sub_id     TEXT NOT NULL,
    seq        INTEGER NOT NULL,
    PRIMARY KEY (client_id, metric, ts)
) STRICT;
CREATE INDEX adv_telemetry_sub ON adv_telemetry (client_id, sub_id, seq);

CREATE TABLE adv_telemetry_subs (
    sub_id     TEXT PRIMARY KEY,
    client_id  TEXT NOT NULL,
    metrics    TEXT NOT NULL,
    interval_s INTEGER NOT NULL,
    span_s     INTEGER NOT NULL,
    until      INTEGER NOT NULL,
    renew_at   INTEGER NOT NULL
) STRICT;
