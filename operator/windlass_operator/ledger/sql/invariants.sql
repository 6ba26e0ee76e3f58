-- What holds of every ledger at every moment. Each statement answers what breaks one rule: (run_id, message). They look at the
-- runs after one id and up to another, so that a large ledger is looked at page by page, each page within one snapshot.

-- name: page_end
-- The last run of a page that is full.
SELECT id FROM run WHERE id > %(after)s ORDER BY id OFFSET %(size)s - 1 LIMIT 1;

-- name: count_page
SELECT count(*) AS n FROM run WHERE id > %(after)s AND id <= %(until)s;

-- name: one_end
SELECT run.id AS run_id, concat('It is ', run.state, ' and its events have ', coalesce(told.n, 0), ' ends', ': ' || told.types, '.') AS message
  FROM run LEFT JOIN (SELECT run_id, count(*) AS n, string_agg(type, ', ' ORDER BY n) AS types FROM event
                       WHERE run_id > %(after)s AND run_id <= %(until)s AND type = ANY(%(final)s) GROUP BY run_id) told ON told.run_id = run.id
 WHERE run.id > %(after)s AND run.id <= %(until)s
   AND coalesce(told.types, '') <> CASE WHEN run.finished_at IS NULL THEN '' ELSE run.state END
 ORDER BY 1 LIMIT %(limit)s;

-- name: transitions
-- An event leads from the state that the one before it led to. The one that schedules a retry leads to either of two.
WITH told AS (
    SELECT run_id, n, type, lag(type) OVER w AS before, bool_or(type = 'Compensating') OVER w AS undoing
      FROM event WHERE run_id > %(after)s AND run_id <= %(until)s AND type = ANY(%(types)s)
    WINDOW w AS (PARTITION BY run_id ORDER BY n)),
moved AS (
    SELECT run_id, n, type, CASE WHEN before = 'RetryScheduled' AND undoing THEN 'Compensating'
               WHEN before IN ('RetryScheduled', 'Resumed', 'Woken') THEN 'Queued' ELSE coalesce(before, '') END AS state
      FROM told)
SELECT run_id, concat('Event ', n, ' (', type, ') came when it was ', coalesce(nullif(state, ''), 'not there'), '.') AS message
  FROM moved WHERE (state, type) NOT IN (SELECT * FROM unnest(%(from_states)s::text[], %(to_types)s::text[]))
 ORDER BY 1 LIMIT %(limit)s;

-- name: last_event
SELECT run.id AS run_id, concat('It is ', run.state, ', and its last change was: ', coalesce(last.type, 'none'), '.') AS message
  FROM run LEFT JOIN (SELECT DISTINCT ON (run_id) run_id, type FROM event
                       WHERE run_id > %(after)s AND run_id <= %(until)s AND type = ANY(%(types)s) ORDER BY run_id, n DESC) last ON last.run_id = run.id
 WHERE run.id > %(after)s AND run.id <= %(until)s
   AND (coalesce(last.type, ''), run.state) NOT IN (SELECT * FROM unnest(%(led_types)s::text[], %(led_states)s::text[]))
 ORDER BY 1 LIMIT %(limit)s;

-- name: revisions
SELECT run.id AS run_id, concat('It is at revision ', run.revision, ', and ', what, ' is at ', n, '.') AS message
  FROM (SELECT run_id, max(n) AS n, 'its last event' AS what FROM event
         WHERE run_id > %(after)s AND run_id <= %(until)s GROUP BY run_id
        UNION ALL SELECT run_id, revision, 'what its status is to show' FROM projection_entry
         WHERE run_id > %(after)s AND run_id <= %(until)s) seen JOIN run ON run.id = seen.run_id WHERE seen.n > run.revision
UNION ALL
SELECT run_id, concat('Approval ', name, ' is at revision ', revision, ', and its status shows ', shown, '.') FROM approval
 WHERE run_id > %(after)s AND run_id <= %(until)s AND shown > revision
 ORDER BY 1 LIMIT %(limit)s;

