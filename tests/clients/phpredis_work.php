<?php
/**
 * phpredis at its ordinary work: transactions, WATCH, publish and subscribe, blocking commands, scripts, sessions.
 */

declare(strict_types=1);

require __DIR__ . '/compare.php';

const MANY = 1_500;

/** Where a scenario works: connections to its server, and names for its keys. */
final class Place
{
    public readonly string $host;
    public readonly int $port;

    public function __construct(string $url, private string $name)
    {
        ['host' => $this->host, 'port' => $this->port] = parse_url($url);
    }

    public function connect(array $options = []): Redis
    {
        $redis = new Redis();
        $redis->connect($this->host, $this->port);
        // Otherwise what blocks for longer fails.
        $redis->setOption(Redis::OPT_READ_TIMEOUT, 2 * PATIENCE);
        foreach ($options as $option => $value) {
            $redis->setOption($option, $value);
        }
        return $redis;
    }

    /** Hands what comes on these channels to the function until that returns false. */
    public function subscribe(array $channels, callable $hear): void
    {
        $this->listen('subscribe', $channels, $hear);
    }

    public function psubscribe(array $patterns, callable $hear): void
    {
        $this->listen('psubscribe', $patterns, $hear);
    }

    /** The extension ends its loop when the connection is closed, of which some versions complain. */
    private function listen(string $how, array $names, callable $hear): void
    {
        attempt(fn () => $this->connect()->$how($names, function (Redis $redis, string ...$message) use ($hear) {
            if ($hear($redis, ...$message) === false) {
                $redis->close();
            }
        }));
    }

    public function key(string|int $suffix): string
    {
        return "{$this->name}:$suffix";
    }

    public function wait_until_blocked(Redis $redis, int $count): void
    {
        until("$count are blocked", fn () => (int) $redis->info('clients')['blocked_clients'] === $count);
    }
}

/** What a call returns, with the error that the server has sent meanwhile. */
function told(Redis $redis, callable $call): array
{
    $redis->clearLastError();
    $result = $call();
    return [$result, $redis->getLastError()];
}

function transactions(Place $place, Log $log): void
{
    $redis = $place->connect();
    [$text, $list, $number] = array_map($place->key(...), ['text', 'list', 'number']);
    $block = $redis->multi()->set($text, 'v')->rPush($list, 'a', 'b')->lRange($list, 0, -1)->incr($number)->get($text);
    $log->record('exec', $block->exec());
    $log->record('nothing', $redis->multi()->exec());
    $log->record('a hash and scores', $redis->multi()->hMSet($place->key('h'), ['a' => 1])->hGetAll($place->key('h'))
        ->zAdd($place->key('z'), 1.5, 'm')->zScore($place->key('z'), 'm')->zRange($place->key('z'), 0, -1, true)->exec());
    $log->record('an error inside', told($redis, fn () => $redis->multi()->set($text, 'w')->incr($text)->get($text)->exec()));
    foreach (['MULTI', ['SET', $text, 'lost'], 'GET', 'EXEC'] as $command) {
        $log->record('a wrong one', told($redis, fn () => attempt(fn () => $redis->rawCommand(...(array) $command))));
    }
    $log->record('nothing of it was done', $redis->get($text));
    $redis->multi();
    $redis->set($text, 'taken back');
    $log->record('the mode', $redis->getMode() === Redis::MULTI);
    $log->record('discarded', $redis->discard());
    $log->record('unchanged', $redis->get($text));
    $log->record('raw', [$redis->rawCommand('MULTI'), $redis->rawCommand('SET', $text, 'raw'), $redis->rawCommand('EXEC')]);
    $log->record('EXEC alone', told($redis, fn () => $redis->rawCommand('EXEC')));
    $log->record('a pipeline', $redis->pipeline()->set($text, 'piped')->get($text)->incr($number)->exec());
    $log->record('a transaction in a pipeline', $redis->pipeline()->get($text)->multi()->incr($number)->incr($number)->exec()->get($number)->exec());
}

