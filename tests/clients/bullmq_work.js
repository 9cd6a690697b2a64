/**
 * BullMQ at its ordinary work: queues, workers and all that stands around them give the same results through the
 * proxy as directly.
 *
 * Its producers run Lua scripts and transactions, its workers block in BZPOPMIN on connections of their own, its
 * events are read by a blocking XREAD, and it finds its workers by CLIENT LIST.
 */
"use strict";

const {
  DelayedError,
  FlowProducer,
  Queue,
  QueueEvents,
  QueueEventsProducer,
  UnrecoverableError,
  WaitingChildrenError,
  Worker,
} = require("bullmq");
const { Redis } = require("ioredis");
const { createClient } = require("redis");
const { main, unordered, until } = require("./compare.js");

const FEW = [1, 2, 3];

/** A queue and what works on it; everything is closed in the end, and an error that nobody asked about is noted. */
class Workshop {
  constructor(name, url, log) {
    this.name = name;
    this.url = url;
    this.log = log;
    this.parts = [];
  }

  add(part, what) {
    part.on("error", (error) => this.log.record(`error of ${what}`, error));
    this.parts.push(part);
    return part;
  }

  queue(options = {}) {
    return this.add(new Queue(this.name, { connection: { url: this.url }, ...options }), "the queue");
  }

  worker(processor, options = {}) {
    return this.add(new Worker(this.name, processor, { connection: { url: this.url }, ...options }), "a worker");
  }

  /** `count` workers, each with a few jobs at a time. */
  workers(count, processor, options = {}) {
    return Array.from({ length: count }, () => this.worker(processor, { concurrency: 5, ...options }));
  }

  /** Everything that happened to the queue's jobs, from its beginning. */
  events() {
    const options = { connection: { url: this.url }, lastEventId: "0" };
    return this.add(new QueueEvents(this.name, options), "the events");
  }

  flows() {
    return this.add(new FlowProducer({ connection: { url: this.url } }), "the flows");
  }

  async close() {
    await Promise.all(this.parts.map((part) => part.close()));
  }
}

/** A scenario of this name, with a queue of this name. */
function scenario(name, body) {
  const group = async (url, log) => {
    log.dialsAsOften();
    const shop = new Workshop(name.replaceAll(/[^a-z]+/g, "-"), url, log);
    try {
      await body(shop, log);
    } finally {
      await shop.close();
    }
  };
  return [name, group];
}

/** Jobs named by their place, for `addBulk`. */
function jobs(count, options = () => ({})) {
  return Array.from({ length: count }, (_, at) => ({ name: `job ${at}`, data: { at }, opts: options(at) }));
}

/** What is known of jobs, in the order of their names. */
function summary(list) {
  const known = list.map((job) => [job.name, job.returnvalue, job.failedReason ?? null, job.attemptsMade, job.progress]);
  return unordered(known);
}

function pause(milliseconds) {
  return new Promise((resume) => setTimeout(resume, milliseconds));
}

/** Every job is done once, whoever does it, and whoever waits for it learns its result. */
async function severalWorkers(shop, log) {
  const queue = shop.queue();
  const events = shop.events();
  const done = [];
  shop.workers(4, async (job) => {
    done.push(job.name);
    return job.data.at * 2;
  });
  const added = await Promise.all(FEW.map((at) => queue.add(`single ${at}`, { at })));
  await queue.addBulk(jobs(200));
  log.record("results waited for", await Promise.all(added.map((job) => job.waitUntilFinished(events, 10_000))));
  await until("all are done", async () => (await queue.getCompletedCount()) === 203);
  log.record("done, each once", unordered(done));
  log.record("completed", summary(await queue.getCompleted(0, -1)));
  log.record("counts", await queue.getJobCounts());
}

