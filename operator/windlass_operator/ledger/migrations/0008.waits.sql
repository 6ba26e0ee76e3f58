-- depends: 0007.projection-since

ALTER TABLE run DROP CONSTRAINT run_state_check;
ALTER TABLE run ADD CONSTRAINT run_state_check CHECK (state IN
    ('Queued', 'Running', 'Waiting', 'Suspended', 'Cancelling', 'Compensating', 'Succeeded', 'Failed', 'TimedOut', 'Cancelled'));

-- A wait is a step that somebody else ends: its row says what it waits for, and stays, as history, with what came of it.
ALTER TABLE step ADD COLUMN kind text NOT NULL DEFAULT 'step';
-- A failure that the code has seen and may have handled: later attempts fail in the same way instead of running it again.
ALTER TABLE step ADD COLUMN durable boolean NOT NULL DEFAULT false;
ALTER TABLE step DROP CONSTRAINT step_state_check;
ALTER TABLE step ADD CONSTRAINT step_state_check CHECK (state IN ('running', 'waiting', 'succeeded', 'failed'));

-- One row for each wait that is not over. Inserted and deleted, under the run's row lock when it ends; narrow, so that ten
-- thousand sleeping runs are ten thousand small rows and one index.
CREATE TABLE wait (
    run_id     uuid NOT NULL REFERENCES run,
    key        text NOT NULL,                   -- of its step
    project_id bigint NOT NULL REFERENCES project,
    kind       text NOT NULL,
    due_at     timestamptz,                     -- end of a sleep, timeout of the others; never without either
    target     text,                            -- what it waits for: an event's name, a token's id, a run's id
    detail     text,                            -- JSON
    wake_group integer,                         -- the run goes on when the last of its group is over, not with each
    created_at timestamptz NOT NULL DEFAULT ledger_now(),
    PRIMARY KEY (run_id, key)
) WITH (fillfactor = 90);
CREATE INDEX wait_due ON wait (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX wait_target ON wait (kind, target, project_id) WHERE target IS NOT NULL;