/** Blocks of many commands, and of large values. */
function large_transactions(Place $place, Log $log): void
{
    $redis = $place->connect();
    $block = $redis->multi();
    for ($at = 0; $at < MANY; $at++) {
        $block->rPush($place->key('list'), $at);
    }
    $log->record('many commands', digest($block->exec()));
    $block = $redis->multi();
    for ($at = 0; $at < 5; $at++) {
        $block->set($place->key($at), $at . str_repeat('0123456789', 40_000))->strlen($place->key($at))->get($place->key($at));
    }
    $log->record('large values', digest($block->exec()));
}

/** Money is moved by several processes; whoever looks in one transaction sees all of it. */
function consistency(Place $place, Log $log): void
{
    [$rich, $poor] = [$place->key('rich'), $place->key('poor')];
    $place->connect()->mSet([$rich => 10_000, $poor => 0]);
    $sums = at_once(5, function (int $worker) use ($place, $rich, $poor) {
        $redis = $place->connect();
        $seen = [];
        for ($round = 0; $round < 40; $round++) {
            $replies = $worker
                ? $redis->multi()->decrBy($rich, $worker)->incrBy($poor, $worker)->exec()
                : $redis->multi()->get($rich)->get($poor)->exec();
            $seen[$worker ? 0 : array_sum($replies)] = true;
        }
        return array_keys($seen);
    });
    $log->record('sums seen', $sums);
    $log->record('in the end', $place->connect()->mGet([$rich, $poor]));
}

function watching(Place $place, Log $log): void
{
    [$redis, $other] = [$place->connect(), $place->connect()];
    $watched = $place->key('watched');
    $log->record('watch', $redis->watch([$watched, $place->key('second')]));
    $log->record('undisturbed', $redis->multi()->set($watched, '1')->exec());
    $redis->watch($watched);
    $other->set($watched, 'changed');
    $log->record('disturbed', $redis->multi()->set($watched, '2')->exec());
    $log->record('once only', $redis->multi()->get($watched)->exec());
    $redis->watch($watched);
    $log->record('unwatch', $redis->unwatch());
    $other->set($watched, 'again');
    $log->record('after unwatch', $redis->multi()->get($watched)->exec());
    $redis->watch($watched);
    $redis->multi();
    $redis->discard();
    $other->set($watched, 'yet again');
    $log->record('after discard', $redis->multi()->get($watched)->exec());
    $redis->watch($place->key('missing'));
    $other->rPush($place->key('missing'), 'appeared');
    $log->record('it appeared', $redis->multi()->lLen($place->key('missing'))->exec());
}

/** A counter that several processes raise by reading it, watching it, and writing it. */
function optimistic_counter(Place $place, Log $log): void
{
    $counter = $place->key('counter');
    at_once(5, function () use ($place, $counter) {
        $redis = $place->connect();
        for ($round = 0; $round < 10; $round++) {
            do {
                $redis->watch($counter);
                $value = (int) $redis->get($counter);
                $done = $redis->multi()->set($counter, $value + 1)->exec();
            } while ($done === false);
        }
        return true;
    });
    $log->record('counted', $place->connect()->get($counter));
}

function channels(Place $place, Log $log): void
{
    $redis = $place->connect();
    [$one, $two, $end] = array_map($place->key(...), ['one', 'two', 'end']);
    $subscriber = new Worker(function () use ($place, $one, $two, $end) {
        [$heard, $left] = [[], null];
        $place->subscribe([$one, $two, $end], function (Redis $redis, string $channel, string $message) use (&$heard, &$left, $one, $two, $end) {
            $heard[] = [$channel, $message];
            if ($channel === $end) {
                $left = $redis->unsubscribe([$one, $two, $end]);
                return false;
            }
        });
        return [$heard, $left];
    });
    until('it is subscribed', fn () => count($redis->pubSub('channels', $place->key('*'))) === 3);
    for ($at = 0; $at < 40; $at++) {
        $redis->publish($at % 2 ? $one : $two, "message $at");
    }
    $log->record('nobody heard it', $redis->publish($place->key('nobody'), 'lost'));
    $log->record('someone heard it', $redis->publish($end, 'the end') > 0);
    $log->record('heard, and left', $subscriber->result());
    until('it is gone', fn () => $redis->pubSub('channels', $place->key('*')) === []);
}

