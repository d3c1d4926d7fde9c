#!/usr/bin/python3
"""The example's database: `SET key value` and `GET key`, a line each, over TCP. Stands for one that you would really run."""

import socketserver
import threading

PORT = 5432
values: dict[str, str] = {}
turn = threading.Lock()


class Client(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            verb, _, rest = line.decode(errors="replace").strip().partition(" ")
            key, _, value = rest.partition(" ")
            with turn:
                if verb == "SET":
                    values[key] = value
                answer = values.get(key, "") if verb in ("GET", "SET") else "ERROR: SET key value, or GET key"
            self.wfile.write(f"{answer}\n".encode())


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    Server(("", PORT), Client).serve_forever()
