-- depends: 0003.stored-values

-- Which run a key stands for. Finding the key taken is how the second of two callers learns of the first, so the primary
-- key decides every race. No foreign key: runs will move to history, and a key outlives that move.
CREATE TABLE idempotency_key (
    project_id bigint NOT NULL REFERENCES project,
    task       text NOT NULL,
    key        text NOT NULL,
    run_id     uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, task, key)
);
CREATE INDEX idempotency_key_expiry ON idempotency_key (expires_at);

ALTER TABLE run ADD COLUMN idempotency_key text;

-- Further resources of a run: each asked for it again by its key, and shows it.
CREATE TABLE run_handle (
    resource_uid text PRIMARY KEY,
    run_id       uuid NOT NULL REFERENCES run,
    name         text NOT NULL,
    spec_hash    text NOT NULL,
    generation   bigint NOT NULL DEFAULT 1,
    changed      boolean NOT NULL DEFAULT false,
    created_at   timestamptz NOT NULL DEFAULT ledger_now()
);
CREATE INDEX run_handle_of_run ON run_handle (run_id);

-- A resource that was bound to a run that had ended already is kept for its ttlAfterFinished from then on: counted from the
-- run's end it would go at once, and a tool that keeps it there would bring it back for ever.
ALTER TABLE run ADD COLUMN resource_bound_at timestamptz;
CREATE INDEX run_with_resource ON run (finished_at) WHERE finished_at IS NOT NULL AND resource_uid IS NOT NULL;