-- name: attempt_numbers
SELECT run.id AS run_id, concat('It counts ', run.attempts, ' attempts and has ', coalesce(a.n, 0), ', numbered ' || a.low || ' to ' || a.high, '.') AS message
  FROM run LEFT JOIN (SELECT run_id, count(*) AS n, min(number) AS low, max(number) AS high FROM attempt
                       WHERE run_id > %(after)s AND run_id <= %(until)s GROUP BY run_id) a ON a.run_id = run.id
 WHERE run.id > %(after)s AND run.id <= %(until)s
   AND (coalesce(a.n, 0) <> run.attempts OR a.low <> 1 OR a.high <> a.n)
 ORDER BY 1 LIMIT %(limit)s;

-- name: open_attempts
SELECT run.id AS run_id, concat('It is ', run.state, CASE WHEN run.undoing THEN ' by an attempt' END, ' and has ', coalesce(a.n, 0), ' open attempts.') AS message
  FROM run LEFT JOIN (SELECT run_id, count(*) AS n FROM attempt
                       WHERE run_id > %(after)s AND run_id <= %(until)s AND closed_at IS NULL GROUP BY run_id) a ON a.run_id = run.id
 WHERE run.id > %(after)s AND run.id <= %(until)s
   AND coalesce(a.n, 0) <> CASE WHEN run.state IN ('Running', 'Cancelling') OR run.undoing THEN 1 ELSE 0 END
 ORDER BY 1 LIMIT %(limit)s;

-- name: attempt_ends
-- A minute's grace: a transaction's time is that of its begin, and another server's clock may go a little differently.
SELECT run_id, concat('Attempt ', number, what) AS message FROM (
    SELECT a.run_id, a.number, CASE
               WHEN a.closed_at IS NULL AND a.outcome IS NOT NULL THEN ' is open and has an outcome: ' || a.outcome || '.'
               WHEN a.closed_at IS NOT NULL AND a.outcome IS NULL THEN ' is closed and has no outcome.'
               WHEN a.closed_at < a.started_at - interval '1 minute' THEN ' was closed before it began.'
               WHEN a.closed_at IS NULL AND a.number < run.attempts THEN ' is open, and a later one has begun.' END AS what
      FROM attempt a JOIN run ON run.id = a.run_id WHERE a.run_id > %(after)s AND a.run_id <= %(until)s) found
 WHERE what IS NOT NULL ORDER BY 1 LIMIT %(limit)s;

-- name: queue_entries
SELECT run_id, message FROM (
    SELECT run.id AS run_id, CASE
               WHEN q.run_id IS NULL AND run.state IN ('Queued', 'Compensating') AND NOT run.undoing AND run.task_version_id IS NOT NULL
                   THEN concat('It is ', run.state, ' and in no queue.')
               WHEN q.run_id IS NULL AND run.state = 'Queued' AND run.task_version_id IS NULL AND run.held_since IS NULL
                   THEN 'It has no Task, and nobody looks for one.'
               WHEN q.run_id IS NOT NULL AND (run.state NOT IN ('Queued', 'Compensating') OR run.undoing)
                   THEN concat('It is ', run.state, ' and in a queue.')
               WHEN q.run_id IS NOT NULL AND v.pod_key IS DISTINCT FROM q.pod_key
                   THEN 'It is in the queue of pods that are not those of its Task version.'
               WHEN q.run_id IS NOT NULL AND v.queue_id IS DISTINCT FROM q.queue_id
                   THEN 'It waits in another queue than its Task version names.'
               WHEN q.run_id IS NOT NULL AND q.available_at <> run.available_at
                   THEN 'Its entry in the queue has another time than the run.' END AS message
      FROM run LEFT JOIN queue_entry q ON q.run_id = run.id LEFT JOIN task_version v ON v.id = run.task_version_id
     WHERE run.id > %(after)s AND run.id <= %(until)s AND (run.finished_at IS NULL OR q.run_id IS NOT NULL)) found
 WHERE message IS NOT NULL ORDER BY 1 LIMIT %(limit)s;

