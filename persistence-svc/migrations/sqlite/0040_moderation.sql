-- The number of the newest act. There is one writer at a time, so numbers have no gaps and are seen in
-- their order.
CREATE TABLE moderation_head (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    number INTEGER NOT NULL
) STRICT;
INSERT INTO moderation_head (one, number) VALUES (1, 0);

-- What was done, for good. Kinds as in `store/moderation.rs`; empty and 0 is what does not apply.
CREATE TABLE moderation_log (
    number           INTEGER PRIMARY KEY,
    time_us          INTEGER NOT NULL,
    kind             INTEGER NOT NULL,
    lifted           INTEGER NOT NULL,
    user_name        TEXT NOT NULL,
    channel          TEXT NOT NULL,
    token            TEXT NOT NULL,
    until_us         INTEGER NOT NULL,
    issued_before_us INTEGER NOT NULL,
    reason           TEXT NOT NULL,
    actor            TEXT NOT NULL,
    api_key          TEXT NOT NULL,
    idempotency_key  TEXT NOT NULL,
    changed          INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX moderation_log_keys ON moderation_log (idempotency_key) WHERE idempotency_key <> '';

-- What is in force.
CREATE TABLE restrictions (
    kind             INTEGER NOT NULL,
    user_name        TEXT NOT NULL,
    channel          TEXT NOT NULL,
    token            TEXT NOT NULL,
    until_us         INTEGER NOT NULL,
    issued_before_us INTEGER NOT NULL,
    reason           TEXT NOT NULL,
    number           INTEGER NOT NULL,
    PRIMARY KEY (kind, user_name, channel, token)
) STRICT, WITHOUT ROWID;
CREATE INDEX restrictions_users ON restrictions (user_name);
CREATE INDEX restrictions_ends ON restrictions (until_us) WHERE until_us > 0;
