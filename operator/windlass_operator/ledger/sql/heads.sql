-- name: put_head
-- The same or an older look at a Task changes nothing: two looks may arrive in the wrong order.
INSERT INTO task_head AS h (project_id, task, resource_uid, generation, task_version_id, standby)
VALUES (%(project_id)s, %(task)s, %(resource_uid)s, %(generation)s, %(version_id)s, %(standby)s)
    ON CONFLICT (project_id, task) DO UPDATE
   SET resource_uid = excluded.resource_uid, generation = excluded.generation, task_version_id = excluded.task_version_id,
       standby = excluded.standby
 WHERE (h.resource_uid, h.task_version_id, h.standby, h.generation)
           IS DISTINCT FROM (excluded.resource_uid, excluded.task_version_id, excluded.standby, excluded.generation)
   AND (h.resource_uid <> excluded.resource_uid OR h.generation <= excluded.generation)
RETURNING task;

-- name: drop_head
DELETE FROM task_head WHERE resource_uid = %(resource_uid)s RETURNING task;

-- name: heads
SELECT h.resource_uid, h.task, h.generation, p.namespace FROM task_head h JOIN project p ON p.id = h.project_id
 ORDER BY h.project_id, h.task;
