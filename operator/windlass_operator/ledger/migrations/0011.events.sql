-- depends: 0008.waits

-- Events that are sent and taken. (`event` is something else: the timeline of a run.)

-- One row for each name, for its lock: who sends an event of this name holds it, and so does who begins to wait for one and
-- looks at those that are there. One of the two comes first and is seen by the other.
CREATE TABLE event_name (
    project_id bigint NOT NULL REFERENCES project,
    name       text NOT NULL,
    used_at    timestamptz NOT NULL DEFAULT ledger_now(),
    PRIMARY KEY (project_id, name)
) WITH (fillfactor = 70);

CREATE TABLE sent_event (
    seq          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- taken under the name's lock: order within a name
    project_id   bigint NOT NULL,
    name         text NOT NULL,
    id           text NOT NULL,                  -- the sender's, or made for him
    payload      text NOT NULL,                  -- JSON text: jsonb refuses \u0000
    sent_at      timestamptz NOT NULL DEFAULT ledger_now(),
    delivered_at timestamptz,                    -- no wait is left that began before it came
    UNIQUE (project_id, id),                     -- a repeat finds the first
    FOREIGN KEY (project_id, name) REFERENCES event_name
);
CREATE INDEX sent_event_of_name ON sent_event (project_id, name, seq);
CREATE INDEX sent_event_undelivered ON sent_event (project_id, name, seq) WHERE delivered_at IS NULL;
CREATE INDEX sent_event_age ON sent_event (sent_at);

-- A run takes an event once, whoever gives it: the one who sent it, a loop, or the run itself as it begins to wait.
CREATE TABLE event_taken (
    run_id uuid NOT NULL REFERENCES run,
    seq    bigint NOT NULL REFERENCES sent_event ON DELETE CASCADE,
    key    text NOT NULL,                        -- of the wait
    PRIMARY KEY (run_id, seq)
);
CREATE INDEX event_taken_of_event ON event_taken (seq);

-- One of the fields that a wait's match wants, as a word: ten thousand waits for as many orders are not looked through.
ALTER TABLE wait ADD COLUMN selector text;
CREATE INDEX wait_for_event ON wait (project_id, target, selector) WHERE kind = 'event';

-- What somebody outside completes by a request to a secret address. The secret is derived from the project's key and the
-- id, so it stands nowhere: neither here nor in the history of the run.
ALTER TABLE project ADD COLUMN callback_key bytea;

CREATE TABLE token (
    id           uuid PRIMARY KEY,
    project_id   bigint NOT NULL REFERENCES project,
    run_id       uuid NOT NULL REFERENCES run,   -- it ends with its run
    key          text NOT NULL,                  -- of the step that made it
    expires_at   timestamptz NOT NULL,
    value        text,                           -- JSON text
    completed_at timestamptz,
    delivered_at timestamptz,
    created_at   timestamptz NOT NULL DEFAULT ledger_now(),
    UNIQUE (run_id, key),                        -- asked for again, it is the same
    CHECK ((completed_at IS NULL) = (value IS NULL))
);
CREATE INDEX token_undelivered ON token (completed_at) WHERE completed_at IS NOT NULL AND delivered_at IS NULL;
