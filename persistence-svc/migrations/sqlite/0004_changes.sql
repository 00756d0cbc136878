-- What became of messages. Rows of `messages` are kept as they are to be shown: an edited one has its new payload, a
-- deleted one has none. These tables tell what is not in the row.
-- A row for each message that was changed or answered. "log", "offset" name that message; it need not be stored (any more).
CREATE TABLE folds (
    channel_hash  INTEGER NOT NULL,
    log           INTEGER NOT NULL,
    "offset"      INTEGER NOT NULL,
    channel       TEXT NOT NULL,
    -- The edit that holds, and how many there were.
    edit_log      INTEGER,
    edit_offset   INTEGER,
    edit_time     INTEGER,
    edits         INTEGER NOT NULL,
    -- The first deletion.
    delete_log    INTEGER,
    delete_offset INTEGER,
    delete_time   INTEGER,
    -- The newest reply, and how many there were.
    reply_log     INTEGER,
    reply_offset  INTEGER,
    reply_time    INTEGER,
    replies       INTEGER NOT NULL,
    PRIMARY KEY (channel_hash, log, "offset", channel)
) STRICT, WITHOUT ROWID;

-- Which rows of `messages` edit a message (kind 1) or answer it (kind 2): their whole keys, in the order of the log.
CREATE TABLE changes (
    channel_hash  INTEGER NOT NULL,
    target_log    INTEGER NOT NULL,
    target_offset INTEGER NOT NULL,
    kind          INTEGER NOT NULL,
    log           INTEGER NOT NULL,
    "offset"      INTEGER NOT NULL,
    channel       TEXT NOT NULL,
    log_time      INTEGER NOT NULL,
    shard         INTEGER NOT NULL,
    PRIMARY KEY (channel_hash, target_log, target_offset, kind, log, "offset", channel)
) STRICT, WITHOUT ROWID;

-- Who feels what about a message; event_log, event_offset: since which change. One that was taken back stays as such, for a
-- change that is read late.
CREATE TABLE reactions (
    channel_hash INTEGER NOT NULL,
    log          INTEGER NOT NULL,
    "offset"     INTEGER NOT NULL,
    reaction     TEXT NOT NULL,
    user_name    TEXT NOT NULL,
    channel      TEXT NOT NULL,
    event_log    INTEGER NOT NULL,
    event_offset INTEGER NOT NULL,
    present      INTEGER NOT NULL,
    PRIMARY KEY (channel_hash, log, "offset", reaction, user_name, channel)
) STRICT, WITHOUT ROWID;
