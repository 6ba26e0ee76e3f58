-- The first schema. Rules that must hold under race live here, each with the sentence it enforces.

-- One clock: the database's. Tests move it with `SET windlass.now`; production never sets it.
CREATE FUNCTION ledger_now() RETURNS timestamptz LANGUAGE sql STABLE AS
$$ SELECT coalesce(nullif(current_setting('windlass.now', true), '')::timestamptz, now()) $$;

CREATE TABLE project (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    uid             text NOT NULL UNIQUE,       -- the namespace's UID: a re-created namespace is another project
    namespace       text NOT NULL,
    credential_hash bytea,                      -- of the namespace's runner credential
    created_at      timestamptz NOT NULL DEFAULT ledger_now()
);

CREATE TABLE pod_key (
    key           text PRIMARY KEY,
    project_id    bigint NOT NULL REFERENCES project,
    parts         text NOT NULL,                -- JSON: what its pods are made of
    failures      integer NOT NULL DEFAULT 0,   -- pods in a row that ended without claiming
    backoff_until timestamptz,
    reason        text,                         -- why its pods do not start; the reason its runs show
    message       text,
    created_at    timestamptz NOT NULL DEFAULT ledger_now()
);

CREATE TABLE task_version (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id bigint NOT NULL REFERENCES project,
    task       text NOT NULL,
    version    integer NOT NULL,
    spec_hash  text NOT NULL,
    spec       text NOT NULL,                   -- JSON, immutable
    pod_key    text NOT NULL REFERENCES pod_key,
    created_at timestamptz NOT NULL DEFAULT ledger_now(),
    UNIQUE (project_id, task, spec_hash),       -- the same spec is the same version, however often it is applied
    UNIQUE (project_id, task, version)
);

CREATE TABLE run (
    id              uuid PRIMARY KEY,
    project_id      bigint NOT NULL REFERENCES project,
    task            text NOT NULL,
    task_version_id bigint REFERENCES task_version,  -- absent while the Task is missing
    wanted_version  integer,
    state           text NOT NULL CHECK (state IN
                        ('Queued', 'Running', 'Cancelling', 'Succeeded', 'Failed', 'TimedOut', 'Cancelled')),
    reason          text,
    message         text,
    payload         text,                       -- JSON text: jsonb refuses \u0000
    payload_sha256  text,
    payload_size    bigint,
    result          text,
    result_sha256   text,
    result_size     bigint,
    error           text,                       -- JSON of the last failure
    attempts        integer NOT NULL DEFAULT 0,
    user_failures   integer NOT NULL DEFAULT 0,
    infra_failures  integer NOT NULL DEFAULT 0,
    running_ms      bigint NOT NULL DEFAULT 0,  -- running time that closed attempts used
    tags            text[] NOT NULL DEFAULT '{}',
    traceparent     text,
    created_at      timestamptz NOT NULL DEFAULT ledger_now(),
    available_at    timestamptz NOT NULL DEFAULT ledger_now(),
    held_since      timestamptz,                -- since when a config problem holds it
    started_at      timestamptz,
    finished_at     timestamptz,
    revision        bigint NOT NULL DEFAULT 1,  -- grows with every change; also numbers the events
    resource_uid    text UNIQUE,                -- import is idempotent on the resource's UID
    resource_name   text,
    resource_hash   text,                       -- of the spec: re-created with the same one after TTL, it binds
    CHECK ((finished_at IS NOT NULL) = (state IN ('Succeeded', 'Failed', 'TimedOut', 'Cancelled')))
) WITH (fillfactor = 80);
CREATE INDEX run_by_project ON run (project_id, id DESC);
CREATE INDEX run_by_resource_name ON run (project_id, resource_name) WHERE resource_name IS NOT NULL;
CREATE INDEX run_held ON run (held_since) WHERE held_since IS NOT NULL;

-- One row for each run that may be claimed. Inserted and deleted only: the hot table stays small.
CREATE TABLE queue_entry (
    run_id       uuid PRIMARY KEY REFERENCES run,
    pod_key      text NOT NULL,
    rank         timestamptz NOT NULL,          -- claims go by it: the time of acceptance
    available_at timestamptz NOT NULL
);
CREATE INDEX queue_entry_order ON queue_entry (pod_key, rank, run_id);