function patterns(Place $place, Log $log): void
{
    $redis = $place->connect();
    $subscriber = new Worker(function () use ($place) {
        $heard = [];
        $place->psubscribe([$place->key('*')], function (Redis $redis, string ...$message) use (&$heard) {
            $heard[] = $message;
            return $message[2] !== 'the end';
        });
        return array_values(array_filter($heard, fn ($message) => $message[2] !== 'probe'));
    });
    until('it is subscribed', fn () => $redis->publish($place->key('probe'), 'probe') > 0);
    foreach (['a', 'b', 'c'] as $channel) {
        $redis->publish($place->key($channel), "message on $channel");
    }
    $redis->publish($place->key('a'), 'the end');
    $log->record('heard', $subscriber->result());
}

/** Each of several subscribers hears each of several publishers in order. */
function chat_room(Place $place, Log $log): void
{
    $redis = $place->connect();
    $room = $place->key('room');
    $subscribers = array_map(fn () => new Worker(function () use ($place, $room) {
        [$heard, $ends] = [[[], [], []], 0];
        $place->subscribe([$room, $place->key('ready')], function (Redis $redis, string $channel, string $message) use (&$heard, &$ends, $place, $room) {
            if ($channel !== $room) {
                $place->connect()->sAdd($place->key('present'), posix_getpid());
            } elseif ($message === 'end') {
                return ++$ends < 3;
            } else {
                $heard[(int) $message][] = $message;
            }
        });
        return array_map(digest(...), $heard);
    }), range(1, 3));
    until('all are subscribed', function () use ($redis, $place) {
        $redis->publish($place->key('ready'), '?');
        return $redis->sCard($place->key('present')) === 3;
    });
    at_once(3, function (int $name) use ($place, $room) {
        $redis = $place->connect();
        for ($at = 0; $at < 50; $at++) {
            $redis->publish($room, "$name $at");
        }
        return $redis->publish($room, 'end') > 0;
    });
    foreach ($subscribers as $subscriber) {
        $log->record('heard', $subscriber->result());
    }
}

function blocking(Place $place, Log $log): void
{
    $redis = $place->connect();
    [$list, $other, $scores] = array_map($place->key(...), ['list', 'other', 'scores']);
    $place->wait_until_blocked($redis, 0);
    $served = function (string $label, callable $call, callable $serve) use ($place, $redis, $log) {
        $waiting = new Worker(fn () => $call($place->connect()));
        $place->wait_until_blocked($redis, 1);
        $serve();
        $log->record($label, $waiting->result());
    };
    $redis->rPush($list, 'ready');
    $log->record('nothing to wait for', $redis->blPop([$list], 1));
    $log->record('too late', $redis->rawCommand('BLPOP', $list, '0.02'));
    $served('blPop', fn ($waiting) => $waiting->blPop([$other, $list], 5), fn () => $redis->rPush($list, 'a', 'b'));
    $redis->del($list);
    $served('brPop', fn ($waiting) => $waiting->brPop([$list], 0), fn () => $redis->rPush($list, 'a', 'b'));
    $redis->del($list);
    $served('brpoplpush', fn ($waiting) => $waiting->brpoplpush($list, $other, 0), fn () => $redis->rPush($list, 'moved'));
    $served('BLMOVE', fn ($waiting) => $waiting->rawCommand('BLMOVE', $list, $other, 'LEFT', 'LEFT', '0'), fn () => $redis->rPush($list, 'moved too'));
    $log->record('moved', $redis->lRange($other, 0, -1));
    $served('bzPopMin', fn ($waiting) => $waiting->bzPopMin($scores, 5), fn () => $redis->zAdd($scores, 2, 'b', 1.5, 'a'));
    $redis->del($scores);
    $served('bzPopMax', fn ($waiting) => $waiting->bzPopMax($scores, 0), fn () => $redis->zAdd($scores, 2, 'b', 1.5, 'a'));
    $log->record('does not wait in a transaction', $redis->multi()->blPop([$place->key('none')], 0)->get($place->key('none'))->exec());
    $log->record('of a wrong kind', told($redis, fn () => $redis->blPop([$scores], 1)));
}

