-- name: queues_of_key
-- The queues in which runs of a pod key wait, one probe of the index for each, whatever their number of runs, and how many
-- of those runs are due, as far as they are asked for (in their order, which only the index has: of a short queue beside a
-- long one, the whole table would be read otherwise). What is open is only counted where it matters. Pairs are compared, and
-- runs ordered to the last column, because only the index by key and queue serves that: that of queues alone would be read
-- past the runs of all other keys. What is found last is another key's.
WITH RECURSIVE found AS (
    (SELECT pod_key, queue_id FROM queue_entry WHERE (pod_key, queue_id) > (%(pod_key)s, 0) ORDER BY pod_key, queue_id LIMIT 1)
    UNION ALL
    SELECT next.* FROM found CROSS JOIN LATERAL (
        SELECT e.pod_key, e.queue_id FROM queue_entry e WHERE (e.pod_key, e.queue_id) > (found.pod_key, found.queue_id)
         ORDER BY e.pod_key, e.queue_id LIMIT 1) next WHERE found.pod_key = %(pod_key)s)
SELECT q.id, q.name, q.concurrency, q.paused, q.named AND q.resource_uid IS NULL AS missing,
       CASE WHEN q.concurrency IS NULL THEN 0
            ELSE (SELECT count(*) FROM attempt a WHERE a.queue_id = q.id AND a.closed_at IS NULL) END AS running,
       (SELECT count(*) FROM (
           SELECT FROM queue_entry e
            WHERE e.pod_key = %(pod_key)s AND e.queue_id = q.id AND e.available_at <= ledger_now()
              AND (e.expires_at IS NULL OR e.expires_at > ledger_now()) ORDER BY e.rank, e.run_id LIMIT %(n)s) d) AS due
  FROM found JOIN queue q ON q.id = found.queue_id WHERE found.pod_key = %(pod_key)s;

-- name: lock_queues
-- Claims of a limited queue come one after the other. NO KEY: nothing that refers to the row waits.
SELECT q.id, q.name, q.concurrency, q.paused, q.named AND q.resource_uid IS NULL AS missing FROM queue q
 WHERE q.id = ANY(%(ids)s) ORDER BY q.id FOR NO KEY UPDATE;

-- name: open_attempts
-- A statement of its own, after the lock: it must see what the claims have committed that we waited for.
SELECT queue_id, count(*) AS running FROM attempt WHERE queue_id = ANY(%(ids)s) AND closed_at IS NULL GROUP BY queue_id;

-- name: backlog_queues
-- The queues that may hold runs back. What is open counts only where there is a limit.
SELECT q.id, q.name, q.concurrency, q.paused, q.named AND q.resource_uid IS NULL AS missing,
       CASE WHEN q.concurrency IS NULL THEN 0
            ELSE (SELECT count(*) FROM attempt a WHERE a.queue_id = q.id AND a.closed_at IS NULL) END AS running
  FROM queue q WHERE q.id = ANY(%(ids)s);

-- name: put_queue
-- An event that is older than what is known changes nothing.
INSERT INTO queue (project_id, name, resource_uid, generation, concurrency, paused, max_length)
VALUES (%(project_id)s, %(name)s, %(uid)s, %(generation)s, %(concurrency)s, %(paused)s, %(max_length)s)
ON CONFLICT (project_id, name) DO UPDATE SET resource_uid = excluded.resource_uid, generation = excluded.generation,
       concurrency = excluded.concurrency, paused = excluded.paused, max_length = excluded.max_length
 WHERE queue.resource_uid IS DISTINCT FROM excluded.resource_uid OR queue.generation < excluded.generation
RETURNING id;

-- name: drop_queue
UPDATE queue SET resource_uid = NULL, generation = 0, concurrency = NULL, paused = false, max_length = NULL
 WHERE resource_uid = %(uid)s RETURNING id;

-- name: keys_of_queue
-- The pod keys of the runs that wait in a queue and are due, and how many wait: of those that come first.
SELECT pod_key, count(*)::integer AS n FROM (
    SELECT pod_key FROM queue_entry WHERE queue_id = %(queue_id)s AND available_at <= ledger_now() ORDER BY rank LIMIT 1000) first
 GROUP BY pod_key;

-- name: queues_with_resource
SELECT q.resource_uid AS uid, q.name, p.namespace FROM queue q JOIN project p ON p.id = q.project_id WHERE q.resource_uid IS NOT NULL;

-- name: fullness
-- What the statuses of all Queues show.
SELECT q.id, q.name, q.resource_uid AS uid, q.generation, p.namespace, p.uid AS project_uid,
       (SELECT count(*) FROM attempt a WHERE a.queue_id = q.id AND a.closed_at IS NULL) AS running,
       e.queued, e.delayed, e.oldest, ledger_now() AS now
  FROM queue q JOIN project p ON p.id = q.project_id
 CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE available_at <= ledger_now()) AS queued, count(*) FILTER (WHERE available_at > ledger_now()) AS delayed,
           min(available_at) FILTER (WHERE available_at <= ledger_now()) AS oldest
      FROM queue_entry WHERE queue_entry.queue_id = q.id) e
 WHERE q.resource_uid IS NOT NULL;

-- name: held_back
-- Runs with a resource that a queue may hold back, the next ones first: their status says so.
SELECT e.run_id, e.queue_id FROM queue q JOIN queue_entry e ON e.queue_id = q.id JOIN run ON run.id = e.run_id
 WHERE (q.paused OR q.concurrency IS NOT NULL OR q.named AND q.resource_uid IS NULL) AND e.available_at <= ledger_now()
   AND (run.resource_uid IS NOT NULL OR EXISTS (SELECT 1 FROM run_handle h WHERE h.run_id = run.id))
 ORDER BY e.rank LIMIT %(limit)s;

-- name: room
-- Who adds to a queue with a longest length waits for who adds before. Others are not looked at.
WITH bounded AS (
    SELECT q.id, q.name, q.max_length FROM queue q WHERE q.id = ANY(%(ids)s) AND q.max_length IS NOT NULL ORDER BY q.id FOR NO KEY UPDATE)
SELECT id, name, max_length FROM bounded;

-- name: lengths
SELECT queue_id, count(*) AS n FROM queue_entry WHERE queue_id = ANY(%(ids)s) GROUP BY queue_id;

-- name: list_queues
SELECT q.name, q.concurrency, q.paused, q.max_length, q.named AND q.resource_uid IS NULL AS missing,
       (SELECT count(*) FROM attempt a WHERE a.queue_id = q.id AND a.closed_at IS NULL) AS running,
       e.queued, e.delayed, e.oldest
  FROM queue q CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE available_at <= ledger_now()) AS queued, count(*) FILTER (WHERE available_at > ledger_now()) AS delayed,
           min(available_at) FILTER (WHERE available_at <= ledger_now()) AS oldest
      FROM queue_entry WHERE queue_entry.queue_id = q.id) e
 WHERE q.project_id = %(project_id)s AND q.name > %(after)s ORDER BY q.name LIMIT %(limit)s;

-- name: position
-- How many runs of the queue go before this one.
SELECT count(*) AS ahead FROM queue_entry mine JOIN queue_entry e ON e.queue_id = mine.queue_id
   AND (e.rank, e.run_id) < (mine.rank, mine.run_id) AND e.available_at <= ledger_now() WHERE mine.run_id = %(run_id)s;

-- name: overdue
-- Runs that did not begin within their queueTTL.
SELECT run_id FROM queue_entry WHERE expires_at <= ledger_now() ORDER BY expires_at LIMIT %(limit)s;
