-- In the order of each log, as followers read them.
CREATE INDEX messages_by_log ON messages (shard, log, "offset");

-- How far what is derived from messages is, for each that derives something; moved together with it.
CREATE TABLE followers (
    name    TEXT COLLATE "C" NOT NULL,
    shard   INTEGER NOT NULL,
    log     BIGINT NOT NULL,
    done_to BIGINT NOT NULL,
    PRIMARY KEY (name, shard, log)
) WITH (fillfactor = 50);

-- With what settings the index is made; no row or one.
CREATE TABLE search_settings (
    id       INTEGER PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    settings TEXT NOT NULL
);

-- Under which forms of words each message is found, by the day of its record as `messages` is. Among the forms are such that
-- stand for its channel, its sender and its time, so that one index answers all of a question.
CREATE TABLE search (
    log_time BIGINT NOT NULL,
    shard    INTEGER NOT NULL,
    log      BIGINT NOT NULL,
    "offset" BIGINT NOT NULL,
    words    TSVECTOR NOT NULL
) PARTITION BY RANGE (log_time);
CREATE INDEX search_words ON search USING gin (words) WITH (fastupdate = on, gin_pending_list_limit = 4096);
CREATE TABLE search_default PARTITION OF search DEFAULT;
