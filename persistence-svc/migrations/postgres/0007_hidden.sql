-- Up to where the messages of a channel are hidden (`history_remove` of the server API): read from the state records of the
-- log, which forget a mark once what it hides is purged there. Messages up to here are not shown.
CREATE TABLE hidden (
    channel  TEXT COLLATE "C" PRIMARY KEY,
    log      BIGINT NOT NULL,
    "offset" BIGINT NOT NULL
);
