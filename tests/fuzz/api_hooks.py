"""What schemathesis is told that no description says."""

import schemathesis


@schemathesis.hook
def map_query(context, query):
    """Waits are short, because most of them would last as long as they may."""
    if query and context.operation.path.endswith("/wait"):
        timeout = str(query.get("timeout_ms", "20"))
        query["timeout_ms"] = timeout[:2] if timeout.isdigit() else timeout
    return query


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
