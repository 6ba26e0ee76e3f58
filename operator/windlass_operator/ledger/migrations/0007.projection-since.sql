-- depends: 0003.stored-values

-- Since when a status is behind: projection lag is measured with the ledger's own clock.
ALTER TABLE projection_entry ADD COLUMN since timestamptz NOT NULL DEFAULT ledger_now();
