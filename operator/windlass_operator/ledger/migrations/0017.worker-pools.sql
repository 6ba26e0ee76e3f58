-- depends: 0016.queues

-- What the WorkerPool resources say. Pods of a pool take one run after the other, for all Tasks that name it.
CREATE TABLE worker_pool (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id       bigint NOT NULL REFERENCES project,
    name             text NOT NULL,
    resource_uid     text,                          -- null: the resource is gone, and its pods drain
    generation       bigint NOT NULL DEFAULT 0,     -- of the resource, as it was last seen
    min_replicas     integer NOT NULL CHECK (min_replicas >= 0),
    max_replicas     integer NOT NULL CHECK (max_replicas >= min_replicas),
    replicas         integer CHECK (replicas >= 0), -- somebody else decides; null: we do
    standby          integer NOT NULL DEFAULT 0 CHECK (standby >= 0),  -- free slots to keep ready
    slots            integer NOT NULL CHECK (slots >= 1),              -- attempts that one pod may hold at once
    scale_down_after interval NOT NULL,
    template         text NOT NULL,                 -- JSON: what its pods are made of besides the Task's part
    template_hash    text NOT NULL,                 -- pods made from another one drain
    UNIQUE (project_id, name)
) WITH (fillfactor = 70);

ALTER TABLE pod_key ADD COLUMN pool text;           -- name of the WorkerPool; null: each attempt has a pod of its own

ALTER TABLE pod ADD COLUMN ahead boolean NOT NULL DEFAULT false;    -- started before any run needed it: no run waits for it
ALTER TABLE pod ADD COLUMN reuse boolean NOT NULL DEFAULT false;    -- it may claim again and again
ALTER TABLE pod ADD COLUMN slots integer NOT NULL DEFAULT 1;        -- attempts that it may hold at once
ALTER TABLE pod ADD COLUMN draining boolean NOT NULL DEFAULT false; -- it gets nothing more; it ends when it holds nothing
ALTER TABLE pod ADD COLUMN session_hash bytea;                      -- of the secret with which it claims again
ALTER TABLE pod ADD COLUMN template_hash text;                      -- of the pool's template that it was made from
ALTER TABLE pod ADD COLUMN idle_since timestamptz;                  -- since when it holds no attempt; null: never asked, or busy

-- Which claim took an attempt, so that a repeat of the claim is answered with what it took.
ALTER TABLE attempt ADD COLUMN claim_id text;
-- A pod of a pool has had thousands of attempts: what it holds now, and what one of its claims took, are found without them.
DROP INDEX attempt_of_pod;
CREATE INDEX attempt_of_claim ON attempt (pod_id, claim_id);
CREATE INDEX attempt_open_of_pod ON attempt (pod_id) WHERE closed_at IS NULL;

-- The newest version of each Task that exists: pods are kept ready for it and for no other.
CREATE TABLE task_head (
    project_id      bigint NOT NULL REFERENCES project,
    task            text NOT NULL,
    resource_uid    text NOT NULL,
    generation      bigint NOT NULL,
    task_version_id bigint NOT NULL REFERENCES task_version,
    standby         integer NOT NULL DEFAULT 0 CHECK (standby >= 0),   -- single-use pods to keep ready
    PRIMARY KEY (project_id, task)
);
