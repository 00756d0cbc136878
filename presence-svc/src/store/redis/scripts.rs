//! What is done in Redis itself: each script is atomic, uses keys of one partition, and does no more work than its arguments are long
//! or its limits say.
//!
//! | key | what |
//! | --- | --- |
//! | `leases` | hash: gateway to `number:report:begun:until` |
//! | `users` | hash: user to `version:value` |
//! | `due` | sorted set: users by when they are looked at again |
//! | `at` | sorted set, all scores 0: `gateway:number u user` and `gateway:number c channel`, what was written under which lease |
//! | `marks` | set: the leases that `at` names |
//! | `untold` | sorted set: news by when they were written |
//! | `members:CHANNEL` | hash: connection to `gateway:number:length of user:user value` |
//! | `users-of:CHANNEL`, `leases-of:CHANNEL` | hashes: how many connections each has |
//!
//! Needs Redis 5 or newer.

use redis::Script;

/// Begins each script: the time in milliseconds, leases, and channels.
const COMMON: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- number, report, begun and until of a gateway's lease that is in force; nothing where there is none
local function lease_of(gateway)
  local value = redis.call('HGET', KEYS[1], gateway)
  if not value then return nil end
  local number, report, begun, ends = string.match(value, '^(%d+):(%d+):(%d+):(%d+)$')
  if tonumber(ends) <= now then
    redis.call('HDEL', KEYS[1], gateway)
    return nil
  end
  return tonumber(number), tonumber(report), tonumber(begun), tonumber(ends)
end

local function is_held(gateway, number, report)
  local held, last = lease_of(gateway)
  return held == number and last <= report
end

local function is_over(gateway, number, anew)
  local held, _, begun = lease_of(gateway)
  return held == nil or (held ~= number and begun + anew <= now)
end
";

/// KEYS: leases. ARGV: gateway, number, report, begins, lasts. Returns 1 where it holds.
const HOLD: &str = "
local gateway, number, report = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local held, last, begun = lease_of(gateway)
local begins = ARGV[4] == '1'
local holds
if held == number then
  holds = last <= report
else
  holds = begins and (held == nil or held < number)
  begun = now
end
if not holds then return 0 end
redis.call('HSET', KEYS[1], gateway,
  string.format('%.0f:%.0f:%.0f:%.0f', number, report, begun, now + tonumber(ARGV[5])))
return 1
";

/// KEYS: leases. ARGV: gateway, number, report.
const RELEASE: &str = "
if is_held(ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])) then
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return 1
";

/// KEYS: leases, users. ARGV: users. Returns the time, the leases in force, and the users' values.
const LOAD: &str = "
local leases = {}
for _, gateway in ipairs(redis.call('HKEYS', KEYS[1])) do
  local number = lease_of(gateway)
  if number then leases[#leases + 1] = string.format('%s:%.0f', gateway, number) end
end
local values = {}
for i, user in ipairs(ARGV) do
  values[i] = redis.call('HGET', KEYS[2], user)
end
return {now, leases, values}
";

/// KEYS: leases, users, due, at, marks, untold. ARGV: gateway (or nothing), number, report; then of each user: user, expected version,
/// value, due, news, how many leases she is not under any more, how many she is under, these. Returns 1 or 0 for each; nothing where
/// the lease does not hold.
const SAVE: &str = "
if ARGV[1] ~= '' and not is_held(ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])) then
  return false
