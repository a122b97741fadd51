"""The tables of the ledger. Amounts are whole credits; see `credits`."""

VERSION = 1

#: An account has two directions: what the peer signed for (`is_own` 0), and what this device did (1). A row is a
#: session, a gift, or what became known again after a backup was restored. The credits of a direction's rows add up to
#: the total of its newest voucher. `digest` is that of the tokens that a voucher names, `output_digest` that of the
#: whole answer, where it is another one. `strangers` says how much of the allowance that they share was given away as
#: time went by. `checked` is what a check has found, above `check_limit` something wrong.
SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (
    id INTEGER PRIMARY KEY,
    peer BLOB NOT NULL, peer_swarm BLOB NOT NULL, own_swarm BLOB NOT NULL,
    written_off INTEGER NOT NULL DEFAULT 0, leaked INTEGER NOT NULL DEFAULT 0, begun_at INTEGER NOT NULL DEFAULT 0,
    moment INTEGER NOT NULL DEFAULT 0, at_risk INTEGER NOT NULL DEFAULT 0,
    pace INTEGER NOT NULL DEFAULT 0, is_stranger INTEGER NOT NULL DEFAULT 0,
    UNIQUE (peer, peer_swarm, own_swarm)
);
CREATE TABLE IF NOT EXISTS strangers (
    own_swarm BLOB PRIMARY KEY, leaked INTEGER NOT NULL, moment INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS vouchers (
    account INTEGER NOT NULL REFERENCES accounts (id), is_own INTEGER NOT NULL,
    body BLOB NOT NULL, signature BLOB NOT NULL,
    PRIMARY KEY (account, is_own)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS models (
    id INTEGER PRIMARY KEY, digest BLOB NOT NULL, name TEXT NOT NULL, parameters INTEGER NOT NULL,
    UNIQUE (digest, name, parameters)
);
CREATE TABLE IF NOT EXISTS rows (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account INTEGER NOT NULL REFERENCES accounts (id), is_own INTEGER NOT NULL, kind INTEGER NOT NULL,
    session BLOB NOT NULL, credits INTEGER NOT NULL DEFAULT 0, written_off INTEGER NOT NULL DEFAULT 0,
    time INTEGER NOT NULL,
    model INTEGER REFERENCES models (id), price INTEGER, prompt INTEGER, generated INTEGER,
    total INTEGER, gifts INTEGER, tokens INTEGER, digest BLOB, signed INTEGER, signature BLOB,
    checked REAL, check_limit REAL, note TEXT,
    seed INTEGER, finish INTEGER, prompt_digest BLOB, output_digest BLOB, receipted INTEGER, receipt BLOB
);
"""
