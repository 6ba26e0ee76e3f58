-- depends: 0003.stored-values

-- Lists of runs. None of these indexes has a column that changes while a run is under way: an index on `state` would make
-- every change of a run rewrite all index entries. `final_state` is null until the end, and changes once.
ALTER TABLE run ADD COLUMN final_state text GENERATED ALWAYS AS (CASE WHEN finished_at IS NOT NULL THEN state END) STORED;

CREATE INDEX run_by_created ON run (project_id, created_at, id);
CREATE INDEX run_by_task ON run (project_id, task, created_at, id);
CREATE INDEX run_unfinished ON run (project_id, created_at, id) WHERE finished_at IS NULL;
CREATE INDEX run_by_finished ON run (project_id, finished_at, id) WHERE finished_at IS NOT NULL;
-- Dead letters are looked for by state; successes are most of all runs, and have no entry here.
CREATE INDEX run_unsuccessful ON run (project_id, final_state, created_at, id) WHERE final_state <> 'Succeeded';
CREATE INDEX run_by_tag ON run USING gin (tags) WHERE tags <> '{}';
DROP INDEX run_by_project;

-- A payload over 64 KiB is a blob of its run, written in the same transaction: checked at the commit, since each of the
-- two rows refers to the other.
ALTER TABLE run ADD CONSTRAINT run_payload_stored FOREIGN KEY (id, payload_sha256) REFERENCES blob (run_id, sha256)
    DEFERRABLE INITIALLY DEFERRED;