/** One worker takes jobs in the order in which they came, or the other way round if they ask for it. */
async function order(shop, log) {
  const queue = shop.queue();
  await queue.addBulk(jobs(20));
  await queue.addBulk(jobs(5, () => ({ lifo: true })));
  const seen = [];
  shop.worker(async (job) => seen.push(job.id));
  await until("all are done", () => seen.length === 25);
  log.record("order", seen);
}

async function priorities(shop, log) {
  const queue = shop.queue();
  await queue.addBulk(jobs(20, (at) => ({ priority: at % 4 })));
  log.record("counts", await queue.getCountsPerPriority([0, 1, 2, 3]));
  const last = await queue.getJob("20");
  await last.changePriority({ priority: 1, lifo: true });
  log.record("prioritized", (await queue.getPrioritized()).map((job) => job.id));
  const seen = [];
  shop.worker(async (job) => seen.push(job.id));
  await until("all are done", () => seen.length === 20);
  log.record("order", seen);
}

async function delayedJobs(shop, log) {
  const queue = shop.queue();
  await queue.add("promoted", {}, { delay: 3_600_000, jobId: "promoted" });
  await queue.add("nearer", {}, { delay: 3_600_000, jobId: "nearer" });
  const delays = [240, 80, 160, 0, 320];
  await Promise.all(delays.map((delay) => queue.add("job", {}, { delay, jobId: `after ${delay}` })));
  log.record("delayed", unordered((await queue.getDelayed()).map((job) => job.id)));
  const seen = [];
  const early = [];
  shop.worker(async (job) => {
    seen.push(job.id);
    if (Date.now() < job.timestamp + job.delay) early.push(job.id);
  });
  await until("the one without a delay is done", () => seen.length > 0);
  await until("the others are done", () => seen.length === delays.length);
  await (await queue.getJob("promoted")).promote();
  await until("the promoted one is done", () => seen.length === delays.length + 1);
  await (await queue.getJob("nearer")).changeDelay(30);
  await until("the nearer one is done", () => seen.length === delays.length + 2);
  log.record("order", seen);
  log.record("done too early", early);
  log.record("still delayed", await queue.getDelayedCount());
}

async function retries(shop, log) {
  const queue = shop.queue();
  const failures = [];
  const workers = shop.workers(
    3,
    async (job) => {
      if (job.name === "hopeless") throw new UnrecoverableError("never again");
      if (job.attemptsMade < job.data.failures) throw new Error(`attempt ${job.attemptsMade} of ${job.name}`);
      return `done after ${job.attemptsMade}`;
    },
    { settings: { backoffStrategy: (attempts) => attempts * 10 } },
  );
  workers.forEach((worker) => worker.on("failed", (job, error) => failures.push(`${job.name}: ${error.message}`)));
  const backoffs = {
    fixed: { type: "fixed", delay: 20 },
    exponential: { type: "exponential", delay: 10 },
    custom: { type: "custom" },
  };
  const work = Object.entries(backoffs).map(([name, backoff]) => {
    return queue.add(name, { failures: 3 }, { attempts: 4, backoff });
  });
  work.push(queue.add("lost", { failures: 2 }, { attempts: 2, backoff: 10, jobId: "lost" }));
  work.push(queue.add("hopeless", {}, { attempts: 5 }));
  await Promise.all(work);
  await until("all have ended", async () => (await queue.getJobCountByTypes("completed", "failed")) === 5);
  log.record("failures", unordered(failures));
  log.record("completed", summary(await queue.getCompleted()));
  log.record("failed", summary(await queue.getFailed()));
  const lost = await queue.getJob("lost");
  log.record("traces", lost.stacktrace.length);
  await lost.retry();
  await until("it is done after all", async () => (await lost.getState()) === "completed");
  await queue.retryJobs({ state: "failed" });
  await until("the hopeless one has failed again", () => failures.filter((one) => one.startsWith("hopeless")).length === 2);
  await until("it is counted", async () => (await queue.getFailedCount()) === 1);
  log.record("counts", await queue.getJobCounts());
}

