# frozen_string_literal: true

# ruby-redis at work that needs more than a shared connection: transactions, WATCH, publish and subscribe, blocking
# commands, scripts, MONITOR; by threads.

require "connection_pool"
require "redis"
require_relative "compare"

BINARY = ((0..255).to_a.pack("C*") + "\r\n$-1\r\n").b
MANY = 1_500

# Where a scenario works: connections to its server, and names for its keys.
class Place
  def initialize(url, name)
    @url = url
    @name = name
    @all = []
  end

  # A client that does not hide that its connection was lost.
  def connect(**options)
    Redis.new(url: @url, reconnect_attempts: 0, timeout: PATIENCE, **options).tap { |redis| @all << redis }
  end

  def key(suffix)
    "#{@name}:#{suffix}"
  end

  def keys(*suffixes)
    suffixes.map { |suffix| key(suffix) }
  end

  def wait_until_blocked(redis, count)
    wait_until("#{count} are blocked") { redis.info("clients")["blocked_clients"].to_i == count }
  end

  def close
    @all.each(&:close)
  end
end

def attempt
  yield
rescue Redis::BaseError => error
  error
end

def transactions(place, log)
  redis = place.connect
  text, list, number, hash, scores = place.keys(:text, :list, :number, :hash, :scores)
  replies = redis.multi do |block|
    block.set(text, "v")
    block.rpush(list, ["a", "b"])
    block.lrange(list, 0, -1)
    block.incr(number)
    block.hset(hash, "a", 1)
    block.hgetall(hash)
    block.zadd(scores, 1.5, "m")
    block.zscore(scores, "m")
    block.zrange(scores, 0, -1, with_scores: true)
  end
  log.record("exec", replies)
  log.record("nothing", redis.multi { |_block| nil })
  futures = []
  redis.multi { |block| futures = [block.get(text), block.lrange(list, 0, 0)] }
  log.record("futures", futures.map(&:value))
  wrong = lambda do |*command|
    attempt do
      redis.multi do |block|
        block.set(text, "w")
        block.call(*command)
      end
    end
  end
  log.record("an error inside", wrong.call("INCR", text))
  log.record("that was done", redis.get(text))
  redis.set(text, "v")
  log.record("a wrong one", wrong.call("GET"))
  log.record("an unknown one", wrong.call("NONSENSE", "a"))
  log.record("nothing of it was done", redis.get(text))
  given_up = attempt do
    redis.multi do |block|
      block.set(text, "lost")
      raise Redis::CommandError, "changed its mind"
    end
  end
  log.record("given up", given_up)
  log.record("unchanged", redis.get(text))
  log.record("step by step", [%w[MULTI], ["SET", text, "in steps"], ["GET", text], %w[EXEC]].map { |step| redis.call(*step) })
  log.record("EXEC alone", attempt { redis.call("EXEC") })
  log.record("a pipeline", redis.pipelined { |pipe| pipe.get(text) && pipe.incr(number) })
  log.record("a transaction in a pipeline", redis.pipelined { |pipe| pipe.multi { |block| block.incr(number) } && pipe.get(number) })
end

# Blocks of many commands, and of large values.
def large_transactions(place, log)
  redis = place.connect
  log.record("many commands", digest(redis.multi { |block| MANY.times { |at| block.rpush(place.key(:list), at) } }))
  heavy = redis.multi do |block|
    5.times do |at|
      block.set(place.key(at), "#{at}#{"0123456789" * 40_000}")
      block.strlen(place.key(at))
      block.get(place.key(at))
    end
  end
  log.record("large values", digest(heavy))
end