-- name: checkpoints
SELECT run_id, concat('Step ', quote_literal(left(key, 100)), what) AS message FROM (
    SELECT s.run_id, s.key, CASE
               WHEN s.attempt < 1 OR s.attempt > run.attempts THEN concat(' was saved by attempt ', s.attempt, ', which there never was.')
               WHEN s.state IN ('succeeded', 'failed') AND s.finished_at IS NULL THEN concat(' is ', s.state, ' and has no end.')
               WHEN s.state IN ('running', 'waiting') AND s.finished_at IS NOT NULL THEN concat(' is ', s.state, ' and has an end.')
               WHEN s.state IN ('running', 'waiting') AND (s.result IS NOT NULL OR s.result_sha256 IS NOT NULL)
                   THEN concat(' is ', s.state, ' and has a result.') END AS what
      FROM step s JOIN run ON run.id = s.run_id WHERE s.run_id > %(after)s AND s.run_id <= %(until)s) found
 WHERE what IS NOT NULL ORDER BY 1 LIMIT %(limit)s;

-- name: fence
-- What a closed attempt has written. Only steps that its code ends itself: waits end later, and by others.
SELECT s.run_id, concat('Step ', quote_literal(left(s.key, 100)), ' is ', s.state, ' of attempt ', s.attempt,
           CASE WHEN s.state = 'running' THEN ', which is closed.' ELSE ', which had been closed before.' END) AS message
  FROM step s JOIN attempt a ON a.run_id = s.run_id AND a.number = s.attempt
 WHERE s.run_id > %(after)s AND s.run_id <= %(until)s AND s.kind = 'step'
   AND (s.state = 'running' AND a.closed_at IS NOT NULL OR s.finished_at > a.closed_at + interval '1 minute')
 ORDER BY 1 LIMIT %(limit)s;

-- name: charges
-- Who had to answer for an attempt's end stands at a fixed place of its failure, and is the user where it is left out. The text
-- is not read as JSON: the server refuses all of a text in which it finds \u0000.
WITH ended AS (
    SELECT run_id, outcome, coalesce(substring(failure FROM '^\{"type":"(?:[^"\\]|\\.)*","message":"(?:[^"\\]|\\.)*","class":"([a-z]+)"'), 'user') AS class
      FROM attempt WHERE run_id > %(after)s AND run_id <= %(until)s AND failure IS NOT NULL AND outcome NOT IN ('Released', 'Suspended')),
charged AS (
    SELECT run_id, count(*) FILTER (WHERE class IN ('user', 'timeout', 'permanent')) AS users, count(*) FILTER (WHERE class = 'infra') AS infra
      FROM ended GROUP BY run_id)
SELECT run.id AS run_id, concat('It counts ', run.user_failures, ' failures of its code and ', run.infra_failures,
           ' of the infrastructure; its attempts have ', coalesce(c.users, 0), ' and ', coalesce(c.infra, 0), '.') AS message
  FROM run LEFT JOIN charged c ON c.run_id = run.id
 WHERE run.id > %(after)s AND run.id <= %(until)s
   AND (run.user_failures > coalesce(c.users, 0) OR run.infra_failures > coalesce(c.infra, 0)
        -- What was stopped by a cancellation, or failed to undo something, is charged to nobody.
        OR (run.ends_as IS NULL AND run.state NOT IN ('Cancelling', 'Cancelled')
            AND (run.user_failures <> coalesce(c.users, 0) OR run.infra_failures <> coalesce(c.infra, 0))))
 ORDER BY 1 LIMIT %(limit)s;

-- name: budgets
-- A run that a person has resumed may have got other limits in between.
SELECT run_id, message FROM (
    SELECT run.id AS run_id, CASE
               WHEN run.infra_failures > %(infra_budget)s THEN concat('It met ', run.infra_failures, ' failures of the infrastructure.')
               WHEN run.compensation_failures > %(compensation_budget)s THEN concat('It failed ', run.compensation_failures, ' times to undo its steps.')
               WHEN run.user_failures > 1 AND run.user_failures > substring(v.spec FROM '"retry":\{"max_attempts":(\d+)')::int
                    AND NOT EXISTS (SELECT 1 FROM event e WHERE e.run_id = run.id AND e.type = 'Resumed')
                   THEN concat('Its code failed ', run.user_failures, ' times, more than maxAttempts allows.') END AS message
      FROM run LEFT JOIN task_version v ON v.id = run.task_version_id
     WHERE run.id > %(after)s AND run.id <= %(until)s) found
 WHERE message IS NOT NULL ORDER BY 1 LIMIT %(limit)s;

