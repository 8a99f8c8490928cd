"""What schemathesis has to know beyond the description: how a sealed message is sent, and that life is short."""

import schemathesis


@schemathesis.serializer("application/jose")
def jose(context, value):
    """A sealed message goes over the wire as it is."""
    if isinstance(value, bytes):
        return value
    return str(value).encode("utf-8", errors="surrogatepass")


@schemathesis.deserializer("application/jose")
def text(context, response):
    """And comes back as it was."""
    return response.content.decode("utf-8")


@schemathesis.hook
def before_call(context, case, kwargs):
    """A wait that is allowed is not waited for."""
    for holder in (case.query, case.body):
        if isinstance(holder, dict):
            wait = holder.get("wait")
            if str(wait).isdigit() and 0 < int(wait) <= 60:
                holder["wait"] = 0
