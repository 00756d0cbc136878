-- Messages as they stand in the log. `log` is a life of the shard's log: its ordinal in the upper 32 bits, its random
-- part in the lower. Times are Unix microseconds.
CREATE TABLE messages (
    log_time     INTEGER NOT NULL,
    shard        INTEGER NOT NULL,
    log          INTEGER NOT NULL,
    "offset"     INTEGER NOT NULL,
    channel_hash INTEGER NOT NULL,
    channel      TEXT NOT NULL,
    sender       TEXT,
    message      BLOB NOT NULL,
    PRIMARY KEY (log_time, shard, log, "offset")
) STRICT, WITHOUT ROWID;
-- What is read are pages of one channel in order. The name is compared on the row: two may have one hash.
CREATE INDEX messages_by_channel ON messages (channel_hash, log, "offset");

-- The newest message of each channel.
CREATE TABLE channels (
    name     TEXT PRIMARY KEY,
    log      INTEGER NOT NULL,
    "offset" INTEGER NOT NULL,
    log_time INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- How far each life of each shard's log is in `messages`; moved together with the rows.
CREATE TABLE progress (
    shard       INTEGER NOT NULL,
    log         INTEGER NOT NULL,
    read_to     INTEGER NOT NULL,
    complete_to INTEGER NOT NULL,
    owner_epoch INTEGER NOT NULL,
    PRIMARY KEY (shard, log)
) STRICT, WITHOUT ROWID;

-- Records that were gone before they were read.
CREATE TABLE holes (
    shard INTEGER NOT NULL,
    log   INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last  INTEGER NOT NULL,
    PRIMARY KEY (shard, log, first)
) STRICT, WITHOUT ROWID;

-- What was read and is no message that can be stored.
CREATE TABLE dead_letters (
    shard    INTEGER NOT NULL,
    log      INTEGER NOT NULL,
    "offset" INTEGER NOT NULL,
    reason   TEXT NOT NULL,
    bytes    BLOB NOT NULL,
    PRIMARY KEY (shard, log, "offset")
) STRICT, WITHOUT ROWID;
