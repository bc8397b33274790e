#!/usr/bin/python3
"""A web page that counts its visits in Redis."""

from http.server import BaseHTTPRequestHandler, HTTPServer

from redis import Redis, RedisError

database = Redis(host="redis", socket_timeout=5)


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        try:
            status, text = 200, str(database.incr("visits"))
        except RedisError as err:
            status, text = 503, f"no database: {err}"
        self.send_response(status)
        self.end_headers()
        self.wfile.write(f"{text}\n".encode())


HTTPServer(("", 8000), Page).serve_forever()