# Money is moved by threads; whoever looks in one transaction sees all of it.
def consistency(place, log)
  rich, poor = place.keys(:rich, :poor)
  place.connect.mset(rich, 10_000, poor, 0)
  sums = at_once(7) do |thread|
    redis = place.connect
    seen = Array.new(30) do
      redis.multi do |block|
        thread.zero? ? block.get(rich) : block.decrby(rich, thread)
        thread.zero? ? block.get(poor) : block.incrby(poor, thread)
      end
    end
    thread.zero? ? seen.map { |amounts| amounts.sum(&:to_i) }.uniq : seen.size
  end
  log.record("sums seen", sums)
  log.record("in the end", place.connect.mget(rich, poor))
end

def watching(place, log)
  redis = place.connect
  other = place.connect
  watched, missing = place.keys(:watched, :missing)
  disturbed = redis.watch(watched) do
    other.set(watched, "changed")
    redis.multi { |block| block.set(watched, "lost") }
  end
  log.record("disturbed", disturbed)
  undisturbed = redis.watch(watched, missing) do
    value = redis.get(watched)
    redis.multi { |block| block.set(watched, "#{value} again") && block.get(watched) }
  end
  log.record("undisturbed", undisturbed)
  log.record("watch", redis.watch(watched))
  log.record("unwatch", redis.unwatch)
  other.set(watched, "unwatched")
  log.record("after unwatch", redis.multi { |block| block.get(watched) })
  error = attempt { redis.watch(watched) { raise Redis::CommandError, "left the block" } }
  log.record("left", error)
  other.set(watched, "left")
  log.record("after leaving", redis.multi { |block| block.get(watched) })
  redis.watch(missing)
  other.rpush(missing, "appeared")
  log.record("it appeared", redis.multi { |block| block.llen(missing) })
end

# A counter that threads raise by reading it, watching it, and writing it, on connections out of a pool.
def optimistic_counter(place, log)
  counter = place.key(:counter)
  pool = ConnectionPool.new(size: 5, timeout: PATIENCE) { place.connect }
  at_once(5) do
    10.times do
      pool.with do |redis|
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
  log.record("counted", place.connect.get(counter))
end

# Collects what a subscriber hears until it hears the end.
def subscriber(place, *channels)
  Thread.new do
    told = []
    redis = place.connect
    redis.subscribe(*channels) do |on|
      on.subscribe { |channel, count| told << [:subscribe, channel, count] }
      on.message do |channel, message|
        told << [channel, message]
        redis.unsubscribe if message == "the end"
      end
      on.unsubscribe { |channel, count| told << [:unsubscribe, channel, count] }
    end
    [told, redis.set(place.key(:after), "as ever"), redis.get(place.key(:after))]
  end
end

def channels(place, log)
  redis = place.connect
  one, two = place.keys(:one, :two)
  listening = subscriber(place, one, two)
  wait_until("it is subscribed") { redis.pubsub("channels", place.key("*")).size == 2 }
  40.times { |at| redis.publish(at.odd? ? one : two, "message #{at}") }
  log.record("nobody heard it", redis.publish(place.key(:nobody), "lost"))
  log.record("someone heard it", redis.publish(one, "the end").positive?)
  told, *after = listening.value
  # Which of two channels is left first is the server's choice.
  gone, heard = told.partition { |kind, *| kind == :unsubscribe }
  log.record("heard", heard)
  log.record("left", [gone.map { |_, channel, _| channel }.sort, gone.map(&:last)])
  log.record("an ordinary client again", after)
  log.record("gone", redis.pubsub("channels", place.key("*")))
end

def patterns(place, log)
  redis = place.connect
  listening = Thread.new do
    heard = []
    client = place.connect
    client.psubscribe(place.key("*")) do |on|
      on.pmessage do |pattern, channel, message|
        heard << [pattern, channel, message]
        client.punsubscribe if message == "the end"
      end
    end
    heard.reject { |message| message.last == "probe" }
  end
  wait_until("it is subscribed") { redis.publish(place.key(:probe), "probe").positive? }
  %w[a b c].each { |channel| redis.publish(place.key(channel), "message on #{channel}") }
  redis.publish(place.key(:a), "the end")
  log.record("heard", listening.value)
