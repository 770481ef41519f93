-- The load for wrk: an envelope of a Sentry SDK from the file named by BODY, each with an id of its own.
local NO_ID = string.rep("0", 32)
local parts, count = {}, 0

function init()
  for part in (assert(io.open(os.getenv("BODY"), "rb")):read("*a") .. NO_ID):gmatch("(.-)" .. NO_ID) do
    parts[#parts + 1] = part
  end
  -- Two threads, or two runs, never get the same.
  prefix = io.open("/dev/urandom", "rb"):read(8):gsub(".", function(byte) return string.format("%02x", byte:byte()) end)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/x-sentry-envelope"
end

function request()
  count = count + 1
  return wrk.format(nil, nil, nil, table.concat(parts, prefix .. string.format("%016x", count)))
end
