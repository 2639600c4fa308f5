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