-- name: logs
-- Lines are numbered from 1. Where some are missing, the next one says so.
WITH odd AS (
    SELECT a.id, a.run_id, a.number FROM attempt a JOIN log l ON l.attempt_id = a.id
     WHERE a.run_id > %(after)s AND a.run_id <= %(until)s GROUP BY a.id HAVING max(l.seq) <> count(*) OR min(l.seq) <> 1),
line AS (
    SELECT odd.run_id, odd.number, l.seq, l.stream, l.text, lag(l.seq, 1, 0) OVER (PARTITION BY odd.id ORDER BY l.seq) AS before
      FROM odd JOIN log l ON l.attempt_id = odd.id)
SELECT run_id, concat('Attempt ', number, ' lacks the log lines ', before + 1, ' to ', seq - 1, ', and nothing says so.') AS message
  FROM line WHERE seq <> before + 1 AND NOT (stream = 'system' AND text LIKE '… %%')
 ORDER BY 1 LIMIT %(limit)s;

-- name: waits
SELECT run_id, concat('Wait ', quote_literal(left(key, 100)), what) AS message FROM (
    SELECT w.run_id, w.key, CASE
               WHEN run.finished_at IS NOT NULL OR run.state = 'Compensating' THEN concat(' is left of a run that is ', run.state, '.')
               WHEN s.key IS NULL THEN ' has no step.'
               WHEN s.state <> 'waiting' THEN concat(' is not over, and its step is ', s.state, '.')
               WHEN s.kind <> w.kind THEN concat(' is for ', w.kind, ', and its step for ', s.kind, '.')
               WHEN w.project_id <> run.project_id THEN ' belongs to another project than its run.'
               WHEN w.due_at IS NULL AND w.target IS NULL THEN ' has no end and waits for nothing.'
               WHEN w.kind = 'run' AND s.child_id::text IS DISTINCT FROM w.target THEN ' is for another run than its step has started.'
               WHEN w.kind = 'approval' AND p.name IS DISTINCT FROM w.target THEN ' is for an approval that there is not.'
               WHEN w.kind = 'approval' AND p.state IN ('Approved', 'Refused') THEN concat(' is not over, and its approval is ', p.state, '.') END AS what
      FROM wait w JOIN run ON run.id = w.run_id LEFT JOIN step s ON s.run_id = w.run_id AND s.key = w.key
      LEFT JOIN approval p ON p.run_id = w.run_id AND p.key = w.key
     WHERE w.run_id > %(after)s AND w.run_id <= %(until)s
    UNION ALL
    SELECT s.run_id, s.key, ' is a step that waits, and nothing ends it.' FROM step s
     WHERE s.run_id > %(after)s AND s.run_id <= %(until)s AND s.state = 'waiting'
       AND NOT EXISTS (SELECT 1 FROM wait w WHERE w.run_id = s.run_id AND w.key = s.key)) found
 WHERE what IS NOT NULL
UNION ALL
SELECT run.id, 'It is Waiting, and for nothing.' FROM run
 WHERE run.id > %(after)s AND run.id <= %(until)s AND run.state = 'Waiting'
   AND NOT EXISTS (SELECT 1 FROM wait w WHERE w.run_id = run.id)
 ORDER BY 1 LIMIT %(limit)s;

