"""One merge in a process of its own: by vidcap, by bare DuckDB or by bare Polars.

The job comes as JSON on the command line; the last line on stdout is what it took. Peers are asked
what a user who knows them would write: both are told to keep META's order, which neither does by
itself.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any


def ours(job: dict[str, Any]) -> None:
    """``vidcap merge``."""
    from vidcap_cli.merge.merge import merge

    meta = None if "parts" in job else Path(job["meta"])
    merge([Path(name) for name in job["inputs"]], Path(job["out"]), meta=meta)


def duckdb(job: dict[str, Any], limit: str) -> None:
    """A left join with the newest caption of every path or row."""
    import duckdb

    connection = duckdb.connect()
    if limit:
        connection.execute(f"SET memory_limit = '{limit}'")
        connection.execute(f"SET temp_directory = '{job['out']}.spill'")
    csv = job["form"] == "csv"
    written = "FORMAT csv, HEADER" if csv else "FORMAT parquet, COMPRESSION zstd"

    def read(name: str, extra: str = "") -> str:
        if csv:
            return f"read_csv('{name}', all_varchar = true, parallel = true{extra})"
        return f"read_parquet('{name}'{extra})"

    if "parts" in job:
        # Names of parts sort by attempt.
        chosen = f"""
            SELECT CAST(row_id AS BIGINT) AS key, arg_max(text, filename) AS text
            FROM {read(job["parts"], ", filename = true")} WHERE status = 'ok' GROUP BY key"""
        key = "CAST(m.id AS BIGINT)"
    else:
        older, newer = job["inputs"]
        chosen = f"""
            SELECT path AS key, arg_max(text, age) AS text FROM (
                SELECT path, text, 0 AS age FROM {read(older)} WHERE text <> ''
                UNION ALL SELECT path, text, 1 AS age FROM {read(newer)} WHERE text <> '')
            GROUP BY key"""
        key = "m.path"
    connection.execute(
        f"COPY (SELECT m.*, r.text FROM {read(job['meta'])} m "
        f"LEFT JOIN ({chosen}) r ON r.key = {key} ORDER BY CAST(m.id AS BIGINT)) "
        f"TO '{job['out']}' ({written})"
    )


def polars(job: dict[str, Any]) -> None:
    """A left join in the streaming engine that maintains the order."""
    import polars as pl

    csv = job["form"] == "csv"

    def read(name: str, **more: Any) -> pl.LazyFrame:
        return pl.scan_csv(name, infer_schema=False, **more) if csv else pl.scan_parquet(
            name, **more
        )  # fmt: skip

    meta = read(job["meta"])
    if "parts" in job:
        found = read(job["parts"], include_file_paths="part").filter(pl.col("status") == "ok")
        key, age = "row_id", "part"
        meta = meta.with_columns(row_id=pl.col("id"))
    else:
        tables = [
            read(name).select("path", "text", age=pl.lit(age, pl.Int8))
            for age, name in enumerate(job["inputs"])
        ]
        found = pl.concat(tables).filter(pl.col("text") != "")
        key, age = "path", "age"
    chosen = found.group_by(key).agg(pl.col("text").sort_by(age).last())
    joined = meta.join(chosen, on=key, how="left", maintain_order="left")
    if "parts" in job:
        joined = joined.drop("row_id")
    if csv:
        joined.sink_csv(job["out"])
    else:
        joined.sink_parquet(job["out"], compression="zstd")


def main() -> None:
    job = json.loads(sys.argv[1])
    began = time.perf_counter()
    peer = job["peer"]
    if peer == "ours":
        ours(job)
    elif peer == "polars":
        polars(job)
    else:
        duckdb(job, limit=peer.removeprefix("duckdb").strip())
    wall = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    # Not ru_maxrss, which a process has from the one that started it.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    print(json.dumps({"cpu": used.ru_utime + used.ru_stime, "wall": wall, "peak": peak}))
    sys.stdout.flush()
    os._exit(0)  # what is left to free is nobody's work


if __name__ == "__main__":
    main()
