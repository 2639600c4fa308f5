CREATE TABLE event (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms      INTEGER NOT NULL,
    project    TEXT NOT NULL,
    sandbox    TEXT,
    sandbox_id TEXT,
    kind       TEXT NOT NULL,
    detail     TEXT                         -- JSON
) STRICT;
CREATE TABLE image (
    digest      TEXT PRIMARY KEY,
    config_json TEXT NOT NULL,
    size_bytes  INTEGER NOT NULL,
    created_ms  INTEGER NOT NULL
, manifest BLOB, config BLOB) STRICT;
CREATE TABLE image_ref (
    reference   TEXT NOT NULL,
    platform    TEXT NOT NULL,
    digest      TEXT NOT NULL,
    resolved_ms INTEGER NOT NULL,
    PRIMARY KEY (reference, platform)
) STRICT;
CREATE TABLE journal (
    id         INTEGER PRIMARY KEY,
    project    TEXT NOT NULL,
    serial     INTEGER NOT NULL,
    step       TEXT NOT NULL,
    state      TEXT NOT NULL,
    updated_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX journal_open ON journal (project, state);
CREATE TABLE lease (
    project     TEXT PRIMARY KEY,
    pid         INTEGER NOT NULL,
    start_time  INTEGER NOT NULL,
    boot_id     TEXT NOT NULL,
    command     TEXT NOT NULL,
    acquired_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE project (
    name        TEXT PRIMARY KEY,
    root        TEXT NOT NULL,              -- directory of the Sandboxfile, absolute
    files       TEXT NOT NULL,              -- JSON array of the files it was read from
    serial      INTEGER NOT NULL DEFAULT 0, -- rises with every change of spec columns
    fingerprint TEXT,                       -- of the inputs of the last complete `up`; cleared by every change
    updated_ms  INTEGER NOT NULL
) STRICT;
CREATE TABLE sandbox (
    -- Spec columns, written by reconcile.
    id           TEXT PRIMARY KEY,
    project      TEXT NOT NULL REFERENCES project (name),
    name         TEXT NOT NULL,
    spec_json    TEXT NOT NULL,
    spec_hash    TEXT NOT NULL,
    image_digest TEXT,
    origin_file  TEXT,
    protect      INTEGER NOT NULL DEFAULT 0,
    driver       TEXT,
    created_ms   INTEGER NOT NULL,
    -- Status columns, written by the supervisor of the run (and settled by observers when it is dead).
    status       TEXT NOT NULL DEFAULT 'created',
    health       TEXT,
    pid          INTEGER,
    start_time   INTEGER,
    boot_id      TEXT,
    run_id       TEXT,
    exit_code    INTEGER,
    started_ms   INTEGER,
    finished_ms  INTEGER,
    error        TEXT,
    UNIQUE (project, name)
) STRICT;
CREATE TABLE volume (
    id          TEXT PRIMARY KEY,
    project     TEXT,
    name        TEXT NOT NULL,
    kind        TEXT NOT NULL,
    quota_bytes INTEGER,
    labels_json TEXT NOT NULL,
    protect     INTEGER NOT NULL DEFAULT 0,
    origin_file TEXT,
    created_ms  INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX volume_name ON volume (ifnull(project, ''), name);
