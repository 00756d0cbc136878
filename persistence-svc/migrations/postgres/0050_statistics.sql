-- How much was said. `period`: 1 minute, 2 hour, 3 day, 4 month, of UTC; `at`: its beginning in Unix seconds; `namespace`: '*' for all together.
CREATE TABLE statistics (
    period    BIGINT NOT NULL,
    namespace TEXT COLLATE "C" NOT NULL,
    at        BIGINT NOT NULL,
    messages  BIGINT NOT NULL,
    bytes     BIGINT NOT NULL,
    users     BIGINT NOT NULL,
    channels  BIGINT NOT NULL,
    PRIMARY KEY (period, namespace, at)
) WITH (fillfactor = 70);

-- Who (kind 1) and which channels (kind 2) were counted already, as hashes, until nothing more is to be counted of the period.
CREATE TABLE statistics_seen (
    period    BIGINT NOT NULL,
    at        BIGINT NOT NULL,
    namespace TEXT COLLATE "C" NOT NULL,
    kind      BIGINT NOT NULL,
    hash      BIGINT NOT NULL,
    PRIMARY KEY (period, at, namespace, kind, hash)
);

-- Messages of each channel, by days and months. Of periods that are over only the busiest channels are kept.
CREATE TABLE statistics_channels (
    period    BIGINT NOT NULL,
    at        BIGINT NOT NULL,
    channel   TEXT COLLATE "C" NOT NULL,
    namespace TEXT COLLATE "C" NOT NULL,
    messages  BIGINT NOT NULL,
    PRIMARY KEY (period, at, channel)
) WITH (fillfactor = 70);

-- What gateways delivered, by latency: counts by bucket.
CREATE TABLE statistics_deliveries (
    period    BIGINT NOT NULL,
    namespace TEXT COLLATE "C" NOT NULL,
    at        BIGINT NOT NULL,
    b0 BIGINT NOT NULL, b1 BIGINT NOT NULL, b2 BIGINT NOT NULL, b3 BIGINT NOT NULL, b4 BIGINT NOT NULL,
    b5 BIGINT NOT NULL, b6 BIGINT NOT NULL, b7 BIGINT NOT NULL, b8 BIGINT NOT NULL, b9 BIGINT NOT NULL,
    b10 BIGINT NOT NULL, b11 BIGINT NOT NULL, b12 BIGINT NOT NULL, b13 BIGINT NOT NULL, b14 BIGINT NOT NULL,
    b15 BIGINT NOT NULL, b16 BIGINT NOT NULL, b17 BIGINT NOT NULL, b18 BIGINT NOT NULL, b19 BIGINT NOT NULL,
    PRIMARY KEY (period, namespace, at)
) WITH (fillfactor = 70);

-- The newest report of each life of a gateway that is counted.
CREATE TABLE statistics_reports (
    gateway TEXT COLLATE "C" PRIMARY KEY,
    number  BIGINT NOT NULL,
    at      BIGINT NOT NULL
);
