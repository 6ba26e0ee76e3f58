-- depends: 0017.worker-pools

-- Steps that run and whose pod must not be removed meanwhile: few at any time. What an attempt that has ended left here counts
-- for nothing, and is deleted when somebody comes by.
CREATE TABLE protection (
    attempt_id uuid NOT NULL REFERENCES attempt,
    key        text NOT NULL,                       -- of the step
    pod_id     uuid REFERENCES pod,
    ended_at   timestamptz,                         -- null: the step runs
    PRIMARY KEY (attempt_id, key)
);

-- Whether the pod carries the annotations. Null: it does not. 'Changing': it may or may not.
ALTER TABLE pod ADD COLUMN protection text CHECK (protection IN ('Changing', 'Protected'));
CREATE INDEX pod_with_protection ON pod (id) WHERE protection IS NOT NULL;
