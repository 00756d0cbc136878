-- What became of messages. Rows of `messages` are kept as they are to be shown: an edited one has its new payload, a
-- deleted one has none. These tables tell what is not in the row.
-- A row for each message that was changed or answered. "log", "offset" name that message; it need not be stored (any more).
CREATE TABLE folds (
    channel_hash  BIGINT NOT NULL,
    log           BIGINT NOT NULL,
    "offset"      BIGINT NOT NULL,
    channel       TEXT COLLATE "C" NOT NULL,
    -- The edit that holds, and how many there were.
    edit_log      BIGINT,
    edit_offset   BIGINT,
    edit_time     BIGINT,
    edits         BIGINT NOT NULL,
    -- The first deletion.
    delete_log    BIGINT,
    delete_offset BIGINT,
    delete_time   BIGINT,
    -- The newest reply, and how many there were.
    reply_log     BIGINT,
    reply_offset  BIGINT,
    reply_time    BIGINT,
    replies       BIGINT NOT NULL,
    PRIMARY KEY (channel_hash, log, "offset", channel)
) WITH (fillfactor = 80);

-- Which rows of `messages` edit a message (kind 1) or answer it (kind 2): their whole keys, in the order of the log.
CREATE TABLE changes (
    channel_hash  BIGINT NOT NULL,
    target_log    BIGINT NOT NULL,
    target_offset BIGINT NOT NULL,
    kind          SMALLINT NOT NULL,
    log           BIGINT NOT NULL,
    "offset"      BIGINT NOT NULL,
    channel       TEXT COLLATE "C" NOT NULL,
    log_time      BIGINT NOT NULL,
    shard         INTEGER NOT NULL,
    PRIMARY KEY (channel_hash, target_log, target_offset, kind, log, "offset", channel)
);

-- Who feels what about a message; event_log, event_offset: since which change. One that was taken back stays as such, for a
-- change that is read late.
CREATE TABLE reactions (
    channel_hash BIGINT NOT NULL,
    log          BIGINT NOT NULL,
    "offset"     BIGINT NOT NULL,
    reaction     TEXT COLLATE "C" NOT NULL,
    user_name    TEXT COLLATE "C" NOT NULL,
    channel      TEXT COLLATE "C" NOT NULL,
    event_log    BIGINT NOT NULL,
    event_offset BIGINT NOT NULL,
    present      BOOLEAN NOT NULL,
    PRIMARY KEY (channel_hash, log, "offset", reaction, user_name, channel)
) WITH (fillfactor = 80);
