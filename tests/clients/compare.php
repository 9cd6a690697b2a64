<?php
/**
 * Runs the same scenarios on two servers and compares what the library handed out.
 *
 * A scenario is a function `(Place $place, Log $log)`. It runs once on the direct URL and once on the URL that leads
 * through the proxy, each with a fresh server behind it, and writes what it saw to `$log`. The two logs must be equal,
 * type for type. PHP has no threads, so what happens at once happens in processes of their own.
 */

declare(strict_types=1);

/** The longest to wait for one thing, in seconds; far more than usual. */
const PATIENCE = 30;

/** What one run of a scenario saw, one line of text per reply. */
final class Log
{
    /** @var string[] */
    public array $lines = [];

    public function record(string $label, mixed $value): void
    {
        $this->lines[] = $label . ' -> ' . text($value);
    }
}

/** Waits until `$condition` gives something true, and returns that; says what it waited for when it gives up. */
function until(string $what, callable $condition): mixed
{
    $deadline = microtime(true) + PATIENCE;
    while (!($met = $condition())) {
        if (microtime(true) > $deadline) {
            throw new RuntimeException("gave up waiting until $what");
        }
        usleep(5_000);
    }
    return $met;
}

/** What a call returns, or the error that it raises, but for the port in it. */
function attempt(callable $call): mixed
{
    try {
        return $call();
    } catch (RedisException $error) {
        return 'RedisException: ' . preg_replace('/:\d+$/', '', $error->getMessage());
    }
}

/** A process that does some work; it ends with this one, whatever happens. */
final class Worker
{
    private int $pid;
    /** @var resource */
    private $pipe;

    public function __construct(callable $work)
    {
        [$ours, $its] = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0);
        $this->pid = pcntl_fork();
        if ($this->pid === 0) {
            pcntl_alarm(2 * PATIENCE);
            try {
                $result = [true, $work()];
            } catch (Throwable $error) {
                $result = [false, $error::class . ': ' . $error->getMessage()];
            }
            fwrite($its, serialize($result));
            fclose($its);
            // Without the destructors of what is the other process's.
            posix_kill(posix_getpid(), SIGKILL);
        }
        fclose($its);
        $this->pipe = $ours;
    }

    /** What the work came to. */
    public function result(): mixed
    {
        $told = stream_get_contents($this->pipe);
        pcntl_waitpid($this->pid, $status);
        [$good, $result] = $told === '' ? [false, 'the process died'] : unserialize($told);
        if (!$good) {
            throw new RuntimeException($result);
        }
        return $result;
    }

    /** Ends it at once, as a crash would. */
    public function kill(): void
    {
        posix_kill($this->pid, SIGKILL);
        pcntl_waitpid($this->pid, $status);
    }
}

/** Runs `$work(0)` to `$work($count - 1)` at once and returns what they return. */
function at_once(int $count, callable $work): array
{
    $workers = array_map(fn (int $at) => new Worker(fn () => $work($at)), range(0, $count - 1));
    return array_map(fn (Worker $worker) => $worker->result(), $workers);
}

/** A name for large values, short enough to print. */
function digest(array $values): string
{
    return count($values) . ' values, ' . hash('sha256', serialize($values));
}

function text(mixed $value): string
{
    return is_array($value)
        ? '[' . implode(', ', array_map(fn ($key, $one) => text($key) . ': ' . text($one), array_keys($value), $value)) . ']'
        : var_export($value, true);
}

/** Takes the two URLs, and the names of scenarios if not all are meant, from the command line. */
function compare(array $scenarios): never
{
    global $argv;
    [$direct, $through] = [$argv[1] ?? null, $argv[2] ?? null];
    $names = array_slice($argv, 3);
    $chosen = array_filter($scenarios, fn ($name) => !$names || in_array($name, $names), ARRAY_FILTER_USE_KEY);
    if ($through === null || count($chosen) < count($names)) {
        fwrite(STDERR, "usage: {$argv[0]} DIRECT_URL THROUGH_URL [SCENARIO…]\n");
        exit(2);
    }
    $failures = 0;
    foreach ($chosen as $name => $scenario) {
        $logs = ['direct' => new Log(), 'through' => new Log()];
        $problems = [];
        foreach (['direct' => $direct, 'through' => $through] as $side => $url) {
            try {
                $scenario(new Place($url, $name), $logs[$side]);
            } catch (Throwable $error) {
                $problems[] = "$side: it ended with {$error->getMessage()} in line {$error->getLine()}";
            }
        }
        array_push($problems, ...difference($logs['direct']->lines, $logs['through']->lines));
        // By this way, and not by echo, sessions can still begin.
        fwrite(STDOUT, ($problems ? 'FAILED' : 'ok') . " $name (" . count($logs['direct']->lines) . " replies)\n");
        foreach ($problems as $problem) {
            fwrite(STDOUT, "  $problem\n");
        }
        $failures += $problems ? 1 : 0;
    }
    exit($failures ? 1 : 0);
}

/** @return string[] */
function difference(array $direct, array $through): array
{
    $shown = [];
    for ($at = 0; $at < max(count($direct), count($through)); $at++) {
        if (($direct[$at] ?? null) !== ($through[$at] ?? null)) {
            $shown[] = '- ' . substr($direct[$at] ?? '(nothing)', 0, 400);
            $shown[] = '+ ' . substr($through[$at] ?? '(nothing)', 0, 400);
        }
    }
    return $shown;
}
