-- depends: 0015.changing-code

-- What runs wait in together. A Task that names none has one of its own, with the Task's name. Limits come from the Queue
-- resource of that name; a row without one limits nothing, unless a Task has named it.
CREATE TABLE queue (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id   bigint NOT NULL REFERENCES project,
    name         text NOT NULL,
    resource_uid text,                          -- null: there is no resource
    generation   bigint NOT NULL DEFAULT 0,     -- of the resource, as it was last seen
    concurrency  integer CHECK (concurrency >= 1),  -- attempts that may be open at once; null: any number
    paused       boolean NOT NULL DEFAULT false,
    max_length   integer CHECK (max_length >= 1),   -- runs that may wait; null: any number
    named        boolean NOT NULL DEFAULT false,    -- a Task names it: without its resource, nobody knows its limits
    UNIQUE (project_id, name)
) WITH (fillfactor = 70);

ALTER TABLE task_version ADD COLUMN queue_id bigint REFERENCES queue;
ALTER TABLE task_version ADD COLUMN priority integer NOT NULL DEFAULT 0;  -- seconds of head start
INSERT INTO queue (project_id, name) SELECT DISTINCT project_id, task FROM task_version;
UPDATE task_version v SET queue_id = q.id FROM queue q WHERE q.project_id = v.project_id AND q.name = v.task;
ALTER TABLE task_version ALTER COLUMN queue_id SET NOT NULL;

-- No foreign keys from here on: each would lock the queue's row with every run, and the row is what claims wait for.
ALTER TABLE queue_entry ADD COLUMN queue_id bigint;
UPDATE queue_entry e SET queue_id = v.queue_id FROM run JOIN task_version v ON v.id = run.task_version_id WHERE run.id = e.run_id;
ALTER TABLE queue_entry ALTER COLUMN queue_id SET NOT NULL;
DROP INDEX queue_entry_order;
CREATE INDEX queue_entry_order ON queue_entry (pod_key, queue_id, rank, run_id);
CREATE INDEX queue_entry_of_queue ON queue_entry (queue_id, rank);

-- The time of the statement and not of its transaction: a claim that has waited for the lock of its queue began when it had it.
CREATE FUNCTION ledger_clock() RETURNS timestamptz LANGUAGE sql VOLATILE AS
$$ SELECT coalesce(nullif(current_setting('windlass.now', true), '')::timestamptz, clock_timestamp()) $$;

-- How many attempts of a queue are open is counted, never kept: there is no number that a crash could leave wrong.
ALTER TABLE attempt ADD COLUMN queue_id bigint;
UPDATE attempt a SET queue_id = v.queue_id FROM run JOIN task_version v ON v.id = run.task_version_id
 WHERE run.id = a.run_id AND a.closed_at IS NULL;
CREATE INDEX attempt_open_of_queue ON attempt (queue_id) WHERE closed_at IS NULL;

-- Until when a run may begin. Its entry carries it too, until the first claim takes that.
ALTER TABLE run ADD COLUMN expires_at timestamptz;
ALTER TABLE queue_entry ADD COLUMN expires_at timestamptz;
CREATE INDEX queue_entry_expiry ON queue_entry (expires_at) WHERE expires_at IS NOT NULL;

ALTER TABLE run DROP CONSTRAINT run_state_check;
ALTER TABLE run ADD CONSTRAINT run_state_check CHECK (state IN
    ('Queued', 'Running', 'Waiting', 'Suspended', 'Cancelling', 'Compensating', 'Succeeded', 'Failed', 'TimedOut', 'Cancelled',
     'Expired'));
ALTER TABLE run DROP CONSTRAINT run_check;
ALTER TABLE run ADD CONSTRAINT run_finished_check
    CHECK ((finished_at IS NOT NULL) = (state IN ('Succeeded', 'Failed', 'TimedOut', 'Cancelled', 'Expired')));
