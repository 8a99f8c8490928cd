"""What schemathesis has to know beyond the description: how a sealed message is sent, and that life is short."""

import schemathesis


@schemathesis.serializer("application/jose")
def jose(context, value):
    """A sealed message goes over the wire as it is; what is no text at all becomes bytes that are none."""
    if isinstance(value, str):
        return value.encode("utf-8", errors="surrogatepass")
    return value if isinstance(value, bytes) else b"\xff" + repr(value).encode()


@schemathesis.deserializer("application/jose")
def text(context, response):
    """And comes back as it was."""
    return response.content.decode("utf-8")


@schemathesis.hook
def before_call(context, case, kwargs):
    """A wait that is allowed is not waited for."""
    for holder in (case.query, case.body):
        if isinstance(holder, dict) and is_wait(holder.get("wait")):
            holder["wait"] = 0


def is_wait(value):
    """Whether the server would wait that long."""
    try:
        return not isinstance(value, bool) and 0 < float(value) <= 60
    except (TypeError, ValueError):
        return False
