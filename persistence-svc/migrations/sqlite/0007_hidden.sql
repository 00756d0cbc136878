-- Up to where the messages of a channel are hidden (`history_remove` of the server API): read from the state records of the
-- log, which forget a mark once what it hides is purged there. Messages up to here are not shown.
CREATE TABLE hidden (
    channel  TEXT PRIMARY KEY,
    log      INTEGER NOT NULL,
    "offset" INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
