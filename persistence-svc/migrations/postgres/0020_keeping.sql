-- What is kept from expiry and erasure, whatever the settings say: channels, users, namespaces.
CREATE TABLE holds (
    kind     TEXT COLLATE "C" NOT NULL,
    name     TEXT COLLATE "C" NOT NULL,
    since_us BIGINT NOT NULL,
    reason   TEXT NOT NULL,
    PRIMARY KEY (kind, name)
);

-- Users whose data was deleted on request, up to when. Applied to whatever is written later and is older.
CREATE TABLE erasures (
    user_name TEXT COLLATE "C" PRIMARY KEY,
    until_us  BIGINT NOT NULL
);
