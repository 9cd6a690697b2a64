"""RQ at its ordinary work.

Its workers block in BLMOVE (of one queue) or BLPOP (of several), obey commands that come by publish and subscribe, and
change the state of jobs in transactions, with WATCH where jobs depend on each other. Each side has two workers of the
command line, started once for all scenarios; where the order counts, a worker that runs within this process until
there is nothing to do. This file is also the module that holds the jobs.
"""

import contextlib
import datetime
import logging
import os
import subprocess
import sys
import tempfile
import time

import redis
from rq import Callback, Queue, RateLimit, Repeat, Retry, SimpleWorker, Worker, get_current_job
from rq.command import send_kill_horse_command, send_shutdown_command, send_stop_job_command
from rq.exceptions import DuplicateJobError
from rq.group import Group
from rq.job import Dependency, Job
from rq.registry import CanceledJobRegistry, DeferredJobRegistry, FailedJobRegistry, FinishedJobRegistry
from rq.registry import ScheduledJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend
from rq.worker_pool import WorkerPool

from compare import ANY, main, until

# The longest to wait for a process to end, in seconds.
LIMIT = 30
REGISTRIES = [
    StartedJobRegistry,
    FinishedJobRegistry,
    FailedJobRegistry,
    DeferredJobRegistry,
    CanceledJobRegistry,
    ScheduledJobRegistry,
]


# --- Jobs ---------------------------------------------------------------------------------------------------


def add(*numbers):
    return sum(numbers)


def note(where, what):
    """Leaves a trace of having run."""
    get_current_job().connection.rpush(where, what)
    return what


def fail(text):
    raise ValueError(text)


def flaky(where, failures):
    """Fails so many times."""
    if get_current_job().connection.incr(where) <= failures:
        raise ValueError("not yet")
    return "at last"


def progress(steps):
    job = get_current_job()
    for step in range(steps):
        job.meta["step"] = step
        job.save_meta()
    return steps


def hang(where):
    get_current_job().connection.rpush(where, "started")
    time.sleep(LIMIT)


def results_of_dependencies():
    return sorted(job.return_value() for job in get_current_job().fetch_dependencies())


def on_success(job, connection, result):
    connection.rpush(f"callbacks:{job.id}", f"success {result}")


def on_failure(job, connection, kind, value, _trace):
    connection.rpush(f"callbacks:{job.id}", f"failure {kind.__name__} {value}")


def on_stopped(job, connection):
    connection.rpush(f"callbacks:{job.id}", "stopped")


# --- Workers ------------------------------------------------------------------------------------------------


class Side:
    """A connection, and the workers that serve it."""

    def __init__(self, url):
        self.url = url
        self.connection = redis.Redis.from_url(url)
        self.output = tempfile.TemporaryFile("w+")
        self.workers = [
            self.start("one queue", "default", "--with-scheduler"),
            self.start("several queues", "urgent", "default", "-w", "rq.worker.SimpleWorker"),
        ]

    def start(self, name, *options):
        """A worker process of this name."""
        # It is not to outlive this process, however that ends.
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "rq.cli", "worker", "--url", self.url]
        return subprocess.Popen(
            [*command, "--name", name, "--logging_level", "WARNING", *options],
            cwd=os.path.dirname(os.path.abspath(__file__)),
            stdout=self.output,
            stderr=subprocess.STDOUT,
        )

    def wait_for(self, *names):
        """Waits until these workers have come; to start one takes seconds where the machine is busy."""
        wanted = set(names)
        until(f"{wanted} work", lambda: wanted <= {worker.name for worker in Worker.all(self.connection)}, patience=90)

    def queue(self, name="default", **options):
        return Queue(name, connection=self.connection, **options)

    def work_off(self, *queues):
        """Runs the jobs of these queues one after the other, in this process."""
        with quiet():
            SimpleWorker(list(queues), connection=self.connection).work(burst=True)

    def notes(self, where):
        return [text.decode() for text in self.connection.lrange(where, 0, -1)]

    def complaints(self):
        """What the workers wrote of connections, which they try again by themselves; there must be nothing."""
        self.output.seek(0)
        return [line for line in self.output.read().splitlines() if "onnect" in line or "imeout" in line]

    def stop(self):
        for worker in self.workers:
            worker.terminate()
        return [worker.wait(LIMIT) for worker in self.workers]


SIDES = {}