/** A parent runs after its children, and knows their results. */
async function flows(shop, log) {
  const [queueName, flowProducer, queue] = [shop.name, shop.flows(), shop.queue()];
  const child = (name, opts, children) => ({ name, queueName, data: {}, opts: { jobId: name, ...opts }, children });
  const tree = child("root", {}, [
    child("left", {}, FEW.map((at) => child(`left ${at}`))),
    child("right", {}, FEW.map((at) => child(`right ${at}`))),
  ]);
  const lossy = child("lossy", {}, [child("bad and ignored", { ignoreDependencyOnFailure: true }), child("good")]);
  const doomed = child("doomed", {}, [child("bad", { failParentOnFailure: true }), child("fine")]);
  await flowProducer.add(tree);
  await flowProducer.addBulk([lossy, doomed]);
  const shape = ({ job, children = [] }) => [job.id, unordered(children.map(shape))];
  log.record("tree", shape(await flowProducer.getFlow({ id: "root", queueName, depth: 5 })));
  log.record("dependencies", await (await queue.getJob("left")).getDependenciesCount());
  log.record("waiting for children", await queue.getWaitingChildrenCount());
  shop.workers(3, async (job) => {
    if (job.name.startsWith("bad")) throw new Error(job.name);
    return { name: job.name, children: unordered(await job.getChildrenValues()) };
  });
  await until("all have ended", async () => (await queue.getJobCountByTypes("completed", "failed")) === 15);
  log.record("result", (await queue.getJob("root")).returnvalue);
  log.record("completed", summary(await queue.getCompleted()));
  log.record("failed", summary(await queue.getFailed()));
  log.record("ignored", await (await queue.getJob("lossy")).getIgnoredChildrenFailures());
}

async function schedulers(shop, log) {
  const queue = shop.queue();
  const done = [];
  shop.workers(2, async (job) => done.push(job.name));
  await queue.upsertJobScheduler("ticks", { every: 40, limit: 5 }, { name: "tick", data: { n: 1 } });
  await queue.upsertJobScheduler("yearly", { pattern: "0 0 1 1 *", tz: "UTC" }, { name: "new year" });
  await queue.upsertJobScheduler("daily", { every: 86_400_000, startDate: Date.now() + 86_400_000 }, { name: "day" });
  const { key, name, pattern, tz, iterationCount } = await queue.getJobScheduler("yearly");
  log.record("yearly", { key, name, pattern, tz, iterationCount });
  await until("the limit is reached", () => done.length === 5);
  log.record("done", done);
  const known = async () => unordered((await queue.getJobSchedulers()).map((one) => one.key));
  await queue.upsertJobScheduler("yearly", { pattern: "0 0 1 7 *", tz: "UTC" }, { name: "midsummer" });
  log.record("changed", (await queue.getJobScheduler("yearly")).pattern);
  log.record("removed", await queue.removeJobScheduler("daily"));
  log.record("removed again", await queue.removeJobScheduler("daily"));
  await until("no tick is left", async () => (await queue.getJobCountByTypes("active", "wait")) === 0);
  log.record("schedulers", await known());
  log.record("delayed", (await queue.getDelayed()).map((job) => job.name));
}

