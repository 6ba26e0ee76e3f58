-- name: outcomes
-- Many ask again and again: this is one look for all of them, and reads only what they need. The ids come as JSON: with an
-- array, the server would make a new plan for each look.
SELECT run.id, p.uid AS project_uid, run.state, run.reason, run.message, run.result, run.result_sha256
  FROM json_array_elements_text(%(ids)s::json) AS w (id) JOIN run ON run.id = w.id::uuid JOIN project p ON p.id = run.project_id;