/** Several consumers of one list: each element goes to one of them. */
function consumers(Place $place, Log $log): void
{
    $workers = array_map(fn () => new Worker(function () use ($place) {
        $redis = $place->connect();
        $got = [];
        while (($job = $redis->brPop([$place->key('jobs')], 0)[1]) !== 'stop') {
            $got[] = (int) $job;
            $redis->multi()->incr($place->key('done'))->sAdd($place->key('names'), $job)->exec();
        }
        return $got;
    }), range(1, 4));
    $redis = $place->connect();
    for ($at = 0; $at < 150; $at++) {
        $redis->lPush($place->key('jobs'), $at);
    }
    $redis->lPush($place->key('jobs'), ...array_fill(0, 4, 'stop'));
    $done = array_merge(...array_map(fn (Worker $worker) => $worker->result(), $workers));
    sort($done);
    $log->record('done, each once', $done);
    $log->record('counted', [$redis->get($place->key('done')), $redis->sCard($place->key('names'))]);
}

/** A consumer that dies while it waits takes nothing with it. */
function gone_while_waiting(Place $place, Log $log): void
{
    $redis = $place->connect();
    for ($round = 0; $round < 4; $round++) {
        $place->wait_until_blocked($redis, 0);
        $waiting = new Worker(fn () => $place->connect()->blPop([$place->key($round)], 0));
        $place->wait_until_blocked($redis, 1);
        $waiting->kill();
        $place->wait_until_blocked($redis, 0);
        $redis->rPush($place->key($round), 'kept');
        $log->record('nothing is lost', $redis->lRange($place->key($round), 0, -1));
    }
}

function streams(Place $place, Log $log): void
{
    $redis = $place->connect();
    $stream = $place->key('stream');
    $redis->xGroup('CREATE', $stream, 'group', '$', true);
    $workers = array_map(fn (int $name) => new Worker(function () use ($place, $stream, $name) {
        $redis = $place->connect();
        $got = [];
        for (;;) {
            $read = $redis->xReadGroup('group', "consumer $name", [$stream => '>'], 1, 10_000);
            foreach ($read[$stream] as $entry => ['f' => $value]) {
                $redis->xAck($stream, 'group', [$entry]);
                if ($value === 'stop') {
                    return $got;
                }
                $got[] = (int) $value;
            }
        }
    }), range(1, 3));
    for ($at = 0; $at < 60; $at++) {
        $redis->xAdd($stream, '*', ['f' => $at]);
    }
    for ($at = 0; $at < 3; $at++) {
        $redis->xAdd($stream, '*', ['f' => 'stop']);
    }
    $done = array_merge(...array_map(fn (Worker $worker) => $worker->result(), $workers));
    sort($done);
    $log->record('done, each once', $done);
    $log->record('pending', $redis->xPending($stream, 'group'));
    $log->record('nothing more', $redis->xRead([$stream => '$'], -1, 10));
}

