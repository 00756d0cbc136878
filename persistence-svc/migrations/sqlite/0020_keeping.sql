-- What is kept from expiry and erasure, whatever the settings say: channels, users, namespaces.
CREATE TABLE holds (
    kind     TEXT NOT NULL,
    name     TEXT NOT NULL,
    since_us INTEGER NOT NULL,
    reason   TEXT NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;

-- Users whose data was deleted on request, up to when. Applied to whatever is written later and is older.
CREATE TABLE erasures (
    user_name TEXT PRIMARY KEY,
    until_us  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
