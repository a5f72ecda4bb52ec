"""What schemathesis is told that no description says."""

import re

import schemathesis

AGO = re.compile(r"[0-9]{1,9}(ms|s|m|h|d|w)")
TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T.*")


@schemathesis.hook
def map_query(context, query):
    """Waits are short, because most of them would last as long as they may."""
    if query and context.operation.path.endswith("/wait"):
        timeout = str(query.get("timeout_ms", "20"))
        query["timeout_ms"] = timeout[:2] if timeout.isdigit() else timeout
    return query


@schemathesis.hook
def before_call(context, case, kwargs):
    """A span ends after it begins."""
    query = case.query
    if query and case.operation.path == "/v1/history":
        if is_moment(query.get("since")) and is_moment(query.get("until", "1d")):
            query["until"] = "9999-12-30T00:00:00Z"
        elif "since" not in query and is_moment(query.get("until")):
            query["since"] = "0001-01-02T00:00:00Z"


def is_moment(value):
    return isinstance(value, str) and bool(AGO.fullmatch(value) or TIME.fullmatch(value))


@schemathesis.hook
def map_body(context, body):
    """To the standard of schemas 172.0 is a whole number; the agent takes one only as it is usually written."""
    return whole(body)


def whole(value):
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
