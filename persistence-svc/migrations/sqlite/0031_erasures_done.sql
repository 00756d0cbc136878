-- Whether all that a user said was blanked: an erasure that was broken off is taken up again. Those that are here are done.
ALTER TABLE erasures ADD COLUMN done INTEGER NOT NULL DEFAULT 1;
