# frozen_string_literal: true

# Sidekiq at its ordinary work.
#
# Its processors block in BRPOP, its clients push in transactions, its scheduler pops what is due by a script, and what
# it tells of itself is read by pipelines. Each side has three processes, started once for all scenarios. This file is
# also the one that they load.

require "sidekiq"
require "sidekiq/api"

# Debian's Sidekiq calls what its ruby-redis advises against.
Redis.silence_deprecations = true if Redis.respond_to?(:silence_deprecations=)

Sidekiq.configure_server do |config|
  config.options[:poll_interval_average] = 0.1
  config.server_middleware do |chain|
    # Notes which jobs asked for it.
    chain.add(Class.new do
      def call(_worker, job, queue)
        yield
      ensure
        Sidekiq.redis { |redis| redis.rpush(job["traced"], "#{queue} #{job["class"]}") } if job["traced"]
      end
    end)
  end
end

# Leaves a trace of having run.
class Note
  include Sidekiq::Worker

  def perform(where, what)
    Sidekiq.redis { |redis| redis.rpush(where, what) }
  end
end

# Waits until it is let go on.
class Wait
  include Sidekiq::Worker
  sidekiq_options queue: "first"

  def perform(where)
    Sidekiq.redis { |redis| redis.rpush("#{where}:started", "started") }
    Sidekiq.redis { |redis| redis.blpop("#{where}:go", timeout: 60) }
  end
end

# Fails until it is told not to.
class Flaky
  include Sidekiq::Worker
  sidekiq_options retry: 3

  sidekiq_retries_exhausted do |job, error|
    Sidekiq.redis { |redis| redis.rpush("#{job["args"].first}:exhausted", error.message) }
  end

  def perform(where)
    good = Sidekiq.redis { |redis| redis.incr("#{where}:tried") && redis.get("#{where}:good") }
    raise ArgumentError, "not good" unless good

    Sidekiq.redis { |redis| redis.rpush(where, "done") }
  end
end

# Fails, and is never tried again: it dies, or is forgotten.
class Mortal < Flaky
  sidekiq_options retry: 0
end

class Forgotten < Flaky
  sidekiq_options retry: false
end

# Raises a counter by reading it, watching it, and writing it.
class Count
  include Sidekiq::Worker

  def perform(counter)
    Sidekiq.redis do |redis|
      loop do
        done = redis.watch(counter) do
          value = redis.get(counter).to_i
          redis.multi { |block| block.set(counter, value + 1) }
        end
        break if done
      end
    end
  end
end

# Starts others, as jobs do.
class Parent
  include Sidekiq::Worker

  def perform(where, children)
    children.times { |child| Note.perform_async(where, "child #{child}") }
  end
end

# The processes that load this file go no further.
return if Sidekiq.server?

require "tempfile"
require_relative "compare"

# Names of processes, and how each is started: two share what most is sent to; the third does one job at a time, of the
# first of its queues that has one.
PROCESSES = {
  "many" => %w[-c 5 -q default,2 -q low,1],
  "more" => %w[-c 3 -q default],
  "one" => %w[-c 1 -q first -q second -t 1]
}.freeze

# The processes of one side.
class Side
  attr_reader :pool

  def initialize(url)
    @pool = Sidekiq::RedisConnection.create(url: url)
    @output = Tempfile.new
    @pids = PROCESSES.transform_values { |options| start(url, options) }
  end

  # Makes this side's server the one that Sidekiq talks to.
  def enter
    Sidekiq.redis = @pool
  end

  def wait_until_working
    enter
    wait_until("all processes work", 90) { Sidekiq::ProcessSet.new.size == PROCESSES.size }
  end

  # How the process has ended.
  def status_of(name)
    Process.wait2(@pids.delete(name)).last.exitstatus
  end

  def terminate(name)
    Process.kill(:TERM, @pids.fetch(name))
    status_of(name)
  end

  # What the processes wrote of errors; failures of jobs are wanted.
  def complaints
    File.readlines(@output.path).grep(/Redis::|ECONN|heartbeat:|fetching job/)
  end

  def kill
    @pids.each_value { |pid| Process.kill(:KILL, pid) }
  end

  private

  def start(url, options)
    # It is not to outlive this process, however that ends.
    command = ["setpriv", "--pdeathsig", "KILL", RbConfig.ruby, "-S", "sidekiq", "-r", File.expand_path(__FILE__)]
    Process.spawn({ "REDIS_URL" => url }, *command, *options, out: @output.path, err: [:child, :out])
  end
end

def notes(where)
  Sidekiq.redis { |redis| redis.lrange(where, 0, -1) }
end

def wait_for_notes(where, count)
  wait_until("#{count} jobs have run") { Sidekiq.redis { |redis| redis.llen(where) } == count }
  notes(where)
end

# What is told of jobs, in the order of their arguments.
def summary(jobs)
  jobs.map { |job| [job.klass, job.args, job.queue, job["error_class"], job["error_message"], job["retry_count"]] }.sort_by(&:inspect)
