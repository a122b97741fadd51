"""The tables of the storage. What is not current is never found."""

VERSION = 2
#: What makes the next version of one: folders have an origin, versions a date, and passages may be another device's.
CHANGES = {
    1: "ALTER TABLE folders ADD COLUMN origin TEXT NOT NULL DEFAULT '';"
    "ALTER TABLE versions ADD COLUMN dated INTEGER NOT NULL DEFAULT 0;"
    "UPDATE versions SET dated = max(modified, 0);"
    "ALTER TABLE unembedded ADD COLUMN is_own INTEGER NOT NULL DEFAULT 1;"
}

#: Numbers of sources, versions and passages are never used again: a vector of one that is gone is nobody's.
SCHEMA = """
CREATE TABLE IF NOT EXISTS folders (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    path TEXT NOT NULL UNIQUE,
    label TEXT NOT NULL,
    origin TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS audiences (
    folder INTEGER NOT NULL REFERENCES folders (id),
    node TEXT NOT NULL,
    PRIMARY KEY (folder, node)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS forgotten (
    folder INTEGER NOT NULL REFERENCES folders (id),
    digest BLOB NOT NULL,
    PRIMARY KEY (folder, digest)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sources (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    folder INTEGER NOT NULL REFERENCES folders (id),
    path TEXT NOT NULL,
    UNIQUE (folder, path)
);
CREATE TABLE IF NOT EXISTS versions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    source INTEGER NOT NULL REFERENCES sources (id),
    is_current INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL,
    modified INTEGER NOT NULL,
    hash BLOB NOT NULL,
    dated INTEGER NOT NULL DEFAULT 0,
    parser TEXT NOT NULL,
    problem TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS versions_source ON versions (source);
CREATE UNIQUE INDEX IF NOT EXISTS current_versions ON versions (source) WHERE is_current;
CREATE INDEX IF NOT EXISTS current_hashes ON versions (hash) WHERE is_current;
CREATE TABLE IF NOT EXISTS passages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    version INTEGER NOT NULL REFERENCES versions (id),
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    first_line INTEGER NOT NULL,
    last_line INTEGER NOT NULL,
    cell TEXT NOT NULL,
    ran INTEGER NOT NULL,
    symbol TEXT NOT NULL,
    text TEXT NOT NULL,
    identifiers TEXT NOT NULL,
    header TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS passages_version ON passages (version);
CREATE INDEX IF NOT EXISTS passages_symbol ON passages (symbol) WHERE symbol <> '';
CREATE TABLE IF NOT EXISTS relations (
    passage INTEGER NOT NULL REFERENCES passages (id),
    kind TEXT NOT NULL,
    target TEXT NOT NULL,
    symbol TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS relations_passage ON relations (passage);
CREATE INDEX IF NOT EXISTS relations_symbol ON relations (symbol, kind);
CREATE TABLE IF NOT EXISTS indexes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    model TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    dimensions INTEGER NOT NULL,
    generation INTEGER NOT NULL DEFAULT 1,
    owed INTEGER NOT NULL DEFAULT 0,
    is_urgent INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS unembedded (
    in_index INTEGER NOT NULL REFERENCES indexes (id),
    passage INTEGER NOT NULL,
    is_tried INTEGER NOT NULL DEFAULT 0,
    is_own INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (in_index, passage)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS unembedded_own ON unembedded (in_index, is_own, passage);
CREATE TABLE IF NOT EXISTS entries (
    origin TEXT NOT NULL,
    item BLOB NOT NULL,
    seq INTEGER NOT NULL,
    source INTEGER REFERENCES sources (id),
    here INTEGER NOT NULL DEFAULT 0,
    is_gone INTEGER NOT NULL DEFAULT 0,
    salt BLOB NOT NULL DEFAULT x'',
    hash BLOB NOT NULL DEFAULT x'',
    size INTEGER NOT NULL DEFAULT 0,
    signature BLOB,
    PRIMARY KEY (origin, item)
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS entries_seq ON entries (origin, seq);
CREATE UNIQUE INDEX IF NOT EXISTS entries_source ON entries (source) WHERE source IS NOT NULL;
CREATE VIEW IF NOT EXISTS current_passages AS
    SELECT passages.* FROM passages JOIN versions ON versions.id = passages.version WHERE versions.is_current;
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (
    text, identifiers, header,
    content = 'current_passages', content_rowid = 'id', tokenize = 'porter unicode61'
);
CREATE VIRTUAL TABLE IF NOT EXISTS vocabulary USING fts5vocab (words, row);
"""
