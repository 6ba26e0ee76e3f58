-- depends: 0008.waits

-- Runs that runs have started. No foreign keys: parents will move to history before children that outlive them.
ALTER TABLE run ADD COLUMN parent_id uuid;
ALTER TABLE run ADD COLUMN root_id uuid;                        -- the run without a parent at the top; absent in that one
ALTER TABLE run ADD COLUMN depth smallint NOT NULL DEFAULT 0;   -- levels below it
ALTER TABLE run ADD COLUMN detached boolean NOT NULL DEFAULT false;  -- goes on when its parent is cancelled
CREATE INDEX run_by_parent ON run (parent_id, id) WHERE parent_id IS NOT NULL;
-- Those that end with their parent if that is cancelled: few, and gone from here when they have ended.
CREATE INDEX run_unfinished_child ON run (parent_id) WHERE parent_id IS NOT NULL AND finished_at IS NULL AND NOT detached;

-- The run that a step has started. A large result is a blob of that run, not of the one that waits for it.
ALTER TABLE step ADD COLUMN child_id uuid;
ALTER TABLE step ADD COLUMN result_of uuid GENERATED ALWAYS AS (coalesce(child_id, run_id)) STORED;
ALTER TABLE step DROP CONSTRAINT step_result_stored;
ALTER TABLE step ADD CONSTRAINT step_result_stored FOREIGN KEY (result_of, result_sha256) REFERENCES blob (run_id, sha256);
