-- name: outcomes
-- Many ask again and again: this is one look for all of them, and reads only what they need. The ids come as JSON: with an
-- array from outside, the server would make a new plan for each look; and become an array, as in `claim_runs`.
SELECT run.id, p.uid AS project_uid, run.state, run.reason, run.message, run.result, run.result_sha256
  FROM run JOIN project p ON p.id = run.project_id
 WHERE run.id = ANY (ARRAY(SELECT id::uuid FROM json_array_elements_text(%(ids)s::json) AS w (id)));
