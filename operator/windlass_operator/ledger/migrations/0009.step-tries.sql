-- depends: 0008.waits

-- How often the body was called by the attempt that ran the step last.
ALTER TABLE step ADD COLUMN tries integer NOT NULL DEFAULT 1;