function scripts(Place $place, Log $log): void
{
    $redis = $place->connect();
    $move = "local v = redis.call('LPOP', KEYS[1]) if v then redis.call('RPUSH', KEYS[2], v .. ARGV[1]) end return v";
    [$from, $to] = [$place->key('from'), $place->key('to')];
    $redis->rPush($from, 'a', 'b', 'c', 'd');
    $log->record('eval', $redis->eval($move, [$from, $to, '!'], 2));
    $log->record('evalSha', $redis->evalSha(sha1($move), [$from, $to, '?'], 2));
    $log->record('unknown', told($redis, fn () => $redis->evalSha(sha1('unknown'))));
    $log->record('in a transaction', $redis->multi()->evalSha(sha1($move), [$from, $to, '.'], 2)->lRange($to, 0, -1)->exec());
    $log->record('flushed', [$redis->script('flush'), $redis->script('exists', sha1($move))]);
    $log->record('in a transaction after a flush', told($redis, fn () => $redis->multi()->evalSha(sha1($move), [$from, $to, '.'], 2)->lLen($to)->exec()));
    $log->record('loaded', [$redis->script('load', $move), $redis->script('exists', sha1($move))]);
    $log->record('an error of its own', told($redis, fn () => attempt(fn () => $redis->eval("return redis.error_reply('CUSTOM wrong')"))));
}

/** The handler of sessions that comes with the extension, which locks what it has opened. */
function sessions(Place $place, Log $log): void
{
    ini_set('session.save_handler', 'redis');
    ini_set('session.save_path', "tcp://{$place->host}:{$place->port}?prefix={$place->key('')}");
    ini_set('session.use_cookies', '0');
    ini_set('redis.session.locking_enabled', '1');
    ini_set('redis.session.lock_wait_time', '2000');
    ini_set('redis.session.lock_retries', '-1');
    // This process never opens one, so that those below begin afresh.
    $counts = at_once(4, function () {
        $seen = [];
        for ($round = 0; $round < 5; $round++) {
            session_id('shared');
            session_start();
            $seen[] = $_SESSION['count'] = ($_SESSION['count'] ?? 0) + 1;
            session_write_close();
        }
        return $seen;
    });
    $all = array_merge(...$counts);
    sort($all);
    $log->record('each has counted on', $all);
    $redis = $place->connect();
    $log->record('stored', $redis->get($place->key('shared')));
    $log->record('it will end', $redis->ttl($place->key('shared')) > 0);
    $log->record('not locked any more', $redis->exists($place->key('shared_LOCK')));
    $log->record('destroyed', (new Worker(function () {
        session_id('shared');
        session_start();
        return [$_SESSION, session_destroy()];
    }))->result());
    $log->record('gone', $redis->exists($place->key('shared')));
}

/** Options that change what is sent and how replies are read, inside transactions too. */
function options(Place $place, Log $log): void
{
    $redis = $place->connect([Redis::OPT_PREFIX => $place->key(''), Redis::OPT_SERIALIZER => Redis::SERIALIZER_PHP]);
    $value = ['list' => [1, 2.5, 'three'], 'none' => null];
    $log->record('set', $redis->multi()->set('value', $value)->get('value')->lPush('list', $value, false)->lRange('list', 0, -1)->exec());
    $redis->watch('value');
    $log->record('watched with a prefix', $redis->multi()->get('value')->exec());
    $log->record('blocking with a prefix', $redis->blPop(['list'], 1));
    $log->record('names', (function () use ($place) {
        $names = $place->connect()->keys($place->key('*'));
        sort($names);
        return $names;
    })());
    $literal = $place->connect([Redis::OPT_REPLY_LITERAL => true]);
    $log->record('literal', [$literal->rawCommand('SET', $place->key('x'), 'y'), $literal->multi()->rawCommand('PING')->exec()]);
}

/** Connections that stay when they are closed, as they do between the requests of a web server. */
function persistent_connections(Place $place, Log $log): void
{
    ini_set('redis.pconnect.pooling_enabled', '1');
    for ($request = 0; $request < 10; $request++) {
        $redis = new Redis();
        $redis->pconnect($place->host, $place->port, 5.0, 'one');
        $redis->watch($place->key('count'));
        $count = (int) $redis->get($place->key('count'));
        $log->record('count', $redis->multi()->set($place->key('count'), $count + 1)->get($place->key('count'))->exec());
        $redis->close();
    }
}

