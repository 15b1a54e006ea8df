"""What Redis does in one go: `core.quota.Use` in Lua, by Redis's own clock.

A record is made under a name (`made`). Who asks says what the record was called when it last saw it, and what it
believes has been used: where the record is another one, as Redis lost its memory or the two lost sight of each other,
the greater of both counts. So no supervisor gives more than it would have given alone.
"""

from __future__ import annotations

_ADVANCE = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local amount, period = tonumber(ARGV[1]), tonumber(ARGV[2])
local most_tokens, window_length = tonumber(ARGV[3]), tonumber(ARGV[4])
local stored = redis.call('HMGET', KEYS[1], 'spent', 'at', 'window', 'tokens', 'made')
local spent, at = tonumber(stored[1] or 0), tonumber(stored[2] or now)
local window, tokens, made = tonumber(stored[3] or 0), tonumber(stored[4] or 0), stored[5]
if amount > 0 then
  if now > at then spent = math.max(0, spent - (now - at) * amount / period) end
  spent = math.min(spent, amount)
end
if most_tokens > 0 then
  local begins = now - math.fmod(now, window_length)
  if begins > window then
    window, tokens = begins, 0
  elseif now >= window or now < window - window_length then
    window = begins
  end
end
if made ~= ARGV[5] then
  if amount > 0 then spent = math.max(spent, math.min(tonumber(ARGV[7]), amount)) end
  if tonumber(ARGV[8]) >= window then tokens = math.max(tokens, tonumber(ARGV[9])) end
end
made = made or ARGV[6]
local function exact(number) return string.format('%.17g', number) end
local function keep()
  local whole = 0
  if amount > 0 then whole = spent * period / amount end
  if tokens > 0 and most_tokens > 0 then whole = math.max(whole, window + window_length - now) end
  redis.call('HSET', KEYS[1], 'spent', exact(spent), 'at', exact(now), 'window', exact(window),
    'tokens', exact(tokens), 'made', made)
  redis.call('PEXPIRE', KEYS[1], math.ceil(whole * 1000) + 1000)
end
"""
"""KEYS[1]: the record. ARGV: 1-4 amounts (0: no limit) and periods in seconds of requests and tokens; 5 the record's
name when last seen, 6 its name if it is made now; 7-9 what the supervisor believes: spent, window, tokens."""

TAKE = (
    _ADVANCE
    + """
local most, lease, lease_length = tonumber(ARGV[11]), ARGV[12], tonumber(ARGV[13])
local exceeded, wait = '', 0
if amount > 0 and spent + 1 > amount then
  exceeded, wait = 'requests', (spent + 1 - amount) * period / amount
end
if most_tokens > 0 and tokens >= most_tokens and window + window_length - now > wait then
  exceeded, wait = 'tokens', window + window_length - now
end
if most > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  local working = math.max(redis.call('ZCARD', KEYS[2]), tonumber(ARGV[10]))
  if working >= most and wait < tonumber(ARGV[14]) then exceeded, wait = 'concurrent', tonumber(ARGV[14]) end
end
if exceeded == '' then
  if amount > 0 then spent = spent + 1 end
  if most > 0 then
    redis.call('ZADD', KEYS[2], exact(now + lease_length), lease)
    redis.call('PEXPIRE', KEYS[2], math.ceil(lease_length * 1000))
  end
end
keep()
return {exceeded, exact(wait), exact(spent), exact(now), exact(window), exact(tokens), made}
"""
)
"""KEYS[2]: the leases of requests at work, by when they end. ARGV: 10 how many the supervisor believes to be at work,
11 how many may be (0: no limit), 12-13 the lease and its length, 14 when to try again after too many at once."""

CHARGE = _ADVANCE + "tokens = tokens + tonumber(ARGV[10]) keep() return made"
"""ARGV[10]: the tokens."""

REFRESH = """
local time = redis.call('TIME')
local ends = string.format('%.17g', time[1] + time[2] / 1000000 + tonumber(ARGV[1]))
for each = 2, #ARGV do redis.call('ZADD', KEYS[1], ends, ARGV[each]) end
redis.call('PEXPIRE', KEYS[1], math.ceil(tonumber(ARGV[1]) * 1000))
"""
"""KEYS[1]: the leases. ARGV: 1 their length, then the leases that go on."""
