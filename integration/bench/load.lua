-- wrk's side of the bench: prints what it measured as JSON, and for the polling workload makes each request the next one of
-- some users, each with a cookie and a bearer token of its own, as a browser would send it.
--
-- Argument after wrk's `--`: how many users are polling; 0 sends the request of wrk's own options.

local users = 0
local heads = {}
local sent = 0

local BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
local HEX = "0123456789abcdef"

local function text(alphabet, length)
  local characters = {}
  for i = 1, length do
    local at = math.random(#alphabet)
    characters[i] = alphabet:sub(at, at)
  end
  return table.concat(characters)
end

local function uuid()
  return string.format("%08x-%04x-4%03x-%04x-%04x%08x", math.random(0, 0x7fffffff), math.random(0, 0xffff),
    math.random(0, 0xfff), math.random(0x8000, 0xbfff), math.random(0, 0xffff), math.random(0, 0x7fffffff))
end

-- About 600 bytes of cookie and 800 of token: a session, a few analytics cookies, and a signed JWT.
local function user()
  local cookie = "session=" .. text(BASE64, 344) .. "; csrftoken=" .. text(BASE64, 64)
    .. "; _ga=GA1.2." .. math.random(100000000, 999999999) .. ".1716889244; _ga_K5XJ2=GS1.1." .. text(HEX, 32)
    .. "; locale=en-GB; theme=dark; consent=" .. text(BASE64, 60)
  local token = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9." .. text(BASE64, 420) .. "." .. text(BASE64, 342)
  return table.concat({
    "GET /poll HTTP/1.1",
    "host: app.example",
    "user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "accept: application/json",
    "accept-encoding: gzip, deflate, br, zstd",
    "accept-language: en-GB,en;q=0.9,de;q=0.8",
    "authorization: Bearer " .. token,
    "cookie: " .. cookie,
    "if-none-match: \"5f-" .. text(HEX, 12) .. "\"",
    "referer: https://app.example/dashboard",
    "sec-fetch-dest: empty",
    "sec-fetch-mode: cors",
    "sec-fetch-site: same-origin",
    "x-request-id: ",
  }, "\r\n")
end

function init(arguments)
  users = tonumber(arguments[1])
  if users > 0 then
    -- The same users in every run, other request ids.
    math.randomseed(20)
    for i = 1, users do heads[i] = user() end
    math.randomseed(os.time())
  else
    heads[1] = wrk.format()
  end
end

function request()
  if users == 0 then return heads[1] end
  sent = sent + 1
  return heads[sent % users + 1] .. uuid() .. "\r\n\r\n"
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"seconds":%.6f,"p50_ms":%.4f,"p99_ms":%.4f,"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