/** Everything that happens to a job is told, in its order. */
async function events(shop, log) {
  const [queue, listener] = [shop.queue(), shop.events()];
  const told = new Map();
  const names = ["added", "waiting", "delayed", "active", "progress", "completed", "failed", "removed", "duplicated"];
  for (const name of names) {
    listener.on(name, ({ jobId, prev, returnvalue, failedReason, data, delay }) => {
      const detail = JSON.stringify({ prev, returnvalue, failedReason, data, delayed: delay !== undefined });
      told.set(jobId, [...(told.get(jobId) ?? []), `${name} ${detail}`]);
    });
  }
  const others = [];
  for (const name of ["paused", "resumed", "drained"]) listener.on(name, () => others.push(name));
  await queue.pause();
  await queue.resume();
  shop.workers(3, async (job) => {
    await job.updateProgress({ half: true });
    if (job.name === "bad") throw new Error("as expected");
    return job.name;
  });
  await queue.addBulk(jobs(20, (at) => ({ jobId: `job ${at}` })));
  await queue.add("bad", {}, { jobId: "bad" });
  await queue.add("late", {}, { jobId: "late", delay: 40 });
  await until("all have ended", async () => (await queue.getJobCountByTypes("completed", "failed")) === 22);
  await queue.add("late", {}, { jobId: "late" });
  await (await queue.getJob("bad")).remove();
  const last = (id) => told.get(id)?.at(-1).split(" ")[0];
  await until("the last of it is told", () => last("bad") === "removed" && last("late") === "duplicated");
  for (const [id, story] of unordered(told)) log.record(`events of ${id}`, story);
  log.record("the queue's own", [...new Set(others)].sort());
  const kept = await queue.trimEvents(0);
  log.record("there were events to trim", kept > 0);
}

async function ownEvents(shop, log) {
  const listener = shop.events();
  const producer = shop.add(new QueueEventsProducer(shop.name, { connection: { url: shop.url } }), "the producer");
  const told = [];
  listener.on("greeting", ({ to }) => told.push(to));
  for (let at = 0; at < 50; at += 1) await producer.publishEvent({ eventName: "greeting", to: `listener ${at}` });
  await until("all is told", () => told.length === 50);
  log.record("told", told);
}

async function progressAndLogs(shop, log) {
  const queue = shop.queue();
  const progress = [];
  const workers = shop.workers(2, async (job) => {
    for (const percent of [10, 50, 100]) {
      await job.updateProgress(percent);
      await job.log(`${percent} percent of ${job.name}`);
    }
    await job.updateData({ ...job.data, seen: true });
    return job.name;
  });
  workers.forEach((worker) => worker.on("progress", (job, percent) => progress.push(`${job.name}: ${percent}`)));
  await queue.addBulk(jobs(5));
  await until("all are done", async () => (await queue.getCompletedCount()) === 5);
  log.record("progress", unordered(progress));
  for (const id of ["1", "2", "3", "4", "5"]) {
    const job = await queue.getJob(id);
    log.record(job.name, [job.progress, job.data, await queue.getJobLogs(id)]);
  }
  await queue.addJobLog("1", "from outside", 2);
  log.record("the last two lines", await queue.getJobLogs("1"));
}

async function rateLimits(shop, log) {
  const queue = shop.queue();
  const times = [];
  shop.workers(2, async () => times.push(Date.now()), { limiter: { max: 2, duration: 60 } });
  await queue.addBulk(jobs(8));
  await until("all are done", async () => (await queue.getCompletedCount()) === 8);
  // Four pairs, with a pause before each but the first, which may have been told late.
  log.record("it took as long as the limit says", times.at(-1) - times[0] >= 2 * 60);
  await queue.setGlobalRateLimit(1, 50);
  log.record("the queue's limit", await queue.getGlobalRateLimit());
  log.record("removed", await queue.removeGlobalRateLimit());
  await queue.rateLimit(60_000);
  log.record("by hand", (await queue.getRateLimitTtl()) > 50_000);
  log.record("let go", await queue.removeRateLimitKey());
}

async function pausing(shop, log) {
  const queue = shop.queue();
  const seen = [];
  const worker = shop.worker(async (job) => seen.push(job.name));
  await worker.waitUntilReady();
  await queue.pause();
  log.record("paused", await queue.isPaused());
  await queue.addBulk(jobs(10));
  log.record("counts while paused", await queue.getJobCounts());
  await queue.resume();
  await until("all are done", async () => (await queue.getCompletedCount()) === 10);
  await worker.pause();
  log.record("the worker is paused", worker.isPaused());
  await queue.addBulk(jobs(5));
  log.record("counts", await queue.getJobCounts("waiting", "completed"));
  worker.resume();
  await until("the rest is done", async () => (await queue.getCompletedCount()) === 15);
  log.record("order", seen);
}