-- name: children
SELECT run_id, message FROM (
    SELECT c.id AS run_id, CASE
               WHEN p.id IS NULL THEN concat('Its parent ', c.parent_id, ' is not in the ledger.')
               WHEN p.project_id <> c.project_id THEN 'Its parent is in another project.'
               WHEN c.depth <> p.depth + 1 THEN concat('It is at level ', c.depth, ' below a run at level ', p.depth, '.')
               WHEN c.root_id IS DISTINCT FROM coalesce(p.root_id, p.id) THEN 'It belongs to another tree than its parent.'
               -- One that did not succeed may have been started anew by its step.
               WHEN p.finished_at IS NULL AND p.state <> 'Compensating' AND (c.finished_at IS NULL OR c.state = 'Succeeded')
                    AND NOT EXISTS (SELECT 1 FROM step s WHERE s.run_id = p.id AND s.child_id = c.id)
                   THEN concat('Run ', p.id, ' has started it, and none of its steps knows.') END AS message
      FROM run c LEFT JOIN run p ON p.id = c.parent_id
     WHERE c.id > %(after)s AND c.id <= %(until)s AND c.parent_id IS NOT NULL
    UNION ALL
    SELECT s.run_id, concat('Step ', quote_literal(left(s.key, 100)), ' has started run ', s.child_id, ', which is not in the ledger.')
      FROM step s WHERE s.run_id > %(after)s AND s.run_id <= %(until)s AND s.child_id IS NOT NULL
       AND NOT EXISTS (SELECT 1 FROM run WHERE run.id = s.child_id)) found
 WHERE message IS NOT NULL ORDER BY 1 LIMIT %(limit)s;

-- name: events_taken
SELECT t.run_id, concat('Wait ', quote_literal(left(t.key, 100)), ' has taken ', count(*), ' events.') AS message FROM event_taken t
 WHERE t.run_id > %(after)s AND t.run_id <= %(until)s GROUP BY t.run_id, t.key HAVING count(*) > 1
UNION ALL
SELECT t.run_id, concat('Wait ', quote_literal(left(t.key, 100)), ' has taken event ', e.id, ' and is not over by it.')
  FROM event_taken t JOIN sent_event e ON e.seq = t.seq LEFT JOIN step s ON s.run_id = t.run_id AND s.key = t.key
 WHERE t.run_id > %(after)s AND t.run_id <= %(until)s AND s.state IS DISTINCT FROM 'succeeded'
 ORDER BY 1 LIMIT %(limit)s;

-- name: compensations
SELECT run.id AS run_id, concat('It ended as ', run.state, ', and step ', quote_literal(left(s.key, 100)), ' was not undone; nothing says so.') AS message
  FROM step s JOIN run ON run.id = s.run_id
 WHERE s.run_id > %(after)s AND s.run_id <= %(until)s AND s.compensation IS NOT NULL
   AND run.state IN ('Failed', 'TimedOut', 'Cancelled') AND run.reason IS DISTINCT FROM 'CompensationFailed'
   AND NOT EXISTS (SELECT 1 FROM step c WHERE c.run_id = s.run_id AND c.key = 'compensate/' || s.key AND c.state = 'succeeded')
UNION ALL
SELECT c.run_id, concat('Step ', quote_literal(left(c.key, 100)), ' undoes a step that has not succeeded.')
  FROM step c JOIN run ON run.id = c.run_id LEFT JOIN step s ON s.run_id = c.run_id AND s.key = substr(c.key, 12)
 WHERE c.run_id > %(after)s AND c.run_id <= %(until)s AND c.key LIKE 'compensate/%%' AND run.ends_as IS NOT NULL AND s.compensation IS NULL
UNION ALL
SELECT run.id, concat('It was to end as ', run.ends_as, ' and is ', run.state, '.') FROM run
 WHERE run.id > %(after)s AND run.id <= %(until)s AND run.ends_as IS NOT NULL AND run.state NOT IN (run.ends_as, 'Compensating')
 ORDER BY 1 LIMIT %(limit)s;

-- name: idempotency
-- A key stands for its run as long as that has not failed, and no longer than keys are kept.
SELECT run.id AS run_id, concat('Its idempotency key ', quote_literal(left(run.idempotency_key, 100)), ' stands for ',
           coalesce('run ' || k.run_id, 'no run'), '.') AS message
  FROM run LEFT JOIN idempotency_key k ON k.project_id = run.project_id AND k.task = run.task AND k.key = run.idempotency_key
 WHERE run.id > %(after)s AND run.id <= %(until)s AND run.idempotency_key IS NOT NULL AND k.run_id IS DISTINCT FROM run.id
   AND run.state NOT IN ('Failed', 'TimedOut', 'Cancelled') AND run.created_at + %(keep_keys)s::interval > ledger_now()