@contextlib.contextmanager
def quiet():
    """Failures of jobs are logged, and wanted here."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def scenario(body):
    """A scenario, which is handed its side, the log, and a name of its own."""
    name = body.__name__.replace("_", " ")

    def run(url, log):
        # A worker within this process has a thread that listens, beside it.
        log.dials(ANY)
        body(SIDES[url], log, body.__name__)

    return name, run


def job_of(name):
    """How the workers find a job's function."""
    return f"rq_work.{name}"


def results(jobs):
    """What the jobs return, when all have ended."""
    until("all have ended", lambda: all(job.get_status() in ("finished", "failed") for job in jobs))
    return [job.return_value(refresh=True) for job in jobs]


def states(jobs):
    return [job.get_status().value for job in jobs]


def counts(queue):
    """How many jobs each registry of the queue holds."""
    return [queue.count, *[registry(queue=queue).count for registry in REGISTRIES]]


def attempt(call, *arguments, **named):
    try:
        return call(*arguments, **named)
    except Exception as error:  # noqa: BLE001 - it is what is compared
        return error


# --- Scenarios ----------------------------------------------------------------------------------------------


def plain_jobs(side, log, name):
    jobs = [side.queue().enqueue(job_of("add"), at, at, job_id=f"{name}-{at}") for at in range(20)]
    log.record("results", results(jobs))
    log.record("states", set(states(jobs)))
    found = Job.fetch(f"{name}-7", connection=side.connection)
    log.record("fetched", (found.args, found.func_name, found.origin, found.return_value()))
    latest = found.latest_result()
    log.record("result", (latest.type, latest.return_value))
    many = Job.fetch_many([f"{name}-{at}" for at in (1, 2, 99)], connection=side.connection)
    log.record("many", [job and job.return_value() for job in many])


def each_once(side, log, name):
    """Several workers share the jobs of a queue; each job is run by one of them."""
    jobs = [side.queue().enqueue(job_of("note"), name, at) for at in range(50)]
    log.record("results", results(jobs))
    log.record("traces", sorted(side.notes(name), key=int))


def waiting_for_results(side, log, name):
    """Results can be waited for, by a blocking XREAD."""
    jobs = [side.queue().enqueue(job_of("add"), at, 1) for at in range(5)]
    log.record("results", [job.latest_result(timeout=LIMIT).return_value for job in jobs])
    failed = side.queue().enqueue(job_of("fail"), "as expected")
    log.record("of a failure", failed.latest_result(timeout=LIMIT).type)


def order(side, log, name):
    """Queues in their order, and within one the jobs as they came, or before all others if they are to."""
    urgent, plain = side.queue(f"{name}-urgent"), side.queue(f"{name}-plain")
    for at in range(5):
        plain.enqueue(job_of("note"), name, f"plain {at}")
        urgent.enqueue(job_of("note"), name, f"urgent {at}")
    plain.enqueue(job_of("note"), name, "plain, at the front", at_front=True)
    log.record("queued", [job.args for job in plain.jobs])
    side.work_off(urgent, plain)
    log.record("order", side.notes(name))


def failures(side, log, name):
    queue = side.queue(name)
    jobs = [queue.enqueue(job_of("fail"), f"failure {at}", job_id=f"{name}-{at}") for at in range(3)]
    queue.enqueue("rq_work.missing", job_id=f"{name}-missing")
    side.work_off(queue)
    log.record("states", states(jobs))
    log.record("result", (jobs[0].latest_result().type, "ValueError: failure 0" in jobs[0].latest_result().exc_string))
    registry = FailedJobRegistry(queue=queue)
    log.record("failed", sorted(registry.get_job_ids()))
    registry.requeue(f"{name}-1")
    registry.remove(f"{name}-2", delete_job=True)
    log.record("requeued", (queue.job_ids, counts(queue)))
    log.record("removed", Job.exists(f"{name}-2", connection=side.connection))
    side.work_off(queue)
    log.record("results in all", len(jobs[1].results()))


def retries(side, log, name):
    queue = side.queue(name)
    job = queue.enqueue(job_of("flaky"), f"{name}:tried", 2, retry=Retry(max=3))
    given_up = queue.enqueue(job_of("flaky"), f"{name}:given up", 9, retry=Retry(max=2))
    later = queue.enqueue(job_of("flaky"), f"{name}:later", 1, retry=Retry(max=1, interval=3_600))
    side.work_off(queue)
    log.record("states", states([job, given_up, later]))
    log.record("tried", [int(side.connection.get(f"{name}:{what}")) for what in ("tried", "given up", "later")])
    log.record("result", job.return_value())
    log.record("counts", counts(queue))
    scheduled = ScheduledJobRegistry(queue=queue)
    log.record("due in an hour", 3_500 < (scheduled.get_scheduled_time(later).timestamp() - time.time()) <= 3_600)


