"""Celery at its ordinary work, with Redis as broker and as store of results.

Its workers block in BRPOP, acknowledge in transactions, and hear each other's events and orders by publish and
subscribe; who waits for a result subscribes to it. Each side has two workers, started once for all scenarios: one with
processes, one with threads. This file is also the application that they load.
"""

import functools
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

import redis
from celery import Celery, chain, chord, group
from celery.exceptions import Ignore, Reject

from compare import ANY, main, unordered, until

# The longest to wait for one result, in seconds.
LIMIT = 30
WORKERS = {"processes": ["--pool=prefork", "-c", "2"], "threads": ["--pool=threads", "-c", "4", "-Q", "celery,special"]}


def application(url):
    """The application with all its tasks, for one side."""
    app = Celery("work", broker=url, backend=url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        result_extended=True,
        task_send_sent_event=True,
        worker_send_task_events=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=False,
        broker_transport_options={"queue_order_strategy": "priority", "priority_steps": [0, 5, 9]},
        task_routes={"special": {"queue": "special"}},
    )
    notes = redis.Redis.from_url(url, decode_responses=True)
    # Otherwise the tasks of one side would be those of the other too.
    task = functools.partial(app.task, shared=False)

    @task(name="add")
    def add(*numbers):
        return sum(numbers)

    @task(name="total")
    def total(numbers):
        return sum(numbers)

    @task(name="note")
    def note(where, what):
        """Leaves a trace of having run."""
        notes.rpush(where, what)
        return what

    @task(name="due", bind=True)
    def due(self, where):
        """Leaves a trace of having run, and tells whether it was time."""
        notes.rpush(where, "ran")
        return datetime.now(timezone.utc) >= datetime.fromisoformat(self.request.eta)

    @task(name="special")
    def special(what):
        return f"special {what}"

    @task(name="fail")
    def fail(text):
        raise ValueError(text)

    @task(name="flaky", bind=True, max_retries=5, default_retry_delay=0.02)
    def flaky(self, failures):
        if self.request.retries < failures:
            raise self.retry(exc=ValueError(f"attempt {self.request.retries}"))
        return f"done after {self.request.retries}"

    @task(name="stubborn", autoretry_for=(KeyError,), retry_kwargs={"max_retries": 2, "countdown": 0.02})
    def stubborn(where):
        notes.rpush(where, "tried")
        raise KeyError("never found")

    @task(name="slowly", bind=True)
    def slowly(self, where, steps):
        """Tells how far it is, and goes on when it is let."""
        for step in range(steps):
            self.update_state(state="PROGRESS", meta={"step": step})
            notes.blpop(where, timeout=LIMIT)
        return steps

    @task(name="sleep")
    def sleep(where):
        notes.rpush(where, "started")
        time.sleep(LIMIT)

    @task(name="picky", bind=True, acks_late=True)
    def picky(self, where, what):
        """Is given back to the queue twice, and given up by the worker if it asks for that."""
        if what == "reject":
            raise Reject("not wanted", requeue=False)
        if notes.rpush(where, what) < 3:
            raise Reject("not yet", requeue=True)
        if what == "ignore":
            self.update_state(state="ODD", meta="ignored")
            raise Ignore()
        return notes.llen(where)

    return app


# --- Workers ------------------------------------------------------------------------------------------------


