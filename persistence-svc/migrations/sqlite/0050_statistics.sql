-- How much was said. `period`: 1 minute, 2 hour, 3 day, 4 month, of UTC; `at`: its beginning in Unix seconds; `namespace`: '*' for all together.
CREATE TABLE statistics (
    period    INTEGER NOT NULL,
    namespace TEXT NOT NULL,
    at        INTEGER NOT NULL,
    messages  INTEGER NOT NULL,
    bytes     INTEGER NOT NULL,
    users     INTEGER NOT NULL,
    channels  INTEGER NOT NULL,
    PRIMARY KEY (period, namespace, at)
) STRICT, WITHOUT ROWID;

-- Who (kind 1) and which channels (kind 2) were counted already, as hashes, until nothing more is to be counted of the period.
CREATE TABLE statistics_seen (
    period    INTEGER NOT NULL,
    at        INTEGER NOT NULL,
    namespace TEXT NOT NULL,
    kind      INTEGER NOT NULL,
    hash      INTEGER NOT NULL,
    PRIMARY KEY (period, at, namespace, kind, hash)
) STRICT, WITHOUT ROWID;

-- Messages of each channel, by days and months. Of periods that are over only the busiest channels are kept.
CREATE TABLE statistics_channels (
    period    INTEGER NOT NULL,
    at        INTEGER NOT NULL,
    channel   TEXT NOT NULL,
    namespace TEXT NOT NULL,
    messages  INTEGER NOT NULL,
    PRIMARY KEY (period, at, channel)
) STRICT, WITHOUT ROWID;

-- What gateways delivered, by latency: counts by bucket.
CREATE TABLE statistics_deliveries (
    period    INTEGER NOT NULL,
    namespace TEXT NOT NULL,
    at        INTEGER NOT NULL,
    b0 INTEGER NOT NULL, b1 INTEGER NOT NULL, b2 INTEGER NOT NULL, b3 INTEGER NOT NULL, b4 INTEGER NOT NULL,
    b5 INTEGER NOT NULL, b6 INTEGER NOT NULL, b7 INTEGER NOT NULL, b8 INTEGER NOT NULL, b9 INTEGER NOT NULL,
    b10 INTEGER NOT NULL, b11 INTEGER NOT NULL, b12 INTEGER NOT NULL, b13 INTEGER NOT NULL, b14 INTEGER NOT NULL,
    b15 INTEGER NOT NULL, b16 INTEGER NOT NULL, b17 INTEGER NOT NULL, b18 INTEGER NOT NULL, b19 INTEGER NOT NULL,
    PRIMARY KEY (period, namespace, at)
) STRICT, WITHOUT ROWID;

-- The newest report of each life of a gateway that is counted.
CREATE TABLE statistics_reports (
    gateway TEXT PRIMARY KEY,
    number  INTEGER NOT NULL,
    at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
