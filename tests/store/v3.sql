-- A database of schema version 3, as it was released. Never edited.
-- What a user declared, by project.
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

-- Images in the cache, by manifest digest.
CREATE TABLE image (
    digest      TEXT PRIMARY KEY,
    config_json TEXT NOT NULL,
    size_bytes  INTEGER NOT NULL,
    created_ms  INTEGER NOT NULL
, manifest BLOB, config BLOB) STRICT;

-- What a reference meant when it was last resolved.
CREATE TABLE image_ref (
    reference   TEXT NOT NULL,
    platform    TEXT NOT NULL,
    digest      TEXT NOT NULL,
    resolved_ms INTEGER NOT NULL,
    PRIMARY KEY (reference, platform)
) STRICT;

-- Steps of plans: written before they are applied, closed after.
CREATE TABLE journal (
    id         INTEGER PRIMARY KEY,
    project    TEXT NOT NULL,
    serial     INTEGER NOT NULL,
    step       TEXT NOT NULL,
    state      TEXT NOT NULL,
    updated_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX journal_open ON journal (project, state);

-- Who works on a project. The lock is a file; the row says whose it is.
CREATE TABLE lease (
    project     TEXT PRIMARY KEY,
    pid         INTEGER NOT NULL,
    start_time  INTEGER NOT NULL,
    boot_id     TEXT NOT NULL,
    command     TEXT NOT NULL,
    acquired_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE event (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms      INTEGER NOT NULL,
    project    TEXT NOT NULL,
    sandbox    TEXT,
    sandbox_id TEXT,
    kind       TEXT NOT NULL,
    detail     TEXT                         -- JSON
) STRICT;
-- Volumes: those of a project, and those that belong to none. A project that is forgotten keeps its volumes.
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
INSERT INTO project VALUES ('shop', '/srv/shop', '["/srv/shop/Sandboxfile"]', 7, 'f00d', 1700000000000);
INSERT INTO sandbox VALUES ('0123456789ab', 'shop', 'web', '{"image":{"oci":"nginx"}}', 'abc', 'sha256:1', 'Sandboxfile', 1, 'qemu', 1700000000001,
    'running', 'healthy', 4242, 99, 'boot-1', 'run-1', NULL, 1700000000002, NULL, NULL);
INSERT INTO sandbox VALUES ('ba9876543210', 'shop', 'job', '{}', 'def', NULL, NULL, 0, NULL, 1700000000003,
    'stopped', NULL, 4243, 100, 'boot-1', 'run-2', 3, 1700000000004, 1700000000005, 'the workload failed');
INSERT INTO image VALUES ('sha256:1', '{}', 4096, 1700000000000, x'7b7d', x'7b7d');
INSERT INTO image_ref VALUES ('nginx', 'linux/amd64', 'sha256:1', 1700000000000);
INSERT INTO journal VALUES (1, 'shop', 7, 'start web', 'intent', 1700000000000);
INSERT INTO lease VALUES ('shop', 4241, 98, 'boot-1', 'msb up', 1700000000000);
INSERT INTO event VALUES (41, 1700000000000, 'shop', 'web', '0123456789ab', 'running', NULL);
INSERT INTO volume VALUES ('00000000000a', 'shop', 'data', 'disk', 1073741824, '{"keep":"yes"}', 1, 'Sandboxfile', 1700000000006);
INSERT INTO volume VALUES ('00000000000b', NULL, 'data', 'dir', NULL, '{}', 0, NULL, 1700000000007);
PRAGMA application_id = 1836278272;
PRAGMA user_version = 3;