function databases(Place $place, Log $log): void
{
    [$zero, $three] = [$place->connect(), $place->connect()];
    $log->record('select', $three->select(3));
    $log->record('in database 3', $three->multi()->set($place->key('text'), 'three')->get($place->key('text'))->exec());
    $log->record('not in 0', $zero->get($place->key('text')));
    $log->record('select inside', $zero->multi()->select(3)->get($place->key('text'))->select(0)->get($place->key('text'))->exec());
    $three->watch($place->key('text'));
    $zero->set($place->key('text'), 'zero');
    $log->record('another key in 0', $three->multi()->get($place->key('text'))->exec());
    $log->record('no such database', told($zero, fn () => $zero->select(99)));
}

function keyspace_events(Place $place, Log $log): void
{
    $redis = $place->connect();
    $redis->config('SET', 'notify-keyspace-events', 'KEA');
    $subscriber = new Worker(function () use ($place) {
        $heard = [];
        $place->psubscribe(["__keyspace@0__:{$place->key('*')}"], function (Redis $redis, string $pattern, string $channel, string $event) use (&$heard, $place) {
            $heard[] = "$channel $event";
            return !str_ends_with($channel, $place->key('end'));
        });
        return array_values(array_filter($heard, fn ($event) => !str_contains($event, 'probe')));
    });
    until('it is subscribed', fn () => $redis->publish("__keyspace@0__:{$place->key('probe')}", 'probe') > 0);
    $redis->set($place->key('a'), '1');
    $redis->multi()->incr($place->key('a'))->expire($place->key('a'), 100)->exec();
    $redis->set($place->key('brief'), 'v', ['px' => 10]);
    until('it has expired', fn () => !$redis->exists($place->key('brief')));
    $redis->set($place->key('end'), 'v');
    $log->record('heard', $subscriber->result());
    $redis->config('SET', 'notify-keyspace-events', '');
}

function the_connection(Place $place, Log $log): void
{
    $redis = $place->connect();
    $log->record('name', [$redis->client('setname', 'a-name'), $redis->client('getname')]);
    $redis->set($place->key('text'), 'v');
    $log->record('wait', $redis->wait(0, 10));
    $names = fn () => array_column($redis->client('list'), 'name');
    $log->record('it is listed', in_array('a-name', $names()));
    $waiting = new Worker(function () use ($place) {
        $redis = $place->connect();
        $redis->set($place->key('id'), $redis->rawCommand('CLIENT', 'ID'));
        return [$redis->blPop([$place->key('list')], 0), $redis->get($place->key('text'))];
    });
    $place->wait_until_blocked($redis, 1);
    $log->record('unblocked', $redis->rawCommand('CLIENT', 'UNBLOCK', $redis->get($place->key('id'))));
    $log->record('it got', $waiting->result());
    $log->record('scan', (function () use ($redis, $place) {
        $redis->setOption(Redis::OPT_SCAN, Redis::SCAN_RETRY);
        [$found, $cursor] = [[], null];
        while ($page = $redis->scan($cursor, $place->key('*'))) {
            array_push($found, ...$page);
        }
        sort($found);
        return $found;
    })());
}

compare([
    'transactions' => transactions(...),
    'large transactions' => large_transactions(...),
    'consistency' => consistency(...),
    'watching' => watching(...),
    'an optimistic counter' => optimistic_counter(...),
    'channels' => channels(...),
    'patterns' => patterns(...),
    'a chat room' => chat_room(...),
    'blocking' => blocking(...),
    'consumers' => consumers(...),
    'gone while waiting' => gone_while_waiting(...),
    'streams' => streams(...),
    'scripts' => scripts(...),
    'sessions' => sessions(...),
    'options' => options(...),
    'persistent connections' => persistent_connections(...),
    'databases' => databases(...),
    'keyspace events' => keyspace_events(...),
    'the connection' => the_connection(...),
]);