UNION ALL
SELECT run.id, concat('Resource ', h.name, ' shows it, and was bound to run ', other.id, ' too.')
  FROM run_handle h JOIN run ON run.id = h.run_id JOIN run other ON other.resource_uid = h.resource_uid
 WHERE run.id > %(after)s AND run.id <= %(until)s
 ORDER BY 1 LIMIT %(limit)s;

-- name: keys
-- Of the whole ledger: keys are not in the order of the runs.
SELECT k.run_id, concat('Idempotency key ', quote_literal(left(k.key, 100)), ' of task ', k.task, ' stands for a run that ',
           CASE WHEN run.id IS NULL THEN 'is not in the ledger.' ELSE 'has another.' END) AS message
  FROM idempotency_key k LEFT JOIN run ON run.id = k.run_id
 WHERE k.expires_at > ledger_now() AND (run.id IS NULL OR (run.project_id, run.task, run.idempotency_key) IS DISTINCT FROM (k.project_id, k.task, k.key))
 ORDER BY 1 LIMIT %(limit)s;

-- name: values
SELECT run_id, concat(what, ' refers to value ', left(sha256, 12), '…, which is not recorded.') AS message FROM (
    SELECT run.id AS run_id, run.id AS owner, run.payload_sha256 AS sha256, 'Its payload' AS what FROM run
     WHERE run.id > %(after)s AND run.id <= %(until)s AND run.payload_sha256 IS NOT NULL
    UNION ALL SELECT run.id, run.id, run.result_sha256, 'Its result' FROM run
     WHERE run.id > %(after)s AND run.id <= %(until)s AND run.result_sha256 IS NOT NULL
    UNION ALL SELECT s.run_id, s.result_of, s.result_sha256, concat('Step ', quote_literal(left(s.key, 100))) FROM step s
     WHERE s.run_id > %(after)s AND s.run_id <= %(until)s AND s.result_sha256 IS NOT NULL
    UNION ALL SELECT c.run_id, c.run_id, c.state_sha256, 'Its saved state' FROM checkpoint c
     WHERE c.run_id > %(after)s AND c.run_id <= %(until)s AND c.state_sha256 IS NOT NULL) pointer
 WHERE NOT EXISTS (SELECT 1 FROM blob WHERE blob.run_id = pointer.owner AND blob.sha256 = pointer.sha256)
 ORDER BY 1 LIMIT %(limit)s;

-- name: orphans
SELECT run_id, concat(count(*), ' rows of ', what, ' belong to it, and it is not in the ledger.') AS message FROM (
    SELECT run_id, 'event' AS what FROM event WHERE run_id > %(after)s AND run_id <= %(until)s
    UNION ALL SELECT run_id, 'attempt' FROM attempt WHERE run_id > %(after)s AND run_id <= %(until)s
    UNION ALL SELECT run_id, 'step' FROM step WHERE run_id > %(after)s AND run_id <= %(until)s
    UNION ALL SELECT run_id, 'wait' FROM wait WHERE run_id > %(after)s AND run_id <= %(until)s
    UNION ALL SELECT run_id, 'queue_entry' FROM queue_entry WHERE run_id > %(after)s AND run_id <= %(until)s
    UNION ALL SELECT run_id, 'projection_entry' FROM projection_entry WHERE run_id > %(after)s AND run_id <= %(until)s
    UNION ALL SELECT run_id, 'blob' FROM blob WHERE run_id > %(after)s AND run_id <= %(until)s
    UNION ALL SELECT run_id, 'token' FROM token WHERE run_id > %(after)s AND run_id <= %(until)s
    UNION ALL SELECT run_id, 'approval' FROM approval WHERE run_id > %(after)s AND run_id <= %(until)s
    UNION ALL SELECT run_id, 'checkpoint' FROM checkpoint WHERE run_id > %(after)s AND run_id <= %(until)s
    UNION ALL SELECT run_id, 'event_taken' FROM event_taken WHERE run_id > %(after)s AND run_id <= %(until)s) part
 WHERE NOT EXISTS (SELECT 1 FROM run WHERE run.id = part.run_id)
 GROUP BY run_id, what ORDER BY 1 LIMIT %(limit)s;