async function emptying(shop, log) {
  const queue = shop.queue();
  const counts = () => queue.getJobCounts();
  const worker = shop.worker(async (job) => {
    if (job.data.at % 2) throw new Error("odd");
  });
  await queue.addBulk(jobs(20));
  await until("all have ended", async () => (await queue.getJobCountByTypes("completed", "failed")) === 20);
  await worker.close();
  log.record("cleaned", unordered(await queue.clean(0, 4, "completed")));
  log.record("cleaned of failures", (await queue.clean(0, 0, "failed")).length);
  await queue.addBulk(jobs(10, (at) => (at < 5 ? {} : { delay: 3_600_000 })));
  log.record("before", await counts());
  await queue.drain();
  log.record("drained", await counts());
  await queue.drain(true);
  log.record("drained of delayed jobs too", await counts());
  await queue.addBulk(jobs(100));
  await queue.obliterate({ force: true });
  log.record("obliterated", await counts());
  await queue.resume();
  await queue.add("afterwards", {});
  log.record("a fresh start", (await queue.getWaiting()).map((job) => [job.id, job.name]));
}

/** Workers and listeners are found by the names that their connections bear. */
async function whoWorks(shop, log) {
  const queue = shop.queue();
  shop.workers(2, async () => {});
  shop.worker(async () => {}, { name: "its-own-name" });
  const listener = shop.events();
  await listener.waitUntilReady();
  await until("all three are listed", async () => (await queue.getWorkersCount()) === 3);
  log.record("workers", unordered((await queue.getWorkers()).map((one) => [one.name, one.rawname])));
  await until("the listener is listed", async () => (await queue.getQueueEvents()).length === 1);
  log.record("listeners", (await queue.getQueueEvents()).map((one) => one.name));
}

/** Jobs taken by a worker that then says nothing are given to another. */
async function stalledJobs(shop, log) {
  const queue = shop.queue();
  await queue.addBulk(jobs(3));
  const silent = shop.worker(null, { autorun: false, lockDuration: 60 });
  const taken = [await silent.getNextJob("a token"), await silent.getNextJob("a token")];
  log.record("taken", taken.map((job) => job.id));
  const [stalled, done] = [[], []];
  const worker = shop.worker(async (job) => done.push(job.id), { stalledInterval: 50 });
  worker.on("stalled", (id) => stalled.push(id));
  await until("all are done", async () => (await queue.getCompletedCount()) === 3);
  log.record("stalled", unordered(stalled));
  log.record("done", unordered(done));
  await log.settle("too late", taken[0].moveToCompleted("late", "a token"));
}

/** A worker that takes its jobs by hand. */
async function byHand(shop, log) {
  const queue = shop.queue();
  await queue.addBulk(jobs(4));
  const worker = shop.worker(null, { autorun: false });
  const [first, second, third] = [await worker.getNextJob("t1"), await worker.getNextJob("t2"), await worker.getNextJob("t3")];
  log.record("active", unordered((await queue.getActive()).map((job) => job.id)));
  log.record("lock extended", await first.extendLock("t1", 10_000));
  await log.settle("with a wrong token", first.extendLock("another", 10_000));
  const next = await first.moveToCompleted("by hand", "t1");
  log.record("the next comes along", next[0].name);
  await second.moveToFailed(new Error("by hand"), "t2");
  await third.moveToWait("t3");
  log.record("states", await Promise.all(["1", "2", "3", "4", "5"].map((id) => queue.getJobState(id))));
  log.record("no job in a moment", (await shop.worker(null, { autorun: false }).getNextJob("t5"))?.id);
  log.record("counts", await queue.getJobCounts());
}

