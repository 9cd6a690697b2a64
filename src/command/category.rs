//! Which commands belong to which ACL category, such as `@dangerous`.
//!
//! The lists are what `ACL CAT` of redis-server 6.2 and 7.0 and valkey-server 9.1 gives, put together; where only 6.2 has
//! a whole container (`CLIENT`) and the others its subcommands, it is these. A test holds them against the servers. What none of
//! those servers has, such as commands of modules, belongs where its kind puts it. `@fast` and `@slow` are not here: what is
//! fast is no reason to deny it.
//!
//! Source: <https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/#command-categories>

use std::collections::HashSet;
use std::sync::LazyLock;

use super::table::{Command, Kind};

/// The category of that name, without its `@`, in any case; none if there is no such category.
#[must_use]
pub fn find(name: &str) -> Option<Category> {
    CATEGORIES.iter().position(|(known, _)| known.eq_ignore_ascii_case(name)).map(Category)
}

/// The names of all categories.
pub fn names() -> impl Iterator<Item = &'static str> {
    CATEGORIES.iter().map(|(name, _)| *name)
}

/// One of the categories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Category(usize);

impl Category {
    /// Those of its members that servers list.
    pub fn listed(self) -> impl Iterator<Item = &'static str> {
        CATEGORIES.get(self.0).into_iter().flat_map(|(_, members)| members.split_ascii_whitespace())
    }

    /// Whether a command of the table belongs to it.
    #[must_use]
    pub fn has(self, command: &Command) -> bool {
        if self.listed().any(|member| member == command.name) {
            return true;
        }
        let name = CATEGORIES.get(self.0).map_or("", |(name, _)| name);
        !LISTED.contains(command.name) && of_kind(command.kind).contains(&name)
    }
}

/// What some category lists.
static LISTED: LazyLock<HashSet<&'static str>> =
    LazyLock::new(|| CATEGORIES.iter().flat_map(|(_, members)| members.split_ascii_whitespace()).collect());

/// Where a command belongs of which only the kind is known.
fn of_kind(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Admin => &["admin", "dangerous"],
        Kind::Blocking => &["blocking", "write"],
        Kind::Connection => &["connection"],
        Kind::PubSub => &["pubsub"],
        Kind::Read => &["read"],
        Kind::Script => &["scripting"],
        Kind::Transaction => &["transaction"],
        Kind::Write => &["write"],
    }
}