end
local done = {}
local i = 4
while i <= #ARGV do
  local user, expected, value, due, news = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local gone, here = tonumber(ARGV[i + 5]), tonumber(ARGV[i + 6])
  i = i + 7
  local stored = redis.call('HGET', KEYS[2], user)
  local version = stored and string.match(stored, '^(%d+):') or ''
  if version == expected then
    if value == '' then
      redis.call('HDEL', KEYS[2], user)
    else
      redis.call('HSET', KEYS[2], user, value)
    end
    if due == '' then
      redis.call('ZREM', KEYS[3], user)
    else
      redis.call('ZADD', KEYS[3], due, user)
    end
    for k = i, i + gone - 1 do
      redis.call('ZREM', KEYS[4], ARGV[k] .. ' u ' .. user)
    end
    for k = i + gone, i + gone + here - 1 do
      redis.call('ZADD', KEYS[4], 0, ARGV[k] .. ' u ' .. user)
      redis.call('SADD', KEYS[5], ARGV[k])
    end
    if news ~= '' then redis.call('ZADD', KEYS[6], now, news) end
    done[#done + 1] = 1
  else
    done[#done + 1] = 0
  end
  i = i + gone + here
end
return done
";

/// KEYS: leases, due, at, marks, untold. ARGV: limit, untold after, reported anew. Returns users that are due; kind, lease and name of
/// what was written under leases that are over; untold news.
const LOOK: &str = "
local limit = tonumber(ARGV[1])
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, limit)
local over = {}
for _, mark in ipairs(redis.call('SMEMBERS', KEYS[4])) do
  local gateway, number = string.match(mark, '^(%x+):(%d+)$')
  if #over < limit and is_over(gateway, tonumber(number), tonumber(ARGV[3])) then
    local found = redis.call('ZRANGEBYLEX', KEYS[3], '[' .. mark .. ' ', '(' .. mark .. '!', 'LIMIT', 0, limit - #over)
    if #found == 0 then redis.call('SREM', KEYS[4], mark) end
    for _, entry in ipairs(found) do
      over[#over + 1] = {string.sub(entry, #mark + 2, #mark + 2), mark, string.sub(entry, #mark + 4)}
    end
  end
end
local untold = redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', now - tonumber(ARGV[2]), 'LIMIT', 0, limit)
return {due, over, untold}
";

/// Counts in the hashes of a channel. KEYS: leases, marks, members, users, leases of it, at.
const CHANNEL: &str = "
local function count(key, field, by)
  local left = redis.call('HINCRBY', key, field, by)
  if left <= 0 then redis.call('HDEL', key, field) end
  return left
end

local function parsed(value)
  local lease, length, rest = string.match(value, '^(%x+:%d+):(%d+):(.*)$')
  length = tonumber(length)
  return lease, string.sub(rest, 1, length), string.sub(rest, length + 1)
end

local function take_out(value, channel)
  local lease, user, member = parsed(value)
  count(KEYS[4], user, -1)
  if count(KEYS[5], lease, -1) <= 0 then redis.call('ZREM', KEYS[6], lease .. ' c ' .. channel) end
  return member
end

local function counted(before, joined, left)
  return {before, redis.call('HLEN', KEYS[3]), redis.call('HLEN', KEYS[4]), joined, left, redis.call('HKEYS', KEYS[5])}
end
";

/// KEYS: as above. ARGV: gateway, number, report, channel, how many left, these; then client, value and user of each that joined.
const MOVES: &str = "
if not is_held(ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])) then
  return false
end
local lease, channel = ARGV[1] .. ':' .. ARGV[2], ARGV[4]
local before = redis.call('HLEN', KEYS[3])
local joined, left = {}, {}
local gone = tonumber(ARGV[5])
for i = 6, 5 + gone do
  local value = redis.call('HGET', KEYS[3], ARGV[i])
  if value then
    redis.call('HDEL', KEYS[3], ARGV[i])
    left[#left + 1] = take_out(value, channel)
  end
end
for i = 6 + gone, #ARGV, 3 do
  local was = redis.call('HGET', KEYS[3], ARGV[i])
  redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
  count(KEYS[4], ARGV[i + 2], 1)
  count(KEYS[5], lease, 1)
  redis.call('ZADD', KEYS[6], 0, lease .. ' c ' .. channel)
  redis.call('SADD', KEYS[2], lease)
  if was then
    take_out(was, channel)
  else
    local _, _, member = parsed(ARGV[i + 1])
    joined[#joined + 1] = member
  end
end
return counted(before, joined, left)
";

/// KEYS: as above. ARGV: gateway, number, channel, limit, reported anew. Also whether there are more.
const CLEAR: &str = "
local lease, channel, limit = ARGV[1] .. ':' .. ARGV[2], ARGV[3], tonumber(ARGV[4])
local before = redis.call('HLEN', KEYS[3])
local left, more = {}, 0
if is_over(ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[5])) then
  local all = redis.call('HGETALL', KEYS[3])
  for i = 1, #all, 2 do
    if string.match(all[i + 1], '^(%x+:%d+):') == lease then
      if #left >= limit then
        more = 1
        break
      end
      redis.call('HDEL', KEYS[3], all[i])
      left[#left + 1] = take_out(all[i + 1], channel)
    end
  end
  if more == 0 then redis.call('ZREM', KEYS[6], lease .. ' c ' .. channel) end
end
return {counted(before, {}, left), more}
";

/// KEYS: leases, marks, members, users, leases of the channel. ARGV: how many members are told. Returns members, connections, users.
const IN_CHANNEL: &str = "
local clients = redis.call('HLEN', KEYS[3])
if clients > tonumber(ARGV[1]) then
  return {{}, clients, redis.call('HLEN', KEYS[4])}
end
local held = {}
for _, lease in ipairs(redis.call('HKEYS', KEYS[5])) do
  local gateway, number = string.match(lease, '^(%x+):(%d+)$')
  held[lease] = lease_of(gateway) == tonumber(number)
end
local members, users, seen = {}, 0, {}
for _, value in ipairs(redis.call('HVALS', KEYS[3])) do
  local lease, user, member = parsed(value)
  if held[lease] then
    members[#members + 1] = member
    if not seen[user] then
      seen[user] = true
      users = users + 1
    end
  end
end
return {members, #members, users}
";

/// All of them, as they are sent.
pub(super) struct Scripts {
    pub(super) hold: Script,
    pub(super) release: Script,
    pub(super) load: Script,
    pub(super) save: Script,
    pub(super) look: Script,
    pub(super) moves: Script,
    pub(super) clear: Script,
    pub(super) in_channel: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let script = |parts: &[&str]| Script::new(&format!("{COMMON}{}", parts.concat()));
        Self {
            hold: script(&[HOLD]),
            release: script(&[RELEASE]),
            load: script(&[LOAD]),
            save: script(&[SAVE]),
            look: script(&[LOOK]),
            moves: script(&[CHANNEL, MOVES]),
            clear: script(&[CHANNEL, CLEAR]),
            in_channel: script(&[CHANNEL, IN_CHANNEL]),
        }
    }
}
