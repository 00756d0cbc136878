-- Messages as they stand in the log, by the day of their record. `log` is a life of the shard's log: its ordinal in
-- the upper 32 bits, its random part in the lower. Times are Unix microseconds.
CREATE TABLE messages (
    log_time     BIGINT NOT NULL,
    shard        INTEGER NOT NULL,
    log          BIGINT NOT NULL,
    "offset"     BIGINT NOT NULL,
    channel_hash BIGINT NOT NULL,
    channel      TEXT COLLATE "C" NOT NULL,
    sender       TEXT COLLATE "C",
    message      BYTEA NOT NULL,
    PRIMARY KEY (log_time, shard, log, "offset")
) PARTITION BY RANGE (log_time);
-- What is read are pages of one channel in order. The name is compared on the row: two may have one hash.
CREATE INDEX messages_by_channel ON messages (channel_hash, log, "offset");
-- Days without a partition of their own: a clock that is wrong stops nothing.
CREATE TABLE messages_default PARTITION OF messages DEFAULT;

-- The newest message of each channel.
CREATE TABLE channels (
    name      TEXT COLLATE "C" PRIMARY KEY,
    log       BIGINT NOT NULL,
    "offset"  BIGINT NOT NULL,
    log_time  BIGINT NOT NULL
) WITH (fillfactor = 70);

-- How far each life of each shard's log is in `messages`; moved together with the rows.
CREATE TABLE progress (
    shard       INTEGER NOT NULL,
    log         BIGINT NOT NULL,
    read_to     BIGINT NOT NULL,
    complete_to BIGINT NOT NULL,
    owner_epoch BIGINT NOT NULL,
    PRIMARY KEY (shard, log)
) WITH (fillfactor = 50);

-- Records that were gone before they were read.
CREATE TABLE holes (
    shard INTEGER NOT NULL,
    log   BIGINT NOT NULL,
    first BIGINT NOT NULL,
    last  BIGINT NOT NULL,
    PRIMARY KEY (shard, log, first)
);

-- What was read and is no message that can be stored.
CREATE TABLE dead_letters (
    shard    INTEGER NOT NULL,
    log      BIGINT NOT NULL,
    "offset" BIGINT NOT NULL,
    reason   TEXT NOT NULL,
    bytes    BYTEA NOT NULL,
    PRIMARY KEY (shard, log, "offset")
);