/// The categories and their members; a subcommand is written after its container and a bar.
const CATEGORIES: &[(&str, &str)] = &[
    (
        "admin",
        "acl|deluser acl|dryrun acl|getuser acl|list acl|load acl|log acl|save acl|setuser acl|users bgrewriteaof \
         bgsave client|kill client|list client|no-evict client|pause client|unblock client|unpause cluster|addslots \
         cluster|addslotsrange cluster|bumpepoch cluster|cancelslotmigrations cluster|count-failure-reports \
         cluster|delslots cluster|delslotsrange cluster|failover cluster|flushslot cluster|flushslots cluster|forget \
         cluster|getslotmigrations cluster|meet cluster|migrateslots cluster|replicas cluster|replicate cluster|reset \
         cluster|saveconfig cluster|set-config-epoch cluster|setslot cluster|slaves cluster|syncslots commandlog|get \
         commandlog|len commandlog|reset config|get config|resetstat config|rewrite config|set debug failover \
         lastsave latency|doctor latency|graph latency|histogram latency|history latency|latest latency|reset \
         module|list module|load module|loadex module|unload monitor pfdebug pfselftest psync replconf replicaof role \
         save shutdown slaveof slowlog|get slowlog|len slowlog|reset sync",
    ),
    ("bitmap", "bitcount bitfield bitfield_ro bitop bitpos getbit setbit"),
    ("blocking", "blmove blmpop blpop brpop brpoplpush bzmpop bzpopmax bzpopmin wait waitaof xread xreadgroup"),
    (
        "connection",
        "asking auth client|caching client|capa client|getname client|getredir client|help client|id \
         client|import-source client|info client|kill client|list client|no-evict client|no-touch client|pause \
         client|reply client|setinfo client|setname client|tracking client|trackinginfo client|unblock client|unpause \
         command command|count command|docs command|getkeys command|getkeysandflags command|help command|info \
         command|list echo hello ping quit readonly readwrite reset select wait waitaof",
    ),
    (
        "dangerous",
        "acl|deluser acl|dryrun acl|getuser acl|list acl|load acl|log acl|save acl|setuser acl|users bgrewriteaof \
         bgsave client|kill client|list client|no-evict client|pause client|unblock client|unpause cluster|addslots \
         cluster|addslotsrange cluster|bumpepoch cluster|cancelslotmigrations cluster|count-failure-reports \
         cluster|delslots cluster|delslotsrange cluster|failover cluster|flushslot cluster|flushslots cluster|forget \
         cluster|getslotmigrations cluster|meet cluster|migrateslots cluster|replicas cluster|replicate cluster|reset \
         cluster|saveconfig cluster|set-config-epoch cluster|setslot cluster|slaves cluster|syncslots commandlog|get \
         commandlog|len commandlog|reset config|get config|resetstat config|rewrite config|set debug failover \
         flushall flushdb info keys lastsave latency|doctor latency|graph latency|histogram latency|history \
         latency|latest latency|reset migrate module|list module|load module|loadex module|unload monitor pfdebug \
         pfselftest psync replconf replicaof restore restore-asking role save shutdown slaveof slowlog|get \
         slowlog|len slowlog|reset sort sort_ro swapdb sync",
    ),
    (
        "geo",
        "geoadd geodist geohash geopos georadius georadius_ro georadiusbymember georadiusbymember_ro geosearch \
         geosearchstore",
    ),
    (
        "hash",
        "hdel hexists hexpire hexpireat hexpiretime hget hgetall hgetdel hgetex hincrby hincrbyfloat hkeys hlen hmget \
         hmset hpersist hpexpire hpexpireat hpexpiretime hpttl hrandfield hscan hset hsetex hsetnx hstrlen httl hvals",
    ),
    ("hyperloglog", "pfadd pfcount pfdebug pfmerge pfselftest"),
    (
        "keyspace",
        "asking clusterscan cluster|flushslot copy dbsize del dump exists expire expireat expiretime flushall flushdb \
         keys migrate move object|encoding object|freq object|help object|idletime object|refcount persist pexpire \
         pexpireat pexpiretime pttl randomkey readonly readwrite rename renamenx restore restore-asking scan select \
         swapdb touch ttl type unlink wait",
    ),
    (
        "list",
        "blmove blmpop blpop brpop brpoplpush lindex linsert llen lmove lmpop lpop lpos lpush lpushx lrange lrem lset \
         ltrim rpop rpoplpush rpush rpushx sort sort_ro",
    ),
    (
        "pubsub",
        "psubscribe publish pubsub|channels pubsub|numpat pubsub|numsub pubsub|shardchannels pubsub|shardnumsub \
         punsubscribe spublish ssubscribe subscribe sunsubscribe unsubscribe",
    ),
    (
        "read",
        "bitcount bitfield_ro bitpos clusterscan dbsize dump exists expiretime geodist geohash geopos georadius_ro \
         georadiusbymember_ro geosearch get getbit getrange hexists hexpiretime hget hgetall hkeys hlen hmget host: \
         hpexpiretime hpttl hrandfield hscan hstrlen httl hvals keys lcs lindex llen lolwut lpos lrange memory|usage \
         mget object|encoding object|freq object|idletime object|refcount pexpiretime pfcount post pttl randomkey \
         scan scard sdiff sinter sintercard sismember smembers smismember sort_ro srandmember sscan stralgo strlen \
         substr sunion touch ttl type xinfo|consumers xinfo|groups xinfo|stream xlen xpending xrange xread xrevrange \
         zcard zcount zdiff zinter zintercard zlexcount zmscore zrandmember zrange zrangebylex zrangebyscore zrank \
         zrevrange zrevrangebylex zrevrangebyscore zrevrank zscan zscore zunion",
    ),
    (
        "scripting",
        "eval eval_ro evalsha evalsha_ro fcall fcall_ro function|delete function|dump function|flush function|help \
         function|kill function|list function|load function|restore function|stats script|debug script|exists \
         script|flush script|help script|kill script|load script|show",
    ),
    (
        "set",
        "sadd scard sdiff sdiffstore sinter sintercard sinterstore sismember smembers smismember smove sort sort_ro \
         spop srandmember srem sscan sunion sunionstore",
    ),
    (
        "sortedset",
        "bzmpop bzpopmax bzpopmin sort sort_ro zadd zcard zcount zdiff zdiffstore zincrby zinter zintercard \
         zinterstore zlexcount zmpop zmscore zpopmax zpopmin zrandmember zrange zrangebylex zrangebyscore zrangestore \
         zrank zrem zremrangebylex zremrangebyrank zremrangebyscore zrevrange zrevrangebylex zrevrangebyscore \
         zrevrank zscan zscore zunion zunionstore",
    ),
    (
        "stream",
        "xack xadd xautoclaim xclaim xdel xgroup|create xgroup|createconsumer xgroup|delconsumer xgroup|destroy \
         xgroup|help xgroup|setid xinfo|consumers xinfo|groups xinfo|help xinfo|stream xlen xpending xrange xread \
         xreadgroup xrevrange xsetid xtrim",
    ),
    (
        "string",
        "append decr decrby delifeq get getdel getex getrange getset incr incrby incrbyfloat lcs mget mset msetex \
         msetnx psetex set setex setnx setrange stralgo strlen substr",
    ),
    ("transaction", "discard exec multi unwatch watch"),
    (
        "write",
        "append bitfield bitop blmove blmpop blpop brpop brpoplpush bzmpop bzpopmax bzpopmin cluster|flushslot copy \
         decr decrby del delifeq expire expireat flushall flushdb function|delete function|flush function|load \
         function|restore geoadd georadius georadiusbymember geosearchstore getdel getex getset hdel hexpire \
         hexpireat hgetdel hgetex hincrby hincrbyfloat hmset hpersist hpexpire hpexpireat hset hsetex hsetnx incr \
         incrby incrbyfloat linsert lmove lmpop lpop lpush lpushx lrem lset ltrim migrate move mset msetex msetnx \
         persist pexpire pexpireat pfadd pfdebug pfmerge psetex rename renamenx restore restore-asking rpop rpoplpush \
         rpush rpushx sadd sdiffstore set setbit setex setnx setrange sinterstore smove sort spop srem sunionstore \
         swapdb unlink xack xadd xautoclaim xclaim xdel xgroup|create xgroup|createconsumer xgroup|delconsumer \
         xgroup|destroy xgroup|setid xreadgroup xsetid xtrim zadd zdiffstore zincrby zinterstore zmpop zpopmax \
         zpopmin zrangestore zrem zremrangebylex zremrangebyrank zremrangebyscore zunionstore",
    ),
];