/** A job that puts itself off, and waits for children that it adds while it runs. */
async function steps(shop, log) {
  const queue = shop.queue();
  const done = [];
  shop.workers(3, async (job, token) => {
    done.push(`${job.name} at ${job.data.step ?? "its only step"}`);
    if (job.name !== "steps") {
      // Otherwise its parent might find that there is nothing to wait for.
      await until("its parent waits", async () => (await queue.getJobState("steps")) === "waiting-children");
      return job.name;
    }
    if (job.data.step === 1) {
      await job.updateData({ step: 2 });
      await job.moveToDelayed(Date.now() + 20, token);
      throw new DelayedError();
    }
    if (job.data.step === 2) {
      const parent = { id: job.id, queue: job.queueQualifiedName };
      await Promise.all(FEW.map((at) => queue.add(`child ${at}`, {}, { parent, jobId: `child ${at}` })));
      await job.updateData({ step: 3 });
      if (await job.moveToWaitingChildren(token)) throw new WaitingChildrenError();
    }
    return unordered(await job.getChildrenValues());
  });
  const job = await queue.add("steps", { step: 1 }, { jobId: "steps" });
  await until("it is done", async () => (await job.getState()) === "completed");
  log.record("done", unordered(done));
  log.record("result", (await queue.getJob("steps")).returnvalue);
}

async function deduplication(shop, log) {
  const queue = shop.queue();
  const add = (at, deduplication) => queue.add(`job ${at}`, { at }, { deduplication });
  const ids = [];
  for (const at of FEW) ids.push((await add(at, { id: "simple" })).id);
  log.record("one of three", ids);
  log.record("the holder", await queue.getDeduplicationJobId("simple"));
  const replaced = { id: "last wins", delay: 30, ttl: 60_000, extend: true, replace: true };
  for (const at of FEW) await queue.add(`late ${at}`, { at }, { delay: 30, deduplication: replaced });
  const done = [];
  shop.workers(2, async (job) => done.push([job.name, job.data.at]));
  await until("both are done", async () => (await queue.getCompletedCount()) === 2);
  log.record("done", unordered(done));
  log.record("free again", await queue.getDeduplicationJobId("simple"));
  await add(4, { id: "by hand", ttl: 60_000 });
  log.record("removed", await queue.removeDeduplicationKey("by hand"));
  await add(5, { id: "by hand" });
  await until("those are done", async () => (await queue.getCompletedCount()) === 4);
  log.record("done in the end", unordered(done));
}

async function globalConcurrency(shop, log) {
  const queue = shop.queue();
  await queue.setGlobalConcurrency(2);
  log.record("the queue's concurrency", await queue.getGlobalConcurrency());
  let [running, most] = [0, 0];
  shop.workers(3, async () => {
    running += 1;
    most = Math.max(most, running);
    await pause(2);
    running -= 1;
  });
  await queue.addBulk(jobs(40));
  await until("all are done", async () => (await queue.getCompletedCount()) === 40);
  log.record("most at a time", most);
  log.record("removed", await queue.removeGlobalConcurrency());
  log.record("none", await queue.getGlobalConcurrency());
}

async function gettersAndRemoval(shop, log) {
  const queue = shop.queue();
  await queue.addBulk(jobs(10, (at) => ({ delay: at % 3 === 0 ? 3_600_000 : 0, priority: at % 3 === 1 ? at : 0 })));
  log.record("counts", await queue.getJobCounts());
  log.record("jobs", (await queue.getJobs(["waiting", "prioritized"], 0, 3)).map((job) => [job.id, job.name, job.data]));
  log.record("delayed", unordered(await queue.getRanges(["delayed"], 0, -1)));
  log.record("removed", await queue.remove("1"));
  log.record("removed again", await queue.remove("1"));
  log.record("missing", await queue.getJob("1"));
  log.record("its state", await queue.getJobState("1"));
  const { opts, version } = await queue.getMeta();
  log.record("about the queue", { opts, version });
  await queue.promoteJobs();
  log.record("promoted", await queue.getJobCounts());
  log.record("jobs of 1 type", (await queue.getWaiting()).map((job) => job.id));
}

