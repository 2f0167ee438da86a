"""The end of a run, and its status until then: sums over the summaries of its parts."""

import time
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any

import orjson

from handler.batch import BatchError, storage
from handler.batch.plan import Plan, read_plan, read_shards
from handler.batch.score import SUMMARIES
from handler.batch.storage import Storage

MANIFEST, SUCCESS, FAILURE = "manifest.json", "_SUCCESS", "failed.json"


def finish(run: Storage, plan: Plan) -> dict[str, Any]:
    """Write the manifest of a run and `_SUCCESS`. Raise BatchError if a part is missing."""
    shards = read_shards(run)
    present = set(run.names(SUMMARIES))
    missing = [s.name for s in shards if f"{SUMMARIES}/{s.name}.json" not in present]
    if missing:
        raise BatchError(f"{len(missing)} of {len(shards)} parts are missing, first {missing[0]}")
    names = [f"{SUMMARIES}/{shard.name}.json" for shard in shards]
    summaries = [orjson.loads(content) for content in storage.read_all(run, names)]
    first_row = 0
    for summary in summaries:
        summary["first_row"] = first_row
        first_row += summary["rows"]
    finished = storage.now()
    document = {
        "run": plan.id,
        "model": plan.model,
        "function_version": plan.function_version,
        "options": asdict(plan.options),
        "inputs": [asdict(source) for source in plan.sources],
        "started": plan.started,
        "finished": finished,
        "seconds": _seconds(finished) - _seconds(plan.started),
        **_totals(summaries),
        "parts": summaries,
    }
    storage.put_bytes(run, MANIFEST, orjson.dumps(document, option=orjson.OPT_INDENT_2))
    storage.put_bytes(run, SUCCESS, b"")
    return document


def status(run: Storage) -> dict[str, Any]:
    """Return what is done of a run, its rate, and when it will be finished. Raise BatchError."""
    plan = read_plan(run)
    if content := run.read(MANIFEST):
        manifest = orjson.loads(content)
        del manifest["parts"]
        return {"status": "succeeded", **manifest, "parts": plan.shards, "parts_done": plan.shards}
    names = run.names(SUMMARIES)
    totals = _totals(map(orjson.loads, storage.read_all(run, names)))
    elapsed = max(1.0, time.time() - _seconds(plan.started))
    rate = totals["rows"] / elapsed
    failure = run.read(FAILURE)
    document = {
        "status": "failed" if failure else "running",
        "run": plan.id,
        "started": plan.started,
        "parts": plan.shards,
        "parts_done": len(names),
        **totals,
        "estimated_rows": plan.rows,
        "rows_per_second": round(rate),
        "model": plan.model,
    }
    if failure:
        return {**document, **orjson.loads(failure)}
    if rate:
        left = max(0, plan.rows - totals["rows"]) / rate
        document["estimated_finish"] = storage.iso(time.time() + left)
    return document


def _totals(summaries: Iterable[dict[str, Any]]) -> dict[str, Any]:
    rows, refused, seconds = 0, 0, 0.0
    for summary in summaries:
        rows += summary["rows"]
        refused += summary["refused"]
        seconds += summary["seconds"]
    return {"rows": rows, "refused": refused, "worker_seconds": round(seconds, 3)}


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
