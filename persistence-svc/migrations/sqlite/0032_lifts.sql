-- Holds that were lifted while what they kept from erasures is not blanked yet: one that was broken off is taken up again.
CREATE TABLE lifts (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
