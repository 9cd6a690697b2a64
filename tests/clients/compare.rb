# frozen_string_literal: true

# Runs the same scenarios on two servers and compares what the library handed out.
#
# A scenario is called with a URL and a log. It runs once on the direct URL and once on the URL that leads through the
# proxy, each with a fresh server behind it, and writes what it saw to the log. The two logs must be equal, type for
# type.

require "digest"
require "timeout"

# The longest that a scenario may take, and the longest that it may wait for one thing, in seconds; both are far more
# than usual.
LIMIT = 60
PATIENCE = 30

# What one run of a scenario saw, one line of text per reply.
class Log
  attr_reader :lines

  def initialize
    @lines = []
  end

  # Notes a reply, or the error that came instead of one.
  def record(label, value)
    value = "#{value.class}: #{value.message}" if value.is_a?(Exception)
    @lines << "#{label} -> #{value.inspect}"
  end
end

# Waits until the block gives something true, and returns that; says what it waited for when it gives up.
def wait_until(what, patience = PATIENCE)
  deadline = Process.clock_gettime(Process::CLOCK_MONOTONIC) + patience
  until (met = yield)
    raise "gave up waiting until #{what}" if Process.clock_gettime(Process::CLOCK_MONOTONIC) > deadline

    sleep 0.005
  end
  met
end

# Runs the block for 0 to count - 1 in threads of their own and returns what they return.
def at_once(count, &work)
  Array.new(count) { |at| Thread.new(at, &work) }.map(&:value)
end

# A name for large values, short enough to print.
def digest(values)
  "#{values.size} values, #{Digest::SHA256.hexdigest(values.inspect)}"
end

def compare_sides(scenario, direct, through)
  problems = []
  logs = { "direct" => direct, "through" => through }.map do |side, url|
    log = Log.new
    begin
      Timeout.timeout(LIMIT) { scenario.call(url, log) }
    rescue StandardError => error
      place = error.backtrace.find { |line| line.include?("_work.rb") }
      problems << "#{side}: it ended with #{error.class}: #{error.message} at #{place}"
    end
    log.lines
  end
  [problems + difference(*logs), logs[0].size]
end

def difference(direct, through)
  (0...[direct.size, through.size].max).flat_map do |at|
    next [] if direct[at] == through[at]

    ["- #{(direct[at] || "(nothing)")[0, 400]}", "+ #{(through[at] || "(nothing)")[0, 400]}"]
  end
end

# Takes the two URLs, and the names of scenarios if not all are meant, from the command line; exits with 1 if anything
# differed. Scenarios are a map of names to what is called.
def compare(scenarios)
  direct, through, *names = ARGV
  chosen = names.empty? ? scenarios : scenarios.slice(*names)
  abort "usage: #{$PROGRAM_NAME} DIRECT_URL THROUGH_URL [SCENARIO…]" if through.nil? || chosen.size < names.size

  failures = chosen.count do |name, scenario|
    problems, replies = compare_sides(scenario, direct, through)
    puts "#{problems.empty? ? "ok" : "FAILED"} #{name} (#{replies} replies)", problems.map { |problem| "  #{problem}" }
    $stdout.flush
    problems.any?
  end
  exit failures.zero?
end
