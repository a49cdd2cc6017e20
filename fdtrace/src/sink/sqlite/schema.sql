-- Times are nanoseconds of CLOCK_BOOTTIME; run.started_wall - run.started_boot turns them into wall time.
CREATE TABLE run (
    version TEXT, schema TEXT, kernel TEXT, started_wall INTEGER, started_boot INTEGER, started TEXT, targets TEXT
);
-- One row for each generation of each descriptor number. closed_* is NULL for what was open at the end.
-- Where alike is more than 1 the row stands for so many generations, one after the other, that differ in times and addresses
-- only: generation and opened_* are of the first, closed_* of the last; open_ns is how long they were open, together.
CREATE TABLE lifetime (
    pid INTEGER, process TEXT, table_id INTEGER, fd INTEGER, generation INTEGER, description INTEGER, kind TEXT,
    object TEXT, cloexec INTEGER,
    opened_ns INTEGER, opened_how TEXT, opened_call TEXT, opened_tid INTEGER, opened_owner TEXT, opened_python TEXT,
    opened_native TEXT,
    closed_ns INTEGER, closed_how TEXT, closed_call TEXT, closed_tid INTEGER, closed_owner TEXT, closed_python TEXT,
    closed_native TEXT,
    alike INTEGER, open_ns INTEGER, longest_ns INTEGER
);
CREATE TABLE finding (
    id INTEGER PRIMARY KEY, rule TEXT, confidence TEXT, severity TEXT, incident INTEGER, pid INTEGER, process TEXT,
    fd INTEGER, generation INTEGER, time_ns INTEGER, message TEXT, complete INTEGER, advice TEXT
);
-- The timeline of each finding.
CREATE TABLE act (
    finding INTEGER REFERENCES finding (id), place INTEGER, time_ns INTEGER, enter_ns INTEGER, pid INTEGER, tid INTEGER,
    process TEXT, fd INTEGER, generation INTEGER, verb TEXT, call TEXT, error TEXT, object TEXT, role TEXT, owner TEXT,
    python TEXT, native TEXT
);
CREATE TABLE loss (since_ns INTEGER, until_ns INTEGER, class TEXT, records INTEGER);
CREATE TABLE summary (events INTEGER, lost INTEGER, uncertain_ns INTEGER, findings INTEGER, duration_ns INTEGER);

-- What was open when the recording ended: the candidates for leaks.
CREATE VIEW open_at_end AS
    SELECT pid, process, fd, generation, kind, object, opened_ns, opened_how, opened_call, opened_tid
    FROM lifetime WHERE closed_ns IS NULL;
-- What is opened most, and how long it lives.
CREATE VIEW churn AS
    SELECT pid, process, kind, object, sum(alike) AS generations,
           sum(open_ns) * 1.0 / sum(CASE WHEN closed_ns IS NOT NULL THEN alike END) AS mean_ns,
           max(longest_ns) AS longest_ns
    FROM lifetime GROUP BY pid, process, kind, object ORDER BY generations DESC;
-- Numbers that are given out again within a millisecond: where a stale close hits hardest.
CREATE VIEW quick_reuse AS
    SELECT a.pid, a.process, a.fd, a.generation, a.object AS was, b.object AS became, b.opened_ns - a.closed_ns AS gap_ns
    FROM lifetime a JOIN lifetime b
        ON b.table_id = a.table_id AND b.fd = a.fd AND b.generation = a.generation + a.alike
    WHERE b.opened_ns - a.closed_ns BETWEEN 0 AND 1000000;
-- Closed by another thread than the one that opened it.
CREATE VIEW closed_elsewhere AS
    SELECT pid, process, fd, generation, kind, object, opened_tid, closed_tid, closed_call
    FROM lifetime WHERE closed_how = 'closed' AND opened_how = 'opened' AND opened_tid <> closed_tid;
-- Descriptors that share one open file description.
CREATE VIEW shared AS
    SELECT description, kind, object, count(*) AS descriptors, group_concat(pid || ':' || fd, ' ') AS slots
    FROM lifetime GROUP BY description, kind, object HAVING count(*) > 1;
-- How many findings of each rule.
CREATE VIEW findings_by_rule AS
    SELECT rule, confidence, severity, count(*) AS findings, count(DISTINCT incident) AS incidents
    FROM finding GROUP BY rule, confidence, severity ORDER BY findings DESC;