async function keptJobs(shop, log) {
  const queue = shop.queue({ defaultJobOptions: { removeOnComplete: 5, removeOnFail: true } });
  shop.worker(
    async (job) => {
      if (job.data.at % 10 === 0) throw new Error("every tenth");
    },
    { metrics: { maxDataPoints: 10 } },
  );
  await queue.addBulk(jobs(40));
  await until("all have ended", async () => (await queue.count()) + (await queue.getActiveCount()) === 0);
  log.record("kept", (await queue.getCompleted()).map((job) => job.id));
  log.record("counts", await queue.getJobCounts());
  log.record("completed in all", (await queue.getMetrics("completed")).meta.count);
  log.record("failed in all", (await queue.getMetrics("failed")).meta.count);
  log.record("for Prometheus", await queue.exportPrometheusMetrics());
}

/** A worker leaves while it waits for work: what comes then is not lost with it. */
async function leaving(shop, log) {
  const queue = shop.queue();
  const seen = [];
  for (const round of FEW) {
    const worker = shop.worker(async (job) => seen.push(job.name));
    await worker.waitUntilReady();
    await queue.add(`job of round ${round}`, {});
    await until("it is done", async () => (await queue.getCompletedCount()) === round * 2 - 1);
    await worker.close(round === 3);
    await queue.add(`after round ${round}`, {});
    log.record("waiting", await queue.getWaitingCount());
    const next = shop.worker(async (job) => seen.push(job.name));
    await until("it is done by the next", async () => (await queue.getCompletedCount()) === round * 2);
    await next.close();
  }
  log.record("done", seen);
}

/** Queue and workers share one connection; for waiting, each worker makes a copy of it. */
function sharedConnection(connect) {
  return async (shop, log) => {
    const connection = await connect(shop.url, log);
    const queue = shop.queue({ connection });
    const done = [];
    shop.workers(3, async (job) => done.push(job.name), { connection });
    await queue.addBulk(jobs(60));
    await until("all are done", async () => (await queue.getCompletedCount()) === 60);
    log.record("done", unordered(done));
    await shop.close();
    await connection.quit();
  };
}

function withIoredis(protocol) {
  return async (url, log) => {
    const connection = new Redis(url, { maxRetriesPerRequest: null, protocol });
    connection.on("error", (error) => log.record("error of the connection", error));
    return connection;
  };
}

function withNodeRedis(RESP) {
  return async (url, log) => {
    const connection = createClient({ url, RESP });
    connection.on("error", (error) => log.record("error of the connection", error));
    await connection.connect();
    return connection;
  };
}

main([
  scenario("several workers", severalWorkers),
  scenario("order", order),
  scenario("priorities", priorities),
  scenario("delayed jobs", delayedJobs),
  scenario("retries", retries),
  scenario("flows", flows),
  scenario("schedulers", schedulers),
  scenario("events", events),
  scenario("events of one's own", ownEvents),
  scenario("progress and logs", progressAndLogs),
  scenario("rate limits", rateLimits),
  scenario("pausing", pausing),
  scenario("emptying", emptying),
  scenario("who works", whoWorks),
  scenario("stalled jobs", stalledJobs),
  scenario("by hand", byHand),
  scenario("steps", steps),
  scenario("deduplication", deduplication),
  scenario("global concurrency", globalConcurrency),
  scenario("getters and removal", gettersAndRemoval),
  scenario("kept jobs", keptJobs),
  scenario("leaving", leaving),
  scenario("a shared connection, ioredis, RESP3", sharedConnection(withIoredis(3))),
  scenario("a shared connection, ioredis, RESP2", sharedConnection(withIoredis(2))),
  scenario("a shared connection, node-redis, RESP3", sharedConnection(withNodeRedis(3))),
  scenario("a shared connection, node-redis, RESP2", sharedConnection(withNodeRedis(2))),
]);
