-- depends: 0008.waits

-- What runs ask people. The row is there before the resource, and gives it its name.
CREATE TABLE approval (
    id           bigint GENERATED ALWAYS AS IDENTITY,  -- the order in which they began, for pages
    run_id       uuid NOT NULL REFERENCES run,
    key          text NOT NULL,                 -- of its wait
    project_id   bigint NOT NULL REFERENCES project,
    name         text NOT NULL,
    question     text NOT NULL,
    details      text,                          -- JSON
    expires_at   timestamptz,
    state        text NOT NULL DEFAULT 'Pending' CHECK (state IN ('Pending', 'Approved', 'Refused', 'Expired', 'Withdrawn')),
    decided_by   text,
    comment      text,
    through      text CHECK (through IN ('resource', 'api')),  -- which door the decision came in by
    decided_at   timestamptz,                   -- when it was over, in whatever way
    created_at   timestamptz NOT NULL DEFAULT ledger_now(),
    revision     bigint NOT NULL DEFAULT 1,     -- grows with what its status shows
    shown        bigint NOT NULL DEFAULT 0,     -- the revision that the status shows
    uid          text UNIQUE,                   -- of the resource, known after the POST
    named        integer NOT NULL DEFAULT 0,    -- how often the name was found taken
    generation   bigint NOT NULL DEFAULT 0,     -- of the resource, as it was last seen
    spec_decided boolean NOT NULL DEFAULT false,  -- the resource's spec has a decision
    ignored      boolean NOT NULL DEFAULT false,  -- and it is not the one that counts
    look_at      timestamptz NOT NULL DEFAULT ledger_now(),  -- when the operator tries again
    removed_at   timestamptz,
    PRIMARY KEY (run_id, key),
    UNIQUE (project_id, name),                  -- the row gives the name, so a second create answers 409
    -- A decision is somebody's, and nothing else is.
    CHECK ((state IN ('Approved', 'Refused')) = (decided_by IS NOT NULL))
) WITH (fillfactor = 80);
CREATE INDEX approval_list ON approval (project_id, id);
CREATE INDEX approval_pending ON approval (project_id, id) WHERE state = 'Pending';
CREATE INDEX approval_to_create ON approval (id) WHERE state = 'Pending' AND uid IS NULL;
CREATE INDEX approval_to_show ON approval (id) WHERE uid IS NOT NULL AND shown < revision;
CREATE INDEX approval_to_remove ON approval (run_id) WHERE uid IS NOT NULL AND state <> 'Pending';

-- An approval is pending as long as its run waits for it. The rows of those that are over otherwise are changed a little later.
CREATE VIEW approval_now AS
SELECT a.*, run.task, run.resource_name AS run_name, run.resource_uid AS run_uid, run.finished_at, p.namespace,
       p.uid AS project_uid,
       CASE WHEN a.state <> 'Pending' THEN a.state
            WHEN w.key IS NOT NULL AND run.finished_at IS NULL AND run.state <> 'Cancelling' THEN 'Pending'
            WHEN s.state = 'failed' THEN 'Expired'
            ELSE 'Withdrawn' END AS state_now
  FROM approval a JOIN run ON run.id = a.run_id JOIN project p ON p.id = a.project_id
  LEFT JOIN wait w ON w.run_id = a.run_id AND w.key = a.key
  LEFT JOIN step s ON s.run_id = a.run_id AND s.key = a.key;
