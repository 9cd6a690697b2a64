"""A web application that keeps a page in Redis for a minute, and counts its visits there.

`GET /`         the page, whether it was in the cache (`hit`, `miss`; `off` where it cannot be kept), and the count
`GET /livez`    200 while the process works. Redis does not matter
`GET /readyz`   200 until it is told to stop

On SIGTERM it goes on for DRAIN_SECONDS, since it is still being routed to, then answers what it has, says so in Redis, and
ends. With the argument `report` it writes a report of the visits, and ends.

Nothing here knows of Outrigger: REDIS_URL says where Redis is.
"""

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import redis

cache = redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True, socket_timeout=10)
stopping = threading.Event()


def page():
    """The page, from the cache if that has it."""
    kept = cache.get("page")
    if kept is not None:
        return kept, "hit"
    made = f"made at {time.time():.0f}"
    try:
        cache.set("page", made, ex=60)
    except redis.RedisError:
        return made, "off"
    return made, "miss"


def visits():
    """How many there have been; nothing while nobody counts."""
    try:
        return cache.incr("visits")
    except redis.RedisError:
        return None


class Handler(BaseHTTPRequestHandler):
    # Who connects and asks nothing holds up the end for no longer.
    timeout = 5

    def do_GET(self):
        if self.path == "/livez":
            self.answer(200, "alive")
        elif self.path == "/readyz":
            self.answer(503 if stopping.is_set() else 200, "stopping" if stopping.is_set() else "ready")
        elif self.path == "/":
            text, source = page()
            self.answer(200, {"page": text, "cache": source, "visits": visits()})
        else:
            self.answer(404, "not found")

    def answer(self, status, body):
        encoded = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, *arguments):
        """Requests are not logged."""


class Server(ThreadingHTTPServer):
    # Those that are being answered are waited for.
    daemon_threads = False
    request_queue_size = 128


def serve():
    # Waited for below: a handler would run wherever the main thread happens to be.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    server = Server(("0.0.0.0", int(os.environ.get("PORT", "8080"))), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
    print("serving", flush=True)
    signal.sigwait([signal.SIGTERM])
    stopping.set()
    time.sleep(float(os.environ.get("DRAIN_SECONDS", "3")))
    server.shutdown()
    server.server_close()
    try:
        print(f"stopped, for the {cache.incr('stops')}. time", flush=True)
    except redis.RedisError as error:
        print(f"stopped, and nobody was told: {error}", flush=True)


def report():
    seen = int(cache.get("visits") or 0)
    # Fails where Redis is away: the Job tries again.
    cache.set("report", json.dumps({"visits": seen, "at": int(time.time())}))
    print(f"reported {seen} visits", flush=True)


if __name__ == "__main__":
    report() if sys.argv[1:] == ["report"] else serve()