CREATE TABLE pod (
    id         uuid PRIMARY KEY,
    project_id bigint NOT NULL REFERENCES project,
    pod_key    text NOT NULL REFERENCES pod_key,
    name       text NOT NULL,
    namespace  text NOT NULL,
    uid        text UNIQUE,                     -- known after the POST
    state      text NOT NULL CHECK (state IN ('Planned', 'Created', 'Claimed', 'Ended')),
    claim_id   text,                            -- the credential serves one claim of each pod
    created_at timestamptz NOT NULL DEFAULT ledger_now(),
    ended_at   timestamptz,
    delete_at  timestamptz,
    deleted_at timestamptz,
    node       text,
    reason     text,
    message    text,
    last_state text,                            -- JSON: saved before the pod goes
    UNIQUE (project_id, name)                   -- the row gives the name, so a second create answers 409
) WITH (fillfactor = 80);
CREATE INDEX pod_alive ON pod (pod_key) WHERE ended_at IS NULL;
CREATE INDEX pod_to_delete ON pod (delete_at) WHERE deleted_at IS NULL;

CREATE TABLE attempt (
    id           uuid PRIMARY KEY,
    run_id       uuid NOT NULL REFERENCES run,
    number       integer NOT NULL,
    pod_id       uuid REFERENCES pod,
    token_hash   bytea NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT ledger_now(),
    lease_until  timestamptz NOT NULL,
    memory_bytes bigint,                        -- of the last heartbeat: explains an OOM
    closed_at    timestamptz,
    outcome      text,                          -- Succeeded, Failed, Lost, Released, Cancelled, TimedOut
    failure      text,                          -- JSON
    answer       text,                          -- what the runner was told, so that a repeat is told the same
    UNIQUE (run_id, number)
) WITH (fillfactor = 70);
-- At most one attempt of a run is open.
CREATE UNIQUE INDEX attempt_open ON attempt (run_id) WHERE closed_at IS NULL;
CREATE INDEX attempt_of_pod ON attempt (pod_id);

CREATE TABLE step (
    run_id        uuid NOT NULL REFERENCES run,
    key           text NOT NULL,
    name          text NOT NULL,
    args_hash     text NOT NULL,
    state         text NOT NULL CHECK (state IN ('running', 'succeeded', 'failed')),
    attempt       integer NOT NULL,
    result        text,
    result_sha256 text,
    result_size   bigint,
    error         text,
    started_at    timestamptz NOT NULL,
    finished_at   timestamptz,
    position      bigint GENERATED ALWAYS AS IDENTITY,  -- order of first saving, for pages and timelines
    PRIMARY KEY (run_id, key)
);

CREATE TABLE event (
    run_id  uuid NOT NULL REFERENCES run,
    n       bigint NOT NULL,                    -- the run's revision, taken under its row lock
    at      timestamptz NOT NULL DEFAULT ledger_now(),
    type    text NOT NULL,
    attempt integer,
    reason  text,
    message text,
    PRIMARY KEY (run_id, n)
);

CREATE TABLE log (
    attempt_id uuid NOT NULL REFERENCES attempt,
    seq        bigint NOT NULL,                 -- numbered by the runner: a repeat changes nothing
    at         timestamptz NOT NULL,
    stream     text NOT NULL,
    text       text NOT NULL,
    step       text,
    PRIMARY KEY (attempt_id, seq)
);

CREATE TABLE blob (
    run_id     uuid NOT NULL REFERENCES run,
    sha256     text NOT NULL,
    size       bigint NOT NULL,
    data       bytea,                           -- only where no object store is configured
    created_at timestamptz NOT NULL DEFAULT ledger_now(),
    PRIMARY KEY (run_id, sha256)
);

-- Runs whose status must be written to their resource. Upserted and deleted only.
CREATE TABLE projection_entry (
    run_id   uuid PRIMARY KEY REFERENCES run,
    revision bigint NOT NULL
);

CREATE TABLE leader (
    one    boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch  bigint NOT NULL DEFAULT 0,
    holder text,
    since  timestamptz
);
INSERT INTO leader DEFAULT VALUES;

-- When heartbeats were last served, and since when they are again after a gap: losing sight of work is not losing it.
CREATE TABLE heartbeat_service (
    one          boolean PRIMARY KEY DEFAULT true CHECK (one),
    served_at    timestamptz NOT NULL DEFAULT ledger_now(),
    served_since timestamptz NOT NULL DEFAULT ledger_now()
);
INSERT INTO heartbeat_service DEFAULT VALUES;