def repeats(side, log, name):
    queue = side.queue(name)
    job = queue.enqueue(job_of("note"), name, "again", repeat=Repeat(times=3))
    side.work_off(queue)
    log.record("ran", side.notes(name))
    log.record("state", states([job]))


def dependencies(side, log, name):
    """Jobs that wait for others. One worker runs them: where two end the last two that a job waits for, the library may forget it."""
    queue = side.queue(f"{name}-alone")
    leaves = [queue.enqueue(job_of("add"), at, 1) for at in range(6)]
    middle = [queue.enqueue(job_of("results_of_dependencies"), depends_on=leaves[at : at + 3]) for at in (0, 3)]
    top = queue.enqueue(job_of("results_of_dependencies"), depends_on=middle)
    side.work_off(queue)
    log.record("result", results([top]))
    bad = queue.enqueue(job_of("fail"), "bad")
    tolerant = queue.enqueue(job_of("add"), 1, 2, depends_on=Dependency(jobs=[bad], allow_failure=True))
    strict = queue.enqueue(job_of("add"), 1, 2, depends_on=bad)
    side.work_off(queue)
    log.record("in spite of a failure", results([tolerant]))
    log.record("not in spite of it", states([strict]))
    log.record("deferred", DeferredJobRegistry(queue=queue).get_job_ids() == [strict.id])
    strict.delete()
    held = side.queue(f"{name}-held")
    first = held.enqueue(job_of("add"), 1)
    second = held.enqueue(job_of("note"), name, "second", depends_on=first)
    log.record("before", counts(held))
    first.cancel(enqueue_dependents=True)
    log.record("after", (counts(held), states([first, second])))
    side.work_off(held)
    log.record("traces", side.notes(name))


def many_dependents(side, log, name):
    """Many jobs that wait for one, which are freed in one transaction."""
    queue = side.queue()
    first = queue.enqueue(job_of("add"), 0)
    dependents = [queue.enqueue(job_of("note"), name, at, depends_on=first) for at in range(30)]
    log.record("results", results(dependents))
    log.record("traces", sorted(side.notes(name), key=int))


def scheduled_jobs(side, log, name):
    """The scheduler beside the first worker looks once a second."""
    queue = side.queue()
    now = datetime.datetime.now(datetime.timezone.utc)
    jobs = [
        queue.enqueue_in(datetime.timedelta(milliseconds=1), job_of("note"), name, "soon"),
        queue.enqueue_at(now, job_of("note"), name, "at once"),
        queue.enqueue(job_of("flaky"), f"{name}:tried", 1, retry=Retry(max=2, interval=1)),
        queue.enqueue(job_of("note"), name, "repeated", repeat=Repeat(times=1, interval=1)),
    ]
    never = queue.enqueue_in(datetime.timedelta(hours=1), job_of("note"), name, "never")
    log.record("scheduled", never.id in ScheduledJobRegistry(queue=queue).get_job_ids())
    until("all ran", lambda: len(side.notes(name)) == 4)
    log.record("results", results(jobs))
    log.record("traces", sorted(side.notes(name)))
    never.cancel()
    log.record("cancelled", (states([never]), never.id in ScheduledJobRegistry(queue=queue).get_job_ids()))


def cancelling(side, log, name):
    queue = side.queue(name)
    jobs = [queue.enqueue(job_of("note"), name, at, job_id=f"{name}-{at}") for at in range(6)]
    jobs[0].cancel()
    jobs[1].delete()
    queue.remove(jobs[2])
    log.record("positions", [job.get_position() for job in jobs])
    log.record("cancelled", CanceledJobRegistry(queue=queue).get_job_ids())
    log.record("cancelled again", attempt(jobs[0].cancel))
    log.record("counts", counts(queue))
    log.record("queued again", type(attempt(jobs[0].requeue)).__name__)
    side.work_off(queue)
    log.record("ran", side.notes(name))
    log.record("emptied", ([queue.enqueue(job_of("add"), at) for at in range(5)] and queue.empty(), queue.count))
    queue.delete(delete_jobs=True)
    log.record("deleted", name in [known.name for known in Queue.all(connection=side.connection)])


