//! What is done to several values at once, in Redis itself: each script is atomic, touches the keys of one user or one
//! gateway alone, and does no more work than its arguments are long (and drops a hundred old entries).
//!
//! Times are Redis's own: gateways' clocks may differ. Needs Redis 5 or newer.

use redis::Script;

/// Begins each script: the time, in milliseconds.
const NOW: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
";

/// Drops the entries of KEYS[1] that end, by KEYS[2], before `past`.
const SWEEP: &str = "
local function sweep(past)
  local old = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', past, 'LIMIT', 0, 100)
  if #old > 0 then
    redis.call('HDEL', KEYS[1], unpack(old))
    redis.call('ZREM', KEYS[2], unpack(old))
  end
end
";

/// KEYS: sessions, seen. ARGV: how long they are remembered (ms), how many there may be, how many ended, their
/// clients; then client and value of each that is there. Returns how many did not fit.
const ANNOUNCE: &str = "
local lasts = tonumber(ARGV[1])
sweep(now - lasts)
local ended = tonumber(ARGV[3])
for i = 4, 3 + ended do
  redis.call('HDEL', KEYS[1], ARGV[i])
  redis.call('ZREM', KEYS[2], ARGV[i])
end
local left_out = 0
local room = tonumber(ARGV[2]) - redis.call('ZCARD', KEYS[2])
for i = 4 + ended, #ARGV, 2 do
  local known = redis.call('ZSCORE', KEYS[2], ARGV[i])
  if not known and room <= 0 then
    left_out = left_out + 1
  else
    if not known then room = room - 1 end
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    redis.call('ZADD', KEYS[2], now, ARGV[i])
  end
end
redis.call('PEXPIRE', KEYS[1], lasts)
redis.call('PEXPIRE', KEYS[2], lasts)
return left_out
";

/// KEYS: sessions, seen. ARGV: how long they are remembered (ms), how many there may be, client and value of the new
/// one; then client and value of those that are known to be no more. Returns 1 where it fits.
const ADMIT: &str = "
local lasts = tonumber(ARGV[1])
sweep(now - lasts)
for i = 5, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    redis.call('HDEL', KEYS[1], ARGV[i])
    redis.call('ZREM', KEYS[2], ARGV[i])
  end
end
local known = redis.call('ZSCORE', KEYS[2], ARGV[3])
if not known and redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
redis.call('ZADD', KEYS[2], now, ARGV[3])
redis.call('PEXPIRE', KEYS[1], lasts)
redis.call('PEXPIRE', KEYS[2], lasts)
return 1
";

/// KEYS: lease, users. ARGV: the lease, how long it lasts (ms).
const BEGIN: &str = "
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('UNLINK', KEYS[2])
return 1
";

/// KEYS: lease, users. ARGV: the lease, how long it lasts (ms). Returns 1 where it is in force.
const RENEW: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
";

/// KEYS: lease, users. ARGV: the lease.
const RELEASE: &str = "
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('UNLINK', KEYS[1], KEYS[2])
end
return 1
";

/// KEYS: lease, users. ARGV: the lease, how many users left, these; then those who are there. Returns 1 where the
/// lease is in force.
const USERS: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
local gone = tonumber(ARGV[2])
for i = 3, 2 + gone do
  redis.call('SREM', KEYS[2], ARGV[i])
end
for i = 3 + gone, #ARGV do
  redis.call('SADD', KEYS[2], ARGV[i])
end
redis.call('PEXPIRE', KEYS[2], redis.call('PTTL', KEYS[1]))
return 1
";

/// KEYS: kept, until. ARGV: how many there may be, how long it is kept (ms), channel, value. Returns 1 where it fits.
const KEEP: &str = "
sweep(now)
if not redis.call('ZSCORE', KEYS[2], ARGV[3]) and redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[1]) then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
redis.call('ZADD', KEYS[2], now + tonumber(ARGV[2]), ARGV[3])
local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')[2]
redis.call('PEXPIREAT', KEYS[1], last)
redis.call('PEXPIREAT', KEYS[2], last)
return 1
";

/// KEYS: kept, until. ARGV: channel. Returns 1 where it was kept.
const FORGET: &str = "
local ends = redis.call('ZSCORE', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return (ends and tonumber(ends) > now) and 1 or 0
";

/// KEYS: kept, until. Returns channel, end (ms) and value of each.
const KEPT: &str = "
local found = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. now, '+inf', 'WITHSCORES')
local all = {}
for i = 1, #found, 2 do
  local value = redis.call('HGET', KEYS[1], found[i])
  if value then
    all[#all + 1] = found[i]
    all[#all + 1] = found[i + 1]
    all[#all + 1] = value
  end
end
return all
";

/// All of them, as they are sent.
pub(super) struct Scripts {
    pub(super) announce: Script,
    pub(super) admit: Script,
    pub(super) begin: Script,
    pub(super) renew: Script,
    pub(super) release: Script,
    pub(super) users: Script,
    pub(super) keep: Script,
    pub(super) forget: Script,
    pub(super) kept: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let timed = |parts: &[&str]| Script::new(&format!("{NOW}{}", parts.concat()));
        Self {
            announce: timed(&[SWEEP, ANNOUNCE]),
            admit: timed(&[SWEEP, ADMIT]),
            begin: Script::new(BEGIN),
            renew: Script::new(RENEW),
            release: Script::new(RELEASE),
            users: Script::new(USERS),
            keep: timed(&[SWEEP, KEEP]),
            forget: timed(&[FORGET]),
            kept: timed(&[KEPT]),
        }
    }
}