end

def each_once(name, log)
  ids = Array.new(200) { |at| Note.perform_async(name, at) }
  log.record("names", ids.uniq.size)
  log.record("traces", wait_for_notes(name, 200).map(&:to_i).sort)
end

# Threads that push over one pool.
def many_clients(name, log)
  at_once(6) { |thread| 20.times { |at| Note.perform_async(name, "#{thread} #{at}") } }
  log.record("traces", wait_for_notes(name, 120).sort)
end

def bulk(name, log)
  pushed = Sidekiq::Client.push_bulk("class" => Note, "args" => Array.new(500) { |at| [name, at] })
  log.record("pushed", pushed.size)
  log.record("traces", digest(wait_for_notes(name, 500).map(&:to_i).sort))
end

# One processor takes what came first, out of the first queue that holds something.
def order(name, log)
  Wait.perform_async(name)
  Sidekiq.redis { |redis| redis.blpop("#{name}:started", timeout: PATIENCE) }
  5.times do |at|
    Note.set(queue: "second").perform_async(name, "second #{at}")
    Note.set(queue: "first").perform_async(name, "first #{at}")
  end
  log.record("queued", %w[first second].map { |queue| Sidekiq::Queue.new(queue).map(&:args) })
  Sidekiq.redis { |redis| redis.rpush("#{name}:go", "go") }
  log.record("order", wait_for_notes(name, 10))
end

# What is due later is moved to its queue by whichever process finds it.
def later(name, log)
  [0.3, 0.1, 0.2].each { |delay| Note.set(queue: "first").perform_in(delay, name, delay) }
  Note.perform_at(Time.now - 1, name, "overdue")
  kept = Note.perform_in(3600, name, "in an hour")
  scheduled = Sidekiq::ScheduledSet.new
  job = scheduled.find_job(kept)
  log.record("scheduled", [job.klass, job.args, (job.at - Time.now).between?(3500, 3600)])
  wait_for_notes(name, 4)
  log.record("traces", notes(name).sort)
  job.reschedule(Time.now + 7200)
  log.record("put off", (scheduled.find_job(kept).at - Time.now).between?(7100, 7200))
  scheduled.find_job(kept).add_to_queue
  log.record("at once after all", wait_for_notes(name, 5).last)
  Note.perform_in(3600, name, "never")
  log.record("deleted", [scheduled.find { |one| one.args.first == name }.delete, scheduled.size])
end

# What has failed waits to be tried again; by hand here, since the library waits for seconds.
def retries(name, log)
  set = Sidekiq::RetrySet.new
  4.times { |at| Flaky.perform_async("#{name}:#{at}") }
  wait_until("all have failed") { set.size == 4 }
  log.record("failed", summary(set))
  tried = -> { Sidekiq.redis { |redis| redis.get("#{name}:3:tried") } }
  set.find { |job| job.args == ["#{name}:3"] }.retry
  wait_until("it has failed again") { tried.call == "2" && set.size == 4 }
  log.record("failed again", summary(set))
  Sidekiq.redis { |redis| 4.times { |at| redis.set("#{name}:#{at}:good", "yes") } }
  set.retry_all
  log.record("done", Array.new(4) { |at| wait_for_notes("#{name}:#{at}", 1) })
  log.record("left", [set.size, Sidekiq::DeadSet.new.size])
end

def the_dead(name, log)
  dead = Sidekiq::DeadSet.new
  dead.clear
  3.times { |at| Mortal.perform_async("#{name}:#{at}") }
  Forgotten.perform_async("#{name}:forgotten")
  wait_until("they are dead") { dead.size == 3 }
  wait_for_notes("#{name}:2:exhausted", 1)
  log.record("dead", summary(dead))
  Sidekiq.redis { |redis| 3.times { |at| redis.set("#{name}:#{at}:good", "yes") } }
  dead.find { |job| job.args == ["#{name}:0"] }.delete
  dead.find { |job| job.args == ["#{name}:1"] }.retry
  log.record("back to life", wait_for_notes("#{name}:1", 1))
  log.record("still dead", summary(dead))
  log.record("forgotten", [dead.count { |job| job.args == ["#{name}:forgotten"] }, Sidekiq::RetrySet.new.size])
  dead.clear
end

# What cannot be run is kept too.
def unknown_jobs(name, log)
  set = Sidekiq::RetrySet.new
  Sidekiq::Client.push("class" => "Missing", "args" => [name])
  wait_until("it has failed") { set.size == 1 }
  log.record("failed", summary(set).map { |job| job.values_at(0, 1, 3) })
  set.first.kill
  log.record("killed", [set.size, Sidekiq::DeadSet.new.map(&:klass)])
  Sidekiq::DeadSet.new.clear
end

