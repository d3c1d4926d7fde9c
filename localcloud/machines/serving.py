"""An HTTP server on a socket that listens somewhere else, such as inside a network namespace."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Any

from ..processes import LOOK_SECONDS


class HttpServer:
    """Serves on a listening socket, from a thread for each connection, until it is closed. handler: makes one for a request."""

    def __init__(self, listener: socket.socket, handler: Callable[..., Any], name: str) -> None:
        self._server = ThreadingHTTPServer(listener.getsockname(), handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listener
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(LOOK_SECONDS,), name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
