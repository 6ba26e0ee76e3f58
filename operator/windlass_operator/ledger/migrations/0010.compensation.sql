-- depends: 0008.waits

-- What undoes a finished step: the function to find it by, and the arguments that it will need. Only steps that declare
-- a compensation have it.
ALTER TABLE step ADD COLUMN compensation text;
-- In which order such steps finished. Numbered by the server: two times of one commit are equal, and a clock may go back.
ALTER TABLE step ADD COLUMN finished_n bigint;
CREATE SEQUENCE step_finished_n;
-- Only a step that has succeeded did something that can be undone.
ALTER TABLE step ADD CONSTRAINT step_compensation_finished
    CHECK (compensation IS NULL OR (state = 'succeeded' AND finished_n IS NOT NULL));
-- Has no column that changes while a step is under way: most runs and steps have no entry here, and pay nothing.
CREATE INDEX step_to_compensate ON step (run_id, finished_n) WHERE compensation IS NOT NULL;

-- How a run ends that is being compensated: what it would have ended with at once.
ALTER TABLE run ADD COLUMN ends_as text CHECK (ends_as IN ('Failed', 'TimedOut', 'Cancelled'));
ALTER TABLE run ADD COLUMN ends_reason text;
ALTER TABLE run ADD COLUMN ends_message text;
ALTER TABLE run ADD COLUMN ends_class text;
ALTER TABLE run ADD COLUMN compensation_failures integer NOT NULL DEFAULT 0;
-- Whether an attempt that compensates is open. The state alone does not say so, and statements that look for runs which
-- nobody has claimed must see it in the row that they lock.
ALTER TABLE run ADD COLUMN undoing boolean NOT NULL DEFAULT false;
ALTER TABLE run ADD CONSTRAINT run_ends_as_known CHECK (state <> 'Compensating' OR ends_as IS NOT NULL);
ALTER TABLE run ADD CONSTRAINT run_undoing_state CHECK (NOT undoing OR state = 'Compensating');