# Queues that nobody serves, as they are looked at and changed.
def queues(name, log)
  queue = Sidekiq::Queue.new(name)
  ids = Array.new(60) { |at| Note.set(queue: name).perform_async(name, at) }
  log.record("queue", [queue.size, queue.latency >= 0, Sidekiq::Queue.all.map(&:name).include?(name)])
  log.record("jobs", queue.map { |job| job.args.last })
  log.record("found", queue.find_job(ids[7]).args)
  log.record("deleted", [queue.find_job(ids[7]).delete, queue.find_job(ids[7])])
  log.record("left", queue.size)
  queue.clear
  log.record("cleared", [queue.size, Sidekiq::Queue.all.map(&:name).include?(name)])
end

def jobs_that_count(name, log)
  40.times { Count.perform_async("#{name}:counter") }
  wait_until("all have counted") { Sidekiq.redis { |redis| redis.get("#{name}:counter") } == "40" }
  wait_until("nothing is queued") { Sidekiq::Queue.new.size.zero? }
  log.record("counted", Sidekiq.redis { |redis| redis.get("#{name}:counter") })
end

def jobs_of_jobs(name, log)
  5.times { Parent.perform_async(name, 8) }
  log.record("traces", wait_for_notes(name, 40).tally.sort)
end

def middleware(name, log)
  Sidekiq::Client.push("class" => Note, "args" => ["#{name}:notes", 1], "traced" => name)
  Sidekiq::Client.push("class" => Note, "args" => ["#{name}:notes", 2], "traced" => name, "queue" => "low")
  log.record("traced", wait_for_notes(name, 2).sort)
  log.record("with tags", begin
    id = Note.set(queue: "held", tags: %w[a b]).perform_async(name, 3)
    Sidekiq::Queue.new("held").find_job(id).then { |job| [job.tags, job["retry"], job.delete] }
  end)
end

# A pool of one's own, for a part of the program.
def own_pool(name, log)
  pool = Sidekiq.redis_pool
  Sidekiq::Client.via(pool) { Note.perform_async(name, "via a pool") }
  Sidekiq::Client.new(pool).push("class" => Note, "args" => [name, "by a client"])
  log.record("traces", wait_for_notes(name, 2).sort)
end

def statistics(name, log)
  Note.perform_in(3600, name, "later")
  7.times { |at| Note.set(queue: name).perform_async(name, at) }
  stats = Sidekiq::Stats.new
  log.record("stats", [stats.scheduled_size, stats.retry_size, stats.dead_size, stats.processes_size, stats.queues[name]])
  log.record("history", Sidekiq::Stats::History.new(2).processed.keys.size)
  Sidekiq::Queue.new(name).clear
  Sidekiq::ScheduledSet.new.clear
  stats.fetch_stats!
  log.record("cleared", [stats.scheduled_size, stats.queues.key?(name)])
end

def who_works(_name, log)
  processes = Sidekiq::ProcessSet.new
  log.record("processes", processes.map { |one| [one["concurrency"], one["queues"].uniq.sort, one.stopping?] }.sort_by(&:inspect))
  log.record("in all", [processes.size, processes.total_concurrency])
end

# One is told to be quiet, one to stop, by what they find at their next heartbeat; one by a signal, while it is at work.
def the_end(name, log)
  Wait.perform_async(name)
  Sidekiq.redis { |redis| redis.blpop("#{name}:started", timeout: PATIENCE) }
  by_concurrency = Sidekiq::ProcessSet.new.to_h { |one| [one["concurrency"], one] }
  by_concurrency.fetch(5).quiet!
  by_concurrency.fetch(3).stop!
  side = SIDES.values.find { |one| one.pool.equal?(Sidekiq.redis_pool) }
  log.record("at work", side.terminate("one"))
  log.record("its job", Sidekiq::Queue.new("first").map { |job| [job.klass, job.args] })
  log.record("told to stop", side.status_of("more"))
  wait_until("the other is quiet") { Sidekiq::ProcessSet.new.all?(&:stopping?) }
  Note.perform_async(name, "to nobody")
  log.record("the quiet one", side.terminate("many"))
  log.record("left", [Sidekiq::ProcessSet.new.size, Sidekiq::Queue.new.map(&:args), notes(name)])
  stats = Sidekiq::Stats.new
  log.record("in all", [stats.processed, stats.failed])
  log.record("complaints", side.complaints)
end

SCENARIOS = %i[
  each_once many_clients bulk order later retries the_dead unknown_jobs queues jobs_that_count jobs_of_jobs middleware
  own_pool statistics who_works the_end
].freeze

Sidekiq.logger.level = Logger::ERROR
SIDES = ARGV.first(2).to_h { |url| [url, Side.new(url)] }
at_exit { SIDES.each_value(&:kill) }
SIDES.each_value(&:wait_until_working)

named = SCENARIOS.to_h do |name|
  scenario = lambda do |url, log|
    SIDES.fetch(url).enter
    method(name).call(name.to_s, log)
  end
  [name.to_s.tr("_", " "), scenario]
end
compare(named)
