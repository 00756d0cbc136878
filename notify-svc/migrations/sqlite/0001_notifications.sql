-- What users are told, as it was accepted. Times are Unix microseconds; 0: never, or none.
CREATE TABLE notify_notifications (
    id BLOB PRIMARY KEY,
    user_name TEXT NOT NULL,
    category TEXT NOT NULL,
    idempotency_key TEXT,
    conversation TEXT NOT NULL,
    -- The message that it is about, in the life of its shard's log; all NULL: none.
    shard INTEGER,
    log INTEGER,
    "offset" INTEGER,
    created_us INTEGER NOT NULL,
    expires_us INTEGER NOT NULL,
    -- Since when it is shown in the app.
    shown_us INTEGER NOT NULL DEFAULT 0,
    seen_us INTEGER NOT NULL DEFAULT 0,
    read_us INTEGER NOT NULL DEFAULT 0,
    content TEXT NOT NULL
);
CREATE UNIQUE INDEX notify_notifications_key ON notify_notifications (user_name, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX notify_notifications_shown ON notify_notifications (user_name, shown_us, id) WHERE shown_us > 0;
CREATE INDEX notify_notifications_unread ON notify_notifications (user_name) WHERE shown_us > 0 AND read_us = 0;
CREATE INDEX notify_notifications_user ON notify_notifications (user_name);
CREATE INDEX notify_notifications_created ON notify_notifications (created_us);

-- One notification on one way to one device. While the state is at most 2 it is to be sent when it is due: who claims it moves that
-- behind the end of the claim, so that a claim whose holder died is due again by itself.
CREATE TABLE notify_deliveries (
    id BLOB PRIMARY KEY,
    notification BLOB NOT NULL REFERENCES notify_notifications (id) ON DELETE CASCADE,
    user_name TEXT NOT NULL,
    way INTEGER NOT NULL,
    -- Empty: not chosen yet, or in the app.
    device TEXT NOT NULL,
    -- The condition of an escalation: 1 unless seen, 2 unless read.
    unless INTEGER NOT NULL,
    -- 0 queued, 1 being sent, 2 held, 3 sent, 4 delivered, 5 failed, 6 cancelled, 7 suppressed.
    state INTEGER NOT NULL,
    reason TEXT NOT NULL,
    -- What the priority is worth, in microseconds: due times are compared after it is taken off.
    advance_us INTEGER NOT NULL,
    due_us INTEGER NOT NULL,
    rank_us INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    -- Claims since it was settled last: of a sender that dies of it again and again.
    claims INTEGER NOT NULL,
    claimed_by BLOB,
    digest TEXT,
    reference TEXT,
    settled_us INTEGER NOT NULL
);
CREATE UNIQUE INDEX notify_deliveries_one ON notify_deliveries (notification, way, device, unless);
CREATE INDEX notify_deliveries_rank ON notify_deliveries (rank_us, due_us) WHERE state <= 2;
CREATE INDEX notify_deliveries_due ON notify_deliveries (due_us) WHERE state <= 2;
CREATE INDEX notify_deliveries_digest ON notify_deliveries (digest) WHERE digest IS NOT NULL AND state <= 2;
CREATE INDEX notify_deliveries_failed ON notify_deliveries (settled_us, id) WHERE state = 5;
CREATE INDEX notify_deliveries_reference ON notify_deliveries (reference) WHERE reference IS NOT NULL;
CREATE INDEX notify_deliveries_user ON notify_deliveries (user_name);

CREATE TABLE notify_attempts (
    delivery BLOB NOT NULL REFERENCES notify_deliveries (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    time_us INTEGER NOT NULL,
    way INTEGER NOT NULL,
    provider TEXT NOT NULL,
    -- 0 accepted, 1 retry, 2 unknown, 3 refused, 4 gone, 5 account.
    result INTEGER NOT NULL,
    reason TEXT NOT NULL,
    reference TEXT NOT NULL,
    latency_ms INTEGER NOT NULL,
    PRIMARY KEY (delivery, number, time_us)
);
CREATE INDEX notify_attempts_time ON notify_attempts (time_us);

CREATE TABLE notify_devices (
    user_name TEXT NOT NULL,
    id TEXT NOT NULL,
    way INTEGER NOT NULL,
    provider TEXT NOT NULL,
    -- What is unique for a device: a token, a push endpoint. NULL: nothing.
    token TEXT,
    address TEXT NOT NULL,
    registered_us INTEGER NOT NULL,
    failing_us INTEGER NOT NULL,
    disabled INTEGER NOT NULL,
    PRIMARY KEY (user_name, id)
);
CREATE UNIQUE INDEX notify_devices_token ON notify_devices (provider, token) WHERE token IS NOT NULL;

CREATE TABLE notify_preferences (
    user_name TEXT PRIMARY KEY,
    document TEXT NOT NULL
);

CREATE TABLE notify_mutes (
    user_name TEXT NOT NULL,
    conversation TEXT NOT NULL,
    until_us INTEGER NOT NULL,
    PRIMARY KEY (user_name, conversation)
);

CREATE TABLE notify_templates (
    name TEXT NOT NULL,
    language TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (name, language)
);

-- What was sent to a user in an hour.
CREATE TABLE notify_counts (
    user_name TEXT NOT NULL,
    category TEXT NOT NULL,
    way INTEGER NOT NULL,
    hour INTEGER NOT NULL,
    sent INTEGER NOT NULL,
    PRIMARY KEY (user_name, category, way, hour)
);
CREATE INDEX notify_counts_hour ON notify_counts (hour);

-- How far each shard's log is read, and whose records count there.
CREATE TABLE notify_progress (
    shard INTEGER NOT NULL,
    log INTEGER NOT NULL,
    read_to INTEGER NOT NULL,
    owner_epoch INTEGER NOT NULL,
    PRIMARY KEY (shard, log)
);