def commands(side, log, name):
    """A worker is told to stop a job, to kill the process that runs it, and to end."""
    worker = side.start(name, name)
    side.wait_for(name)
    queue = side.queue(name)
    stopped = queue.enqueue(job_of("hang"), f"{name}:1", on_stopped=Callback(job_of("on_stopped")))
    side.connection.blpop(f"{name}:1", LIMIT)
    until("it is known to run", lambda: stopped.get_status() == "started")
    send_stop_job_command(side.connection, stopped.id)
    until("it is stopped", lambda: stopped.get_status() == "stopped")
    log.record("told back", [part.decode() for part in side.connection.blpop(f"callbacks:{stopped.id}", LIMIT)[1:]])
    killed = queue.enqueue(job_of("hang"), f"{name}:2")
    side.connection.blpop(f"{name}:2", LIMIT)
    until("it is known to run", lambda: killed.get_status() == "started")
    send_kill_horse_command(side.connection, name)
    until("it has failed", lambda: killed.get_status() == "failed")
    log.record("killed", "terminated unexpectedly" in killed.latest_result().exc_string)
    after = queue.enqueue(job_of("add"), 20, 22)
    log.record("it works on", results([after]))
    send_shutdown_command(side.connection, name)
    log.record("it ends with", worker.wait(LIMIT))
    log.record("it is known no more", name in [known.name for known in Worker.all(side.connection)])


def callbacks(side, log, name):
    queue = side.queue()
    good = queue.enqueue(job_of("add"), 1, 2, on_success=Callback(job_of("on_success")))
    bad = queue.enqueue(job_of("fail"), "text", on_failure=Callback(job_of("on_failure")))
    for job in (good, bad):
        told = side.connection.blpop(f"callbacks:{job.id}", LIMIT)
        log.record("told back", told[1].decode())


def registries(side, log, name):
    queue = side.queue(name)
    jobs = [queue.enqueue(job_of("add" if at % 2 else "fail"), at) for at in range(6)]
    jobs.append(queue.enqueue(job_of("add"), 1, depends_on=jobs[0]))
    jobs.append(queue.enqueue_in(datetime.timedelta(hours=1), job_of("add"), 2))
    log.record("before", counts(queue))
    side.work_off(queue)
    log.record("after", counts(queue))
    finished = FinishedJobRegistry(queue=queue)
    log.record("finished", sorted(Job.fetch(job, connection=side.connection).args for job in finished.get_job_ids()))
    log.record("holds", [jobs[1] in finished, jobs[0] in finished])
    finished.remove(jobs[1])
    log.record("removed", counts(queue))
    brief = queue.enqueue(job_of("add"), 3, result_ttl=0)
    side.work_off(queue)
    log.record("gone at once", Job.exists(brief.id, connection=side.connection))


def meta(side, log, name):
    job = side.queue().enqueue(job_of("progress"), 5, meta={"from": name}, description="a description")
    log.record("result", results([job]))
    log.record("meta", job.get_meta())
    log.record("description", Job.fetch(job.id, connection=side.connection).description)
    job.meta["later"] = True
    job.save_meta()
    log.record("kept", Job.fetch(job.id, connection=side.connection).meta)


def in_one_transaction(side, log, name):
    """Many jobs are queued at once, or none."""
    queue = side.queue(name)
    data = [Queue.prepare_data(job_of("note"), args=(name, at), job_id=f"{name}-{at}") for at in range(20)]
    jobs = queue.enqueue_many(data)
    log.record("queued", queue.job_ids)
    with side.connection.pipeline() as pipe:
        queue.enqueue(job_of("note"), name, "together", pipeline=pipe)
        queue.enqueue_many([Queue.prepare_data(job_of("note"), args=(name, "with these"))], pipeline=pipe)
        log.record("not yet", queue.count)
        pipe.execute()
    log.record("now", queue.count)
    with side.connection.pipeline() as pipe:
        queue.enqueue(job_of("note"), name, "never", pipeline=pipe)
        pipe.reset()
    side.work_off(queue)
    log.record("ran", side.notes(name))
    log.record("states", set(states(jobs)))


