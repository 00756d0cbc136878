-- In the order of each log, as followers read them.
CREATE INDEX messages_by_log ON messages (shard, log, "offset");

-- How far what is derived from messages is, for each that derives something; moved together with it.
CREATE TABLE followers (
    name    TEXT NOT NULL,
    shard   INTEGER NOT NULL,
    log     INTEGER NOT NULL,
    done_to INTEGER NOT NULL,
    PRIMARY KEY (name, shard, log)
) STRICT, WITHOUT ROWID;

-- With what settings the index is made; no row or one.
CREATE TABLE search_settings (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    settings TEXT NOT NULL
) STRICT;

-- Under which forms of words each message is found. Its row numbers are those of `search_places`.
CREATE VIRTUAL TABLE search USING fts5 (words, tokenize = 'ascii', content = '', contentless_delete = 1, detail = none);

-- The message of each row. `id` is its time in milliseconds, times 2^20, and a number of its own: so rows stand in the order of time.
CREATE TABLE search_places (
    id       INTEGER PRIMARY KEY,
    log_time INTEGER NOT NULL,
    shard    INTEGER NOT NULL,
    log      INTEGER NOT NULL,
    "offset" INTEGER NOT NULL
) STRICT;