end

# A subscription that gives up by itself when nothing comes.
def impatient_subscriber(place, log)
  redis = place.connect
  heard = []
  ended = attempt do
    redis.subscribe_with_timeout(0.2, place.key(:channel)) { |on| on.message { |_, message| heard << message } }
  end
  log.record("it ended", ended.is_a?(Redis::BaseError) ? ended.class : ended)
  log.record("heard", heard)
end

# Each of several subscribers hears each of several publishers in order.
def chat_room(place, log)
  room = place.key(:room)
  redis = place.connect
  ready = Queue.new
  listening = Array.new(3) do
    Thread.new do
      heard = Hash.new { |names, name| names[name] = [] }
      ends = 0
      client = place.connect
      client.subscribe(room) do |on|
        on.subscribe { ready << true }
        on.message do |_, message|
          ends += 1 if message == "end"
          heard[message[0]] << message
          client.unsubscribe if ends == 3
        end
      end
      heard.except("e").sort.map { |_, messages| digest(messages) }
    end
  end
  3.times { ready.pop }
  at_once(3) do |name|
    client = place.connect
    60.times { |at| client.publish(room, "#{name} #{at}") }
    client.publish(room, "end")
  end
  listening.each { |thread| log.record("heard", thread.value) }
  log.record("gone", redis.pubsub("channels", room))
end

def binary_messages(place, log)
  redis = place.connect
  messages = [BINARY, "", "x" * 300_000, "ünïcode"]
  heard = []
  ready = Queue.new
  listening = Thread.new do
    client = place.connect
    client.subscribe(place.key(BINARY)) do |on|
      on.subscribe { ready << true }
      on.message do |_, message|
        heard << message.b
        client.unsubscribe if heard.size == messages.size
      end
    end
  end
  ready.pop
  messages.each { |message| redis.publish(place.key(BINARY), message) }
  listening.join
  log.record("heard", digest(heard))
end

def blocking(place, log)
  redis = place.connect
  waiting = place.connect
  list, other, scores, stream = place.keys(:list, :other, :scores, :stream)
  place.wait_until_blocked(redis, 0)
  served = lambda do |label, call, &serve|
    thread = Thread.new { attempt(&call) }
    place.wait_until_blocked(redis, 1)
    serve.call
    log.record(label, thread.value)
  end
  redis.rpush(list, "ready")
  log.record("nothing to wait for", waiting.blpop(list, timeout: 1))
  log.record("too late", waiting.call("BLPOP", list, "0.02"))
  served.call("blpop", -> { waiting.blpop(other, list, timeout: 5) }) { redis.rpush(list, %w[a b]) }
  redis.del(list)
  served.call("brpop", -> { waiting.brpop(list, timeout: 0) }) { redis.rpush(list, %w[a b]) }
  redis.del(list)
  served.call("brpoplpush", -> { waiting.brpoplpush(list, other, timeout: 5) }) { redis.rpush(list, "moved") }
  served.call("blmove", -> { waiting.blmove(list, other, "LEFT", "LEFT", timeout: 5) }) { redis.rpush(list, "moved too") }
  log.record("moved", redis.lrange(other, 0, -1))
  served.call("bzpopmin", -> { waiting.bzpopmin(scores, timeout: 5) }) { redis.zadd(scores, [[2, "b"], [1.5, "a"]]) }
  redis.del(scores)
  served.call("bzpopmax", -> { waiting.bzpopmax(scores, timeout: 0) }) { redis.zadd(scores, [[2, "b"], [1.5, "a"]]) }
  served.call("xread", -> { waiting.xread(stream, "$", block: 5_000) }) { redis.xadd(stream, { "f" => "v" }, id: "1-1") }
  log.record("nothing more", waiting.xread(stream, "$", block: 10))
  log.record("of a wrong kind", attempt { waiting.blpop(scores, timeout: 1) })
  log.record("does not wait in a transaction", redis.multi { |block| block.blpop(place.key(:none), timeout: 0) })
  log.record("ordinary again", [waiting.set(place.key(:text), "v"), waiting.get(place.key(:text))])