class Side:
    """An application, and the workers that serve it."""

    def __init__(self, url):
        self.url = url
        self.app = application(url)
        self.notes = redis.Redis.from_url(url, decode_responses=True)
        self.log = tempfile.TemporaryFile("w+")
        self.workers = [self.start(name, *options) for name, options in WORKERS.items()]

    def start(self, name, *options):
        """A worker process of this name."""
        # It is not to outlive this process, however that ends.
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "celery", "-A", "celery_work", "worker", "-l", "WARNING", "-n", f"{name}@work"]
        environment = {**os.environ, "CELERY_URL": self.url, "C_FORCE_ROOT": "1", "PYTHONWARNINGS": "ignore"}
        return subprocess.Popen(
            [*command, *options],
            cwd=os.path.dirname(os.path.abspath(__file__)),
            env=environment,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def wait_for(self, count):
        """Waits until so many workers answer; to start one takes seconds, and many where the machine is busy."""
        answers = lambda: len(self.app.control.ping(timeout=0.5, limit=count)) == count
        until(f"{count} workers answer", answers, patience=90)

    def ask(self, count=2):
        """For questions to all workers, which are so many; it need not wait for more answers than that."""
        return self.app.control.inspect(limit=count, timeout=LIMIT)

    def task(self, name):
        return self.app.tasks[name]

    def complaints(self):
        """What the workers wrote of connections: they go on by themselves when they lose one, and there must be none."""
        self.log.seek(0)
        return [line for line in self.log.read().splitlines() if "onnection" in line]

    def stop(self):
        for worker in self.workers:
            worker.terminate()
        return [worker.wait(LIMIT) for worker in self.workers]


SIDES = {}


def scenario(body):
    """A scenario, which is handed its side, the log, and a name of its own."""
    name = body.__name__.replace("_", " ")

    def run(url, log):
        # Threads share connections as they happen to.
        log.dials(ANY)
        body(SIDES[url], log, body.__name__)

    return name, run


def results(pending):
    return [result.get(timeout=LIMIT) for result in pending]


def attempt(call, *arguments, **named):
    try:
        return call(*arguments, **named)
    except Exception as error:  # noqa: BLE001 - tasks raise what they like
        return error


# --- Scenarios ----------------------------------------------------------------------------------------------


def plain_tasks(side, log, name):
    add = side.task("add")
    log.record("results", results([add.delay(at, at) for at in range(60)]))
    result = add.apply_async((1, 2), task_id=f"{name}-1")
    log.record("one", (result.get(timeout=LIMIT), result.state, result.successful(), result.name, result.args))
    log.record("by id", side.app.AsyncResult(f"{name}-1").get(timeout=LIMIT))
    log.record("forgotten", (result.forget(), side.app.AsyncResult(f"{name}-1").state))
    log.record("too early", attempt(side.app.AsyncResult("unknown").get, timeout=0.05))


def each_once(side, log, name):
    """Every task is run once, whichever worker runs it."""
    note = side.task("note")
    pending = [note.delay(name, at) for at in range(100)]
    log.record("results", results(pending))
    log.record("traces", sorted(side.notes.lrange(name, 0, -1), key=int))


def many_waiters(side, log, name):
    """Threads that wait for results at once."""
    add = side.task("add")

    def work(thread):
        return [add.delay(thread, at).get(timeout=LIMIT) for at in range(10)]

    with ThreadPoolExecutor(6) as threads:
        log.record("results", list(threads.map(work, range(6))))


def chains(side, log, name):
    add, note = side.task("add"), side.task("note")
    log.record("chain", chain(add.s(1, 2), add.s(3), add.s(4)).delay().get(timeout=LIMIT))
    result = chain(add.s(1, 2), note.si(name, "immutable"), add.si(5, 5)).delay()
    log.record("with one that takes nothing", result.get(timeout=LIMIT))
    log.record("its parents", [result.parent.get(timeout=LIMIT), result.parent.parent.get(timeout=LIMIT)])
    linked = add.apply_async((2, 2), link=note.si(f"{name}:linked", "after"))
    log.record("linked", linked.get(timeout=LIMIT))
    log.record("what was linked", side.notes.blpop(f"{name}:linked", timeout=LIMIT)[1])
    broken = chain(add.s(1), side.task("fail").si("broken"), note.si(name, "never")).delay()
    log.record("broken", attempt(broken.get, timeout=LIMIT))
    side.task("fail").apply_async(("with a link",), link_error=note.si(f"{name}:error", "called"))
    log.record("linked error", side.notes.blpop(f"{name}:error", timeout=LIMIT)[1])
    log.record("traces", side.notes.lrange(name, 0, -1))


def groups(side, log, name):
    add = side.task("add")
    result = group(add.s(at, at) for at in range(20)).apply_async()
    log.record("group", result.get(timeout=LIMIT))
    log.record("counts", (result.completed_count(), result.successful(), result.failed()))
    result.save(backend=side.app.backend)
    restored = side.app.GroupResult.restore(result.id, backend=side.app.backend)
    log.record("restored", restored.get(timeout=LIMIT))
    log.record("deleted", (result.delete(), side.app.GroupResult.restore(result.id, backend=side.app.backend)))
    log.record("of chains", group(chain(add.s(at), add.s(1)) for at in range(5)).apply_async().get(timeout=LIMIT))
    mixed = group(add.s(1), side.task("fail").s("one of them"), add.s(3)).apply_async()
    log.record("with a failure", [repr(one) for one in mixed.get(timeout=LIMIT, propagate=False)])
    log.record("chunks", add.chunks(zip(range(12), range(12)), 4).apply_async().get(timeout=LIMIT))
    log.record("starmap", add.starmap(zip(range(5), range(5))).apply_async().get(timeout=LIMIT))


def chords(side, log, name):
    add, total = side.task("add"), side.task("total")
    log.record("chord", chord((add.s(at, at) for at in range(20)), total.s()).apply_async().get(timeout=LIMIT))
    nested = chord([chain(add.s(1), add.s(2)), group(add.s(3), add.s(4))], total.s())
    log.record("of chains and groups", nested.apply_async().get(timeout=LIMIT))
    log.record("within a chain", chain(group(add.s(1), add.s(2)), total.s(), add.s(10)).apply_async().get(timeout=LIMIT))
    several = [chord((add.s(side_, at) for at in range(5)), total.s()).apply_async() for side_ in range(8)]
    log.record("several at once", results(several))
    failed = chord([add.s(1), side.task("fail").s("one of the header")], total.s()).apply_async()
    error = attempt(failed.get, timeout=LIMIT)
    log.record("failed", (type(error).__name__, "one of the header" in str(error)))


def retries(side, log, name):
    flaky = side.task("flaky")
    log.record("retried", results([flaky.delay(failures) for failures in (0, 1, 3)]))
    log.record("given up", attempt(flaky.apply_async((9,), retry=False).get, timeout=LIMIT))
    log.record("by itself", attempt(side.task("stubborn").delay(name).get, timeout=LIMIT))
    log.record("tried", side.notes.lrange(name, 0, -1))


def later(side, log, name):
    """Tasks that are due later do not run before; some are overdue before.

    Those that are due soon after each other may be run by different workers, hence in any order.
    """
    due = side.task("due")
    pending = [due.apply_async((name,), countdown=delay / 1000) for delay in (600, 200, 400, 1)]
    expired = due.apply_async((name,), countdown=0.1, expires=0.05)
    log.record("when it was time", results(pending))
    log.record("traces", side.notes.lrange(name, 0, -1))
    log.record("expired", (type(attempt(expired.get, timeout=LIMIT)).__name__, expired.state))


def revoking(side, log, name):
    note = side.task("note")
    result = note.apply_async((name, "revoked"), countdown=3600)
    until("a worker holds it", lambda: any(side.ask().scheduled().values()))
    result.revoke()
    log.record("revoked", (type(attempt(result.get, timeout=LIMIT)).__name__, result.state))
    running = side.task("sleep").apply_async((f"{name}:sleep",), queue="processes only")
    side.app.control.add_consumer("processes only", destination=["processes@work"], reply=True, timeout=LIMIT, limit=1)
    side.notes.blpop(f"{name}:sleep", timeout=LIMIT)
    running.revoke(terminate=True)
    log.record("terminated", (type(attempt(running.get, timeout=LIMIT)).__name__, running.state))
    side.app.control.cancel_consumer("processes only", destination=["processes@work"], reply=True, timeout=LIMIT, limit=1)
    log.record("nothing ran", side.notes.lrange(name, 0, -1))
    log.record("they work on", results([side.task("add").delay(at) for at in range(10)]))


def failures(side, log, name):
    result = side.task("fail").delay("as expected")
    error = attempt(result.get, timeout=LIMIT)
    log.record("raised", error)
    log.record("state", (result.state, result.failed(), "ValueError: as expected" in result.traceback))
    log.record("not raised", repr(result.get(timeout=LIMIT, propagate=False)))
    log.record("unknown task", attempt(side.app.send_task("unknown", task_id=f"{name}-unknown").get, timeout=LIMIT))
    wrong = side.app.send_task("note", args=("one argument",))
    log.record("wrong arguments", type(attempt(wrong.get, timeout=LIMIT)).__name__)


def routing(side, log, name):
    """A queue that one of the workers serves, and one that they are told to serve."""
    special = side.task("special")
    log.record("routed", results([special.delay(at) for at in range(10)]))
    pending = side.task("add").apply_async((20, 22), queue="extra")
    log.record("nobody serves it", side.notes.llen("extra"))
    told = side.app.control.add_consumer("extra", reply=True, limit=2, timeout=LIMIT)
    log.record("told", unordered([unordered(answer) for answer in told]))
    log.record("served", pending.get(timeout=LIMIT))
    side.app.control.cancel_consumer("extra", reply=True, limit=2, timeout=LIMIT)
    queues = side.ask().active_queues()
    log.record("queues", {worker: sorted(queue["name"] for queue in queues[worker]) for worker in sorted(queues)})


def inspection(side, log, name):
    ask = side.ask()
    log.record("ping", unordered(ask.ping()))
    registered = ask.registered()
    log.record("registered", {worker: sorted(registered[worker]) for worker in sorted(registered)})
    stats = ask.stats()
    log.record("pools", {worker: stats[worker]["pool"]["max-concurrency"] for worker in sorted(stats)})
    log.record("configured", {worker: conf["task_routes"] for worker, conf in sorted(ask.conf().items())})
    log.record("nothing is active", (unordered(ask.active()), unordered(ask.reserved())))
    result = side.task("slowly").apply_async((name, 1), task_id=f"{name}-slow")
    until("it is active", lambda: any(side.ask().active().values()))
    found = side.ask().query_task(f"{name}-slow")
    log.record("found", sorted((task[0] for answers in found.values() for task in answers.values())))
    side.notes.rpush(name, "go on")
    log.record("done", result.get(timeout=LIMIT))
    log.record("rate limit", unordered([unordered(one) for one in side.app.control.rate_limit("add", "1000/s", reply=True, limit=2, timeout=LIMIT)]))
    log.record("one of them", side.app.control.ping(destination=["threads@work"], limit=1, timeout=LIMIT))


def progress(side, log, name):
    """States between sent and done, as they are published and as they are asked for."""
    states = []
    result = side.task("slowly").apply_async((name, 3), task_id=f"{name}-1")

    def hear(body):
        # Whoever waits hears of other tasks too, of which some from before may end only now.
        if body["task_id"] == result.id:
            states.append((body["status"], body["result"]))

    watcher = threading.Thread(target=lambda: result.get(timeout=LIMIT, on_message=hear))
    until("it has begun", lambda: result.state == "PROGRESS")
    log.record("as asked for", (result.state, result.info))
    watcher.start()
    until("somebody watches", lambda: side.notes.pubsub_channels("celery-task-meta-*"))
    for step in range(3):
        until("it is so far", lambda step=step: result.info == {"step": step})
        side.notes.rpush(name, "go on")
    watcher.join(LIMIT)
    log.record("the last state", states[-1])
    # The library also asks, so that an answer may overtake what was published before it, and not all are heard, or the last twice.
    steps = [("PROGRESS", {"step": step}) for step in range(3)]
    log.record("others", [state for state in states if state not in [*steps, states[-1]]])


def events(side, log, name):
    """What happens to tasks is told to whoever listens, each task's story in its order."""
    stories = {}
    wanted = [f"{name}-{at}" for at in range(10)]

    def told_all():
        ends = {"task-sent", "task-succeeded"}, {"task-sent", "task-failed"}
        return all(any(end <= set(stories.get(task, [])) for end in ends) for task in wanted)

    def listen():
        with side.app.connection() as connection:
            receiver = side.app.events.Receiver(connection)

            def heard(event):
                stories.setdefault(event.get("uuid"), []).append(event["type"])
                receiver.should_stop = told_all()

            receiver.handlers["*"] = heard
            receiver.capture(limit=None, timeout=LIMIT, wakeup=False)

    listening = threading.Thread(target=listen)
    listening.start()
    until("something is heard", lambda: side.task("add").delay().get(timeout=LIMIT) or stories)
    for at, task in enumerate(wanted):
        side.task("fail" if at == 5 else "add").apply_async((at,), task_id=task)
    listening.join(LIMIT)
    for task in wanted:
        # The sender tells by another connection than the worker.
        log.record(task, [kind for kind in stories[task] if kind != "task-sent"])
    log.record("sent", all("task-sent" in stories[task] for task in wanted))


def late_acknowledgement(side, log, name):
    picky = side.task("picky")
    # A task that was revoked before it was due is held until then.
    held = side.notes.hlen("unacked")
    log.record("given back twice", picky.delay(name, "wanted").get(timeout=LIMIT))
    ignored = picky.apply_async((name, "ignore"), task_id=f"{name}-ignored")
    until("it has left its state", lambda: ignored.state == "ODD")
    log.record("ignored", (ignored.state, ignored.info))
    picky.delay(name, "reject")
    until("nothing is left", lambda: side.notes.llen("celery") == 0 and side.notes.hlen("unacked") == held)
    log.record("traces", side.notes.lrange(name, 0, -1))


def coming_and_going(side, log, name):
    """A third worker comes, takes the urgent tasks first, and is told to go; what it has left is done by others."""
    only_third, priorities = "third only", [9, 5, 0, 9, 5, 0]
    pending = [side.task("note").apply_async((name, at), queue=only_third, priority=at) for at in priorities]
    worker = side.start("third", "--pool=solo", "-Q", f"celery,{only_third}")
    log.record("done by it", results(pending))
    log.record("in this order", side.notes.lrange(name, 0, -1))
    pending = [side.task("add").delay(at) for at in range(30)]
    side.app.control.shutdown(destination=["third@work"])
    log.record("it ends with", worker.wait(LIMIT))
    log.record("all is done", results(pending))
    log.record("who is left", sorted(side.ask().ping()))


def the_end(url, log):
    """Told to end, the workers do; they never had to complain."""
    log.record("they end with", SIDES[url].stop())
    log.record("complaints", SIDES[url].complaints())


SCENARIOS = [
    plain_tasks,
    each_once,
    many_waiters,
    chains,
    groups,
    chords,
    retries,
    later,
    revoking,
    failures,
    routing,
    inspection,
    progress,
    events,
    late_acknowledgement,
    coming_and_going,
]


def run_all():
    """Runs all scenarios on both sides; the workers never outlive it."""
    try:
        SIDES.update({url: Side(url) for url in sys.argv[1:3]})
        for side in SIDES.values():
            side.wait_for(len(WORKERS))
        main([*map(scenario, SCENARIOS), ("the end", the_end)])
    except SystemExit as end:
        status = end.code
    else:
        status = 0
    finally:
        for side in SIDES.values():
            for worker in side.workers:
                worker.kill()
    sys.stdout.flush()
    # Results unsubscribe when they are collected, which fails once the interpreter is going.
    os._exit(status)


if __name__ == "__main__":
    run_all()
else:
    app = application(os.environ["CELERY_URL"])
