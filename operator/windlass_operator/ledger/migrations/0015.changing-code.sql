-- depends: 0008.waits

-- Where in its branch a step was called, and by which code: how changed code is noticed. Absent in older rows and for steps
-- over HTTP, whose caller is not held to an order.
ALTER TABLE step ADD COLUMN place integer;
ALTER TABLE step ADD COLUMN code_id text;
-- Saved in place of an earlier result, which `migrate` of its task dropped. It is not dropped once more.
ALTER TABLE step ADD COLUMN replaced boolean NOT NULL DEFAULT false;
