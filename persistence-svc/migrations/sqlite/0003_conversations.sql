-- Who is in a channel, as its events say: the newest counts, whatever order they are read in. A row stays when the user goes,
-- so that an event that is read again does not bring him back. `since` is the event he came with.
CREATE TABLE members (
    channel        TEXT NOT NULL,
    user_name      TEXT NOT NULL,
    -- 0: no member any more, 1: member, 2: owner
    role           INTEGER NOT NULL,
    log            INTEGER NOT NULL,
    "offset"       INTEGER NOT NULL,
    since_log      INTEGER NOT NULL,
    since_offset   INTEGER NOT NULL,
    PRIMARY KEY (channel, user_name)
) STRICT, WITHOUT ROWID;
CREATE INDEX members_by_user ON members (user_name, channel) WHERE role > 0;

-- Of each channel with members: its newest such event, and how many there are.
CREATE TABLE memberships (
    channel  TEXT PRIMARY KEY,
    log      INTEGER NOT NULL,
    "offset" INTEGER NOT NULL,
    members  INTEGER NOT NULL,
    owners   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The channels whose names say who is there, by user, once something was said in them.
CREATE TABLE conversations (
    user_name TEXT NOT NULL,
    channel   TEXT NOT NULL,
    PRIMARY KEY (user_name, channel)
) STRICT, WITHOUT ROWID;

-- Entries of a channel that tell of a change: nobody has them unread.
CREATE TABLE uncounted (
    channel  TEXT NOT NULL,
    log      INTEGER NOT NULL,
    "offset" INTEGER NOT NULL,
    PRIMARY KEY (channel, log, "offset")
) STRICT, WITHOUT ROWID;

-- Up to where users were given and have read a channel; 0: nothing. Not in the log: a lost table is filled as they go on.
CREATE TABLE receipts (
    channel          TEXT NOT NULL,
    user_name        TEXT NOT NULL,
    delivered_log    INTEGER NOT NULL,
    delivered_offset INTEGER NOT NULL,
    read_log         INTEGER NOT NULL,
    read_offset      INTEGER NOT NULL,
    PRIMARY KEY (channel, user_name)
) STRICT, WITHOUT ROWID;
CREATE INDEX receipts_delivered ON receipts (channel, delivered_log, delivered_offset, user_name);
CREATE INDEX receipts_read ON receipts (channel, read_log, read_offset, user_name);
