"""Which requests a local server refuses: a page of another site must not reach the model.

A browser sends them for any page that is open: by DNS rebinding, the page's own name points to this
machine; by a form or fetch, the page posts here from elsewhere.
"""

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.requests import Request

from handler.errors import ApiError, BadRequest

SAME = ("same-origin", "none")  # of sec-fetch-site; a browser sends none for what its user typed


def refusal(request: Request, host: str) -> ApiError | None:
    """Return the problem of a request that is not this machine's own; None to serve it.

    `host` is the address that the server listens on.
    """
    name = request.url.hostname or ""
    if not _is_local(name, host):
        return BadRequest("the Host header names neither this machine nor an address")
    if request.method in ("GET", "HEAD"):
        return None
    origin = request.headers.get("origin")
    foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    if foreign or request.headers.get("sec-fetch-site", "none") not in SAME:
        return BadRequest("a page of another site must not send requests here")
    return None


def _is_local(name: str, host: str) -> bool:
    """Return whether a host name cannot be of another site: an address, localhost, this host."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        names = ("localhost", host.lower(), socket.gethostname().lower())
        return name in names or name.endswith(".localhost")
    return True
