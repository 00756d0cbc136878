-- The number of the newest act. Whoever acts holds this row until the act is there or is not, so numbers have no gaps and are seen in
-- their order.
CREATE TABLE moderation_head (
    one    BIGINT PRIMARY KEY CHECK (one = 1),
    number BIGINT NOT NULL
);
INSERT INTO moderation_head (one, number) VALUES (1, 0);

-- What was done, for good. Kinds as in `store/moderation.rs`; empty and 0 is what does not apply.
CREATE TABLE moderation_log (
    number           BIGINT PRIMARY KEY,
    time_us          BIGINT NOT NULL,
    kind             BIGINT NOT NULL,
    lifted           BIGINT NOT NULL,
    user_name        TEXT COLLATE "C" NOT NULL,
    channel          TEXT COLLATE "C" NOT NULL,
    token            TEXT COLLATE "C" NOT NULL,
    until_us         BIGINT NOT NULL,
    issued_before_us BIGINT NOT NULL,
    reason           TEXT NOT NULL,
    actor            TEXT NOT NULL,
    api_key          TEXT NOT NULL,
    idempotency_key  TEXT COLLATE "C" NOT NULL,
    changed          BIGINT NOT NULL
);
CREATE UNIQUE INDEX moderation_log_keys ON moderation_log (idempotency_key) WHERE idempotency_key <> '';

-- What is in force.
CREATE TABLE restrictions (
    kind             BIGINT NOT NULL,
    user_name        TEXT COLLATE "C" NOT NULL,
    channel          TEXT COLLATE "C" NOT NULL,
    token            TEXT COLLATE "C" NOT NULL,
    until_us         BIGINT NOT NULL,
    issued_before_us BIGINT NOT NULL,
    reason           TEXT NOT NULL,
    number           BIGINT NOT NULL,
    PRIMARY KEY (kind, user_name, channel, token)
);
CREATE INDEX restrictions_users ON restrictions (user_name);
CREATE INDEX restrictions_ends ON restrictions (until_us) WHERE until_us > 0;
