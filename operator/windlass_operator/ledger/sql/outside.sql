-- What the ledger believes of what lies outside of it: pods, Run resources, and the objects of the store. Each statement
-- answers what is to be compared; what does not agree is found by whoever has both sides.

-- name: open_attempts
SELECT a.run_id, a.number, pod.uid, pod.name, p.namespace
  FROM attempt a JOIN run ON run.id = a.run_id JOIN project p ON p.id = run.project_id LEFT JOIN pod ON pod.id = a.pod_id
 WHERE a.closed_at IS NULL AND a.run_id > %(after)s AND a.started_at <= ledger_now() - %(settled)s::interval
 ORDER BY a.run_id LIMIT %(size)s;

-- name: alive_pods
-- Those whose object must be there, also that of a pod that has ended and is kept to be looked at.
SELECT pod.uid, pod.name, pod.namespace FROM pod
 WHERE pod.deleted_at IS NULL AND pod.uid IS NOT NULL AND pod.created_at <= ledger_now() - %(settled)s::interval ORDER BY pod.id;

-- name: pods_seen
-- Of pods that are there. The row comes before the pod, so it is found by its name while the UID is not recorded yet.
SELECT s.uid, s.namespace, s.name, coalesce(known.id, planned.id) IS NOT NULL AS known, over.since,
       over.since < ledger_now() - %(late)s::interval AS left_over
  FROM unnest(%(uids)s::text[], %(namespaces)s::text[], %(names)s::text[]) AS s (uid, namespace, name)
  LEFT JOIN pod known ON known.uid = s.uid
  LEFT JOIN LATERAL (SELECT pod.id, pod.deleted_at, pod.delete_at FROM project p JOIN pod ON pod.project_id = p.id AND pod.name = s.name
                      WHERE p.namespace = s.namespace AND pod.uid IS NULL AND known.id IS NULL LIMIT 1) planned ON true
 CROSS JOIN LATERAL (SELECT coalesce(least(known.deleted_at, known.delete_at), least(planned.deleted_at, planned.delete_at)) AS since) over;

-- name: resources_seen
-- Of Run resources that are there: the run that each of them shows, by its UID, and whether it knows the run that its status names.
SELECT s.uid, run.id AS run_id, run.state, e.run_id IS NOT NULL AS due, named.id IS NOT NULL AS named_is_known,
       s.created < ledger_now() - %(late)s::interval AS is_old
  FROM unnest(%(uids)s::text[], %(named)s::uuid[], %(created)s::timestamptz[]) AS s (uid, named, created)
  LEFT JOIN LATERAL (SELECT id FROM run WHERE resource_uid = s.uid UNION ALL SELECT run_id FROM run_handle WHERE resource_uid = s.uid
                      LIMIT 1) own ON true
  LEFT JOIN run ON run.id = own.id LEFT JOIN projection_entry e ON e.run_id = own.id LEFT JOIN run named ON named.id = s.named;

-- name: page_end
SELECT id FROM run WHERE id > %(after)s ORDER BY id OFFSET %(size)s - 1 LIMIT 1;

-- name: unfinished_resources
SELECT run.resource_uid AS uid, run.resource_name AS name, run.id AS run_id, p.namespace FROM run JOIN project p ON p.id = run.project_id
 WHERE run.id > %(after)s AND run.id <= %(until)s AND run.finished_at IS NULL AND run.state NOT IN ('Cancelling', 'Compensating')
   AND run.resource_uid IS NOT NULL AND run.created_at <= ledger_now() - %(settled)s::interval
UNION ALL
SELECT h.resource_uid, h.name, h.run_id, p.namespace FROM run_handle h JOIN run ON run.id = h.run_id JOIN project p ON p.id = run.project_id
 WHERE h.run_id > %(after)s AND h.run_id <= %(until)s AND run.finished_at IS NULL AND run.state NOT IN ('Cancelling', 'Compensating')
   AND h.created_at <= ledger_now() - %(settled)s::interval;

-- name: values
-- The page is cut before anything is joined to it: else the server may join all runs for each page.
SELECT p.uid AS project_uid, p.namespace, v.run_id, v.sha256, v.in_ledger
  FROM (SELECT run_id, sha256, data IS NOT NULL AS in_ledger FROM blob
         WHERE (run_id, sha256) > (%(after)s, %(after_sha256)s) ORDER BY run_id, sha256 LIMIT %(size)s) v
  JOIN run ON run.id = v.run_id JOIN project p ON p.id = run.project_id ORDER BY v.run_id, v.sha256;

-- name: values_elsewhere
SELECT EXISTS (SELECT 1 FROM blob WHERE data IS NULL) AS some;
