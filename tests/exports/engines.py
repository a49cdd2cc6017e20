"""Opens exports with the tools that they are made for: python engines.py FOLDER SCHEMA

Prints a line for each check; ends with status 1 if one failed. Needs duckdb, pyarrow, polars and jsonschema.
"""
import csv
import datetime
import json
import pathlib
import shutil
import sqlite3
import sys

import duckdb
import jsonschema
import polars
import pyarrow.parquet

folder, schema = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
failed = 0


def check(name, good, told=""):
    global failed
    failed += not good
    print(f"{'ok' if good else 'FAILED':<7} {name}  {told}")


def one(connection, sql):
    return connection.execute(sql).fetchone()[0]


def control(text):
    return any(ord(c) < 32 and c not in "\n" or 127 <= ord(c) < 160 or c in "\u202e\u2066\u200b" for c in text)


# JSON lines, by a validator that is not ours.
validator = jsonschema.Draft202012Validator(json.loads(schema.read_text()))
validator.check_schema(validator.schema)
counts, invalid, gaps = {}, [], 0
with open(folder / "run.jsonl", encoding="utf-8") as lines:
    for number, line in enumerate(lines):
        row = json.loads(line)
        gaps += row["seq"] != number
        if counts.get(row["type"], 0) < 2000 or row["type"] != "lifetime":
            invalid += [f"line {number}: {error.message}" for error in validator.iter_errors(row)]
        counts[row["type"]] = counts.get(row["type"], 0) + 1
lifetimes, findings = counts["lifetime"], counts["finding"]
check("jsonl: every line fits the schema", not invalid, invalid[:3] or counts)
check("jsonl: seq has no gap", gaps == 0)
broken = dict(row, type="finding")
check("jsonl: the schema refuses what is wrong", next(validator.iter_errors(broken), None) is not None)

# SQLite.
lite = sqlite3.connect(folder / "run.sqlite")
check("sqlite: whole", one(lite, "PRAGMA integrity_check") == "ok")
check("sqlite: lifetimes", one(lite, "SELECT count(*) FROM lifetime") == lifetimes, lifetimes)
check("sqlite: findings", one(lite, "SELECT count(*) FROM finding") == findings, findings)
for (view,) in lite.execute("SELECT name FROM sqlite_master WHERE type = 'view' ORDER BY name").fetchall():
    rows = lite.execute(f"SELECT * FROM {view}").fetchall()
    check(f"sqlite: view {view}", True, f"{len(rows)} rows")
# What starts Python may be a shell, with a null device of its own.
left = one(
    lite,
    "SELECT count(*) FROM lifetime WHERE object = '/dev/null' AND closed_how = 'closed-by-exit'"
    " AND opened_python LIKE '%program.py%'",
)
check("sqlite: the descriptor that was left to the kernel is found", left == 1)

# CSV, as a spreadsheet would read it.
with open(folder / "run.csv", newline="", encoding="utf-8") as file:
    rows = list(csv.DictReader(file, strict=True))
check("csv: lifetimes", len(rows) == lifetimes and None not in rows[0], len(rows))
formulas = [cell for row in rows for cell in row.values() if cell and cell[0] in "=+-@\t\r|%"]
check("csv: nothing that a spreadsheet computes", not formulas, formulas[:3])
check("csv: no control characters", not any(control(cell) for row in rows for cell in row.values() if cell))
with open(folder / "run-findings.csv", newline="", encoding="utf-8") as file:
    check("csv: findings", len(list(csv.DictReader(file, strict=True))) == findings)
duck = duckdb.connect()
check("csv: DuckDB reads it", one(duck, f"SELECT count(*) FROM read_csv('{folder}/run.csv')") == lifetimes)

# Parquet, laid into the folders of a partitioned table.
if (folder / "run.parquet").exists():
    place = folder / "lake/lifetimes/date=2026-11-25/host=web1"
    place.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "run.parquet", place / "run.parquet")
    table = f"read_parquet('{folder}/lake/lifetimes/*/*/*.parquet', hive_partitioning = true)"
    check("parquet: DuckDB", one(duck, f"SELECT count(*) FROM {table} WHERE host = 'web1'") == lifetimes, lifetimes)
    check("parquet: DuckDB, findings", one(duck, f"SELECT count(*) FROM '{folder}/run-findings.parquet'") == findings)
    kinds = {name: kind for name, kind, *_ in duck.execute(f"DESCRIBE SELECT * FROM {table}").fetchall()}
    unsigned = [name for name, kind in kinds.items() if kind.startswith("U") and kind != "UUID"]
    check("parquet: no unsigned numbers", not unsigned, unsigned)
    check("parquet: moments", kinds["opened"] == kinds["closed"] == "TIMESTAMP WITH TIME ZONE", kinds["opened"])
    early = one(duck, f"SELECT count(*) FROM {table} WHERE closed < opened")
    check("parquet: nothing is closed before it is opened", early == 0, early)
    arrow = pyarrow.parquet.read_table(folder / "run.parquet")
    check("parquet: Arrow", arrow.num_rows == lifetimes, arrow.num_rows)
    check("parquet: Arrow's moments are microseconds in UTC", str(arrow.schema.field("opened").type) == "timestamp[us, tz=UTC]")
    check("parquet: Arrow reads all values", arrow.validate(full=True) is None)
    frame = polars.read_parquet(folder / "run.parquet")
    check("parquet: Polars", frame.height == lifetimes, frame.height)
    opened = frame.filter(polars.col("opened_how") == "opened")["opened"].max()
    age = abs(datetime.datetime.now(datetime.UTC) - opened)
    check("parquet: times are those of today", age < datetime.timedelta(days=1), opened)
    lite_sum = one(lite, "SELECT sum(closed_ns - opened_ns) FROM lifetime")
    check("parquet and sqlite agree", one(duck, f"SELECT sum(closed_ns - opened_ns)::BIGINT FROM {table}") == lite_sum, lite_sum)
    hostile = one(duck, f"SELECT count(*) FROM {table} WHERE object LIKE '%onerror%'")
    check("parquet: hostile names are text", hostile == 1, hostile)
else:
    print("skipped parquet: this fdtrace was built without")

print(f"{'FAILED' if failed else 'ok'}: {failed} checks failed")
sys.exit(bool(failed))