end

# Several consumers of one list: each element goes to one of them.
def consumers(place, log)
  redis = place.connect
  working = Array.new(5) do
    Thread.new do
      client = place.connect
      got = []
      while (job = client.brpop(place.key(:jobs), timeout: 0).last) != "stop"
        got << job.to_i
        client.multi { |block| block.incr(place.key(:done)) && block.sadd(place.key(:names), [job]) }
      end
      got
    end
  end
  150.times { |at| redis.lpush(place.key(:jobs), at) }
  redis.lpush(place.key(:jobs), ["stop"] * 5)
  log.record("done, each once", working.flat_map(&:value).sort)
  log.record("counted", [redis.get(place.key(:done)), redis.scard(place.key(:names))])
end

# A consumer that dies while it waits takes nothing with it.
def gone_while_waiting(place, log)
  redis = place.connect
  4.times do |round|
    place.wait_until_blocked(redis, 0)
    waiting = fork { place.connect.blpop(place.key(round), timeout: 0) }
    place.wait_until_blocked(redis, 1)
    Process.kill(:KILL, waiting)
    Process.wait(waiting)
    place.wait_until_blocked(redis, 0)
    redis.rpush(place.key(round), "kept")
    log.record("nothing is lost", redis.lrange(place.key(round), 0, -1))
  end
end

def streams(place, log)
  redis = place.connect
  stream = place.key(:stream)
  redis.xgroup(:create, stream, "group", "$", mkstream: true)
  working = Array.new(3) do |name|
    Thread.new do
      client = place.connect
      got = []
      loop do
        id, fields = client.xreadgroup("group", "consumer #{name}", stream, ">", count: 1, block: 10_000)[stream].first
        client.xack(stream, "group", id)
        break got if fields["f"] == "stop"

        got << fields["f"].to_i
      end
    end
  end
  60.times { |at| redis.xadd(stream, { "f" => at }) }
  3.times { redis.xadd(stream, { "f" => "stop" }) }
  log.record("done, each once", working.flat_map(&:value).sort)
  log.record("pending", redis.xpending(stream, "group"))
end

def scripts(place, log)
  redis = place.connect
  move = "local v = redis.call('LPOP', KEYS[1]) if v then redis.call('RPUSH', KEYS[2], v .. ARGV[1]) end return v"
  from, to = place.keys(:from, :to)
  redis.rpush(from, %w[a b c d])
  sha = redis.script(:load, move)
  log.record("loaded", sha)
  log.record("eval", redis.eval(move, keys: [from, to], argv: ["!"]))
  log.record("evalsha", redis.evalsha(sha, keys: [from, to], argv: ["?"]))
  in_a_block = lambda do
    attempt { redis.multi { |block| block.evalsha(sha, [from, to], ["."]) && block.lrange(to, 0, -1) } }
  end
  log.record("in a transaction", in_a_block.call)
  log.record("flushed", [redis.script(:flush), redis.script(:exists, sha)])
  log.record("after a flush", attempt { redis.evalsha(sha, [from, to], ["!"]) })
  log.record("in a transaction after a flush", in_a_block.call)
  log.record("an error of its own", attempt { redis.eval("return redis.error_reply('CUSTOM wrong')") })
end

def databases(place, log)
  zero = place.connect
  three = place.connect(db: 3)
  text, list = place.keys(:text, :list)
  log.record("in database 3", three.multi { |block| block.set(text, "three") && block.get(text) })
  log.record("not in 0", zero.get(text))
  log.record("select inside", %w[MULTI SELECT\ 3 GET\ text SELECT\ 0 EXEC].map { |step| zero.call(*step.sub("text", "#{text}").split(" ", 2)) })
  three.watch(text)
  zero.set(text, "zero")
  log.record("another key in 0", three.multi { |block| block.get(text) })
  place.wait_until_blocked(zero, 0)
  waiting = Thread.new { three.blpop(list, timeout: 0) }
  place.wait_until_blocked(zero, 1)
  zero.rpush(list, "of another database")
  place.connect(db: 3).rpush(list, "of its own")
  log.record("it got", waiting.value)