def unique_jobs(side, log, name):
    queue = side.queue(name)
    queue.enqueue(job_of("add"), 1, job_id=name, unique=True)
    log.record("again", type(attempt(queue.enqueue, job_of("add"), 2, job_id=name, unique=True)) is DuplicateJobError)
    log.record("queued", (queue.count, [job.args for job in queue.jobs]))
    side.work_off(queue)
    log.record("afterwards", type(attempt(queue.enqueue, job_of("add"), 3, job_id=name, unique=True)).__name__)


def rate_limits(side, log, name):
    """Only so many jobs of a kind are queued or run at a time."""
    queue, limit = side.queue(name), RateLimit(key=name, concurrency=2)
    jobs = [queue.enqueue(job_of("note"), name, at, rate_limit=limit) for at in range(6)]
    log.record("at first", (states(jobs), queue.count))
    side.work_off(queue)
    # Those that were held back are ordered by the second in which they came.
    log.record("in the end", (set(states(jobs)), sorted(side.notes(name))))


def groups(side, log, name):
    queue = side.queue(name)
    group = Group.create(connection=side.connection, name=name)
    data = [Queue.prepare_data(job_of("add"), args=(at, at)) for at in range(5)]
    group.enqueue_many(queue=queue, job_datas=data)
    log.record("jobs", len(Group.fetch(name=name, connection=side.connection).get_jobs()))
    side.work_off(queue)
    log.record("results", sorted(job.return_value() for job in group.get_jobs()))


def suspension(side, log, name):
    """While work is suspended, a worker that would only work off its queue does not begin."""
    queue = side.queue(name)
    job = queue.enqueue(job_of("add"), 1, 2)
    suspend(side.connection, ttl=60)
    side.work_off(queue)
    log.record("suspended", states([job]))
    log.record("resumed", resume(side.connection))
    side.work_off(queue)
    log.record("afterwards", states([job]))


def a_pool(side, log, name):
    """Workers that come together, share what there is, and go."""
    jobs = [side.queue(name).enqueue(job_of("note"), name, at) for at in range(20)]
    with quiet():
        WorkerPool([name], connection=side.connection, num_workers=3).start(burst=True, logging_level="CRITICAL")
    log.record("results", results(jobs))
    log.record("traces", sorted(side.notes(name), key=int))


def another_serializer(side, log, name):
    queue = side.queue(name, serializer=JSONSerializer)
    job = queue.enqueue(job_of("add"), 1, 2)
    with quiet():
        SimpleWorker([queue], connection=side.connection, serializer=JSONSerializer).work(burst=True)
    log.record("result", job.return_value(refresh=True))
    log.record("fetched", Job.fetch(job.id, connection=side.connection, serializer=JSONSerializer).args)


def who_works(side, log, name):
    workers = {worker.name: worker for worker in Worker.all(connection=side.connection)}
    log.record("names", sorted(workers))
    log.record("queues", {known: workers[known].queue_names() for known in sorted(workers)})
    log.record("of one queue", sorted(worker.name for worker in Worker.all(queue=side.queue("urgent"))))
    done = sum(worker.successful_job_count for worker in workers.values())
    results([side.queue().enqueue(job_of("add"), at) for at in range(10)])

    def refreshed():
        for worker in workers.values():
            worker.refresh()
        return list(workers.values())

    until("all ten are counted", lambda: sum(worker.successful_job_count for worker in refreshed()) - done == 10)
    until("they are idle", lambda: {worker.get_state() for worker in refreshed()} == {"idle"})


def the_end(url, log):
    """Told to end, the workers do; they never had to complain."""
    log.dials(ANY)
    log.record("they end with", SIDES[url].stop())
    log.record("who is left", Worker.count(connection=SIDES[url].connection))
    log.record("complaints", SIDES[url].complaints())


SCENARIOS = [
    plain_jobs,
    each_once,
    waiting_for_results,
    order,
    failures,
    retries,
    repeats,
    dependencies,
    many_dependents,
    scheduled_jobs,
    cancelling,
    commands,
    callbacks,
    registries,
    meta,
    in_one_transaction,
    unique_jobs,
    rate_limits,
    groups,
    suspension,
    a_pool,
    another_serializer,
    who_works,
]

if __name__ == "__main__":
    try:
        SIDES.update({url: Side(url) for url in sys.argv[1:3]})
        for each in SIDES.values():
            each.wait_for("one queue", "several queues")
        main([*map(scenario, SCENARIOS), ("the end", the_end)])
    finally:
        for each in SIDES.values():
            for process in each.workers:
                process.kill()
