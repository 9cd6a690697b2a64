"""redis-py: one pipeline whose replies are far over the proxy's output limit."""

import redis

from compare import ANY, main

PIPELINED_GETS = 200_000
VALUES = [f"{i:03}".encode() + b"v" * 1_021 for i in range(100)]


def huge_pipeline(url, log):
    """200 000 GETs of 1 KiB, written whole before the first reply is read.

    The replies are over three times the proxy's output limit, which is reached if they come faster than the
    client reads. The documented end is then a closed connection, a ConnectionError here, and the next works.
    """
    with redis.Redis.from_url(url) as client:
        log.dials(1)
        client.flushall()
        for i, value in enumerate(VALUES):
            client.set(f"key:{i}", value)
        outcome = attempt(client, log)
        print(f"   {log.side}: {outcome}")
        # The one documented difference; the line above tells which it was.
        closed_by_limit = log.side == "through" and isinstance(outcome, redis.ConnectionError)
        log.record("200 000 GETs", "answered in full" if closed_by_limit else outcome)
        log.record("the next request", client.get("key:7"))


def attempt(client, log):
    try:
        with client.pipeline(transaction=False) as pipeline:
            for i in range(PIPELINED_GETS):
                pipeline.get(f"key:{i % len(VALUES)}")
            replies = pipeline.execute()
    except redis.ConnectionError as error:
        # The library repeats what was cut off, on new connections.
        log.dials(ANY)
        return error
    return "answered in full" if replies == VALUES * (PIPELINED_GETS // len(VALUES)) else "answered with wrong values"


if __name__ == "__main__":
    main([("huge pipeline", huge_pipeline)])