-- name: late
-- What follows from something else in a transaction of its own, and should have done so long ago.
SELECT w.run_id, concat('Run ', c.id, ' ended at ', c.finished_at, ', and wait ', quote_literal(left(w.key, 100)), ' for it is not over.') AS message
  FROM wait w JOIN step s ON s.run_id = w.run_id AND s.key = w.key JOIN run c ON c.id = s.child_id
 WHERE w.run_id > %(after)s AND w.run_id <= %(until)s AND w.kind = 'run' AND c.finished_at < ledger_now() - %(late)s::interval
UNION ALL
SELECT w.run_id, concat('Token ', t.id, ' was completed at ', t.completed_at, ', and wait ', quote_literal(left(w.key, 100)), ' for it is not over.')
  FROM wait w JOIN token t ON t.id::text = w.target
 WHERE w.run_id > %(after)s AND w.run_id <= %(until)s AND w.kind = 'token' AND t.completed_at < ledger_now() - %(late)s::interval
UNION ALL
SELECT w.run_id, concat('Wait ', quote_literal(left(w.key, 100)), ' was due at ', w.due_at, '.')
  FROM wait w WHERE w.run_id > %(after)s AND w.run_id <= %(until)s AND w.due_at < ledger_now() - %(late)s::interval
UNION ALL
SELECT c.id, concat('Run ', p.id, ', which has started it, is ', p.state, '; it should be ending too.')
  FROM run c JOIN run p ON p.id = c.parent_id
 WHERE c.id > %(after)s AND c.id <= %(until)s AND c.finished_at IS NULL AND NOT c.detached AND c.state NOT IN ('Cancelling', 'Compensating')
   AND p.state IN ('Cancelled', 'TimedOut') AND p.finished_at < ledger_now() - %(late)s::interval
UNION ALL
SELECT a.run_id, concat('The lease of attempt ', a.number, ' ran out at ', a.lease_until, ', and nobody has closed it.')
  FROM attempt a, heartbeat_service h
 WHERE a.run_id > %(after)s AND a.run_id <= %(until)s AND a.closed_at IS NULL AND a.lease_until < ledger_now() - %(late)s::interval
   AND h.served_since < ledger_now() - %(late)s::interval AND h.served_at > ledger_now() - %(late)s::interval
UNION ALL
SELECT run.id, concat('Its totalTimeout was over at ', run.deadline_at, '.') FROM run
 WHERE run.id > %(after)s AND run.id <= %(until)s AND run.deadline_at < ledger_now() - %(late)s::interval AND run.finished_at IS NULL
   AND run.state IN ('Queued', 'Waiting', 'Suspended')
UNION ALL
SELECT e.run_id, concat('Its status should have changed at ', e.since, '.') FROM projection_entry e
 WHERE e.run_id > %(after)s AND e.run_id <= %(until)s AND e.since < ledger_now() - %(late)s::interval
 ORDER BY 1 LIMIT %(limit)s;

-- name: schema
-- Rules that hold under race stand in the schema, so they must stand there.
SELECT NULL::uuid AS run_id, concat('Index ', wanted, ' is missing or not valid.') AS message FROM unnest(%(indexes)s::text[]) AS wanted
 WHERE NOT EXISTS (SELECT 1 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                    WHERE n.nspname = current_schema() AND c.relname = wanted AND i.indisunique AND i.indisvalid)
UNION ALL
SELECT NULL, concat('Constraint ', c.conname, ' does not hold for all rows: it is not validated.') FROM pg_constraint c
  JOIN pg_namespace n ON n.oid = c.connamespace WHERE n.nspname = current_schema() AND NOT c.convalidated
UNION ALL
SELECT NULL, concat('Table ', t, ' has ', n, ' rows and must have one.')
  FROM (SELECT 'leader' AS t, count(*) AS n FROM leader UNION ALL SELECT 'heartbeat_service', count(*) FROM heartbeat_service) single WHERE n <> 1
 LIMIT %(limit)s;
