-- depends: 0008.waits

-- Where in its branch a step was called, and by which code: how changed code is noticed. Absent in older rows and for steps
-- over HTTP, whose caller is not held to an order.
ALTER TABLE step ADD COLUMN place integer;
ALTER TABLE step ADD COLUMN code_id text;
-- Saved in place of an earlier result, which `migrate` of its task dropped. It is not dropped once more.
ALTER TABLE step ADD COLUMN replaced boolean NOT NULL DEFAULT false;

-- What code that is one long loop has saved last: one state for each run, overwritten. Numbered within its attempt, because a
-- request that was held up on its way may come after a later one.
CREATE TABLE checkpoint (
    run_id       uuid PRIMARY KEY REFERENCES run,
    attempt      integer NOT NULL,
    n            bigint NOT NULL,
    state        text,                          -- JSON
    state_sha256 text,
    state_size   bigint,
    saved_at     timestamptz NOT NULL,
    CONSTRAINT checkpoint_stored FOREIGN KEY (run_id, state_sha256) REFERENCES blob (run_id, sha256)
) WITH (fillfactor = 50);

-- Running time that the code has added to its timeouts: of the attempt what this one asked for, of the run the most that any
-- attempt has, so that an attempt that runs the same code again adds nothing twice.
ALTER TABLE run ADD COLUMN timeout_added_ms bigint NOT NULL DEFAULT 0;
ALTER TABLE attempt ADD COLUMN timeout_added_ms bigint NOT NULL DEFAULT 0;

-- End of totalTimeout. Changes only where a run gets another version, so its index stays as it is while a run is under way.
ALTER TABLE run ADD COLUMN deadline_at timestamptz;
CREATE INDEX run_deadline ON run (deadline_at) WHERE deadline_at IS NOT NULL AND finished_at IS NULL;
