-- Holds that were lifted while what they kept from erasures is not blanked yet: one that was broken off is taken up again.
CREATE TABLE lifts (
    kind TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (kind, name)
);