end

def keyspace_events(place, log)
  redis = place.connect
  redis.config(:set, "notify-keyspace-events", "KEA")
  ready = Queue.new
  listening = Thread.new do
    heard = []
    client = place.connect
    client.psubscribe("__keyspace@0__:#{place.key("*")}") do |on|
      on.psubscribe { ready << true }
      on.pmessage do |_, channel, event|
        heard << "#{channel} #{event}"
        client.punsubscribe if channel.end_with?(place.key(:end))
      end
    end
    heard
  end
  ready.pop
  redis.set(place.key(:a), 1)
  redis.multi { |block| block.incr(place.key(:a)) && block.expire(place.key(:a), 100) }
  redis.set(place.key(:brief), "v", px: 10)
  wait_until("it has expired") { !redis.exists?(place.key(:brief)) }
  redis.set(place.key(:end), "v")
  log.record("heard", listening.value)
  redis.config(:set, "notify-keyspace-events", "")
end

def monitoring(place, log)
  redis = place.connect
  ready = Queue.new
  watching = Thread.new do
    seen = []
    place.connect.monitor do |line|
      ready << true
      words = line.sub(/\A\S+ \[\d+ \S+\] /, "")
      seen << words if words.include?(place.key(""))
      break seen if words.include?(place.key(:end))
    end
  end
  ready.pop
  redis.set(place.key(:text), "with \"quotes\"\r\n")
  redis.multi { |block| block.incr(place.key(:number)) && block.get(place.key(:text)) }
  redis.del(place.key(:end))
  log.record("seen", watching.value)
end

def by_id(place, log)
  redis = place.connect
  waiting = place.connect
  id = waiting.call("CLIENT", "ID")
  place.wait_until_blocked(redis, 0)
  %w[TIMEOUT ERROR].each do |reason|
    waited = Thread.new { attempt { waiting.blpop(place.key(:list), timeout: 0) } }
    place.wait_until_blocked(redis, 1)
    log.record("unblocked", redis.call("CLIENT", "UNBLOCK", id, reason))
    log.record("it got", waited.value)
  end
  log.record("name", [redis.client(:setname, "a-name"), redis.client(:getname)])
  log.record("wait", redis.wait(0, 10))
end

# Threads that share a pool, each at another kind of work.
def one_pool_for_all(place, log)
  pool = ConnectionPool.new(size: 6, timeout: PATIENCE) { place.connect }
  replies = at_once(8) do |thread|
    Array.new(15) do |at|
      name = place.key("#{thread}:#{at}")
      pool.with do |redis|
        case thread % 4
        when 0 then [redis.set(name, at), redis.get(name)]
        when 1 then redis.multi { |block| block.set(name, at) && block.incr(name) }
        when 2 then [redis.rpush(name, at), redis.blpop(name, timeout: 1)]
        when 3 then redis.watch(name) { redis.multi { |block| block.append(name, at) } }
        end
      end
    end
  end
  replies.each_with_index { |seen, thread| log.record("thread #{thread}", seen) }
end

SCENARIOS = %i[
  transactions large_transactions consistency watching optimistic_counter channels patterns impatient_subscriber
  chat_room binary_messages blocking consumers gone_while_waiting streams scripts databases keyspace_events monitoring
  by_id one_pool_for_all
].freeze

named = SCENARIOS.to_h do |name|
  scenario = lambda do |url, log|
    place = Place.new(url, name)
    method(name).call(place, log)
  ensure
    place.close
  end
  [name.to_s.tr("_", " "), scenario]
end
compare(named)
