-- name: unfinished_projects
-- Those being cancelled need no more than that.
SELECT p.uid, p.namespace FROM project p
 WHERE EXISTS (SELECT 1 FROM run WHERE run.project_id = p.id AND run.finished_at IS NULL AND run.state <> 'Cancelling');

-- name: unfinished_runs
SELECT run.id FROM run JOIN project p ON p.id = run.project_id
 WHERE p.uid = %(uid)s AND run.finished_at IS NULL AND run.state <> 'Cancelling' ORDER BY run.created_at, run.id LIMIT 1000;
